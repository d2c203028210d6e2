"""Names that several rooms share: analyses, token classes, groups of neurons and their nulls, addresses."""

from __future__ import annotations

ANALYSES = ("ablation", "regimes", "dimensionality", "modularity", "routing", "heavytail", "mediation")
"""In the order they run."""
GROUPED = ANALYSES[2:]
"""Those that measure groups of neurons."""
WEIGHTS_ONLY = ("heavytail",)
"""Those that give something from weights alone, with no text and no influence."""
LAYERS = "layers"
"""What rows of metrics/ name as their analysis where layers before the last are measured."""

RARE, COMMON = "rare", "common"
"""Token classes. Neurons are ranked, and groups chosen, by their influence on `rare`."""

PLATEAU, POWER_LAW, DECAY, CENSORED = "plateau", "powerlaw", "decay", "censored"
"""Regimes of a neuron on its class's rank-influence curve."""
TOP, BOOST, SUPPRESS = "top", "boost", "suppress"
"""Groups of neurons beside those of the regimes."""

RANDOM, MATCHED, SELECTED = "random", "matched", "selected"
"""Nulls of a group's statistic."""
PSEUDO_CLASS = "pseudo-class"
"""The null of a class's statistic: as many common positions in the rare class's place."""

HUB_SCHEME = "hf://"
"""What an address of a data set on the Hub begins with."""
CORPORA = ("king-james", "king-james-held-out")
"""Evaluation texts that come with a package."""
PILE = "pile"
"""Reference counts that come with this package: of the Pile, by the tokenizer of Pythia."""
COUNTS = (PILE, "corpus")
"""Reference counts that are named and lie in no file; `corpus` is the evaluation text itself."""
