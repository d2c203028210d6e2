"""The analyses, in the order they run: each a file of its own, each a pure function of the capture."""

ANALYSES = ("ablation", "regimes", "dimensionality", "modularity", "routing", "heavytail", "mediation")
GROUPED = ANALYSES[2:]
"""Those that measure groups of neurons."""
WEIGHTS_ONLY = ("heavytail",)
"""Those that give something from weights alone, with no text and no influence."""
