"""The analyses, in the order they run: each a file of its own, each a pure function of the capture."""

ANALYSES = ("ablation", "regimes")
