"""Mean-ablation influence of every neuron, each with a proven bound."""
