"""Mean-ablation influence of every neuron, each with a bound that is proven against the float32 forward pass."""
