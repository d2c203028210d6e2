"""The regimes of the rank-influence curve, and the evidence for them."""
