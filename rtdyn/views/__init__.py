"""Views of a run's store: progress while it grows, Weights & Biases, tables."""
