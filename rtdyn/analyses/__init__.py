"""The analyses: pure functions of the capture, in the order weights, influence, groups of neurons."""
