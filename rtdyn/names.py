"""Names that several rooms share: analyses, token classes, groups of neurons and their nulls, addresses."""

from __future__ import annotations

ANALYSES = ("ablation", "regimes", "dimensionality", "modularity", "routing", "heavytail", "mediation")
"""In the order they run."""
GROUPED = ANALYSES[2:]
"""Those that measure groups of neurons, of the last layer and of those before it."""
BELOW = "_below"
"""What the names of metrics end with that are of heads in the layer below the neurons' own, where both are earlier."""
BY_STRUCTURE = "structural"
"""What a reason begins with where the model's structure leaves nothing to measure, at any step."""
WEIGHTS_ONLY = ("heavytail",)
"""Those that give something from weights alone, with no text and no influence."""
LAYERS = "layers"
"""What rows of metrics/ name as their analysis where layers before the last are measured."""
DOMAINS = "domains"
"""The same of what sets a domain beside the main text."""
LAYER_CURVES = "layer curves"
"""The stage of a step that fits these layers' curves."""
LAYER_GROUPS = "layer groups"
"""The stage of a step that measures these layers' groups."""
LAYER_MEDIATION = "layer mediation"
"""The stage of a step that measures what of these layers' direct effects goes through token frequency."""

RARE, COMMON = "rare", "common"
"""Token classes. Neurons are ranked, and groups chosen, by their influence on `rare`."""


def position_by(class_by: object) -> str:
    """What a position of a class is called, by whose token decides it: a target, or a query."""
    return "query" if class_by == "query" else "target"


SWEEP = ("paper-text", *(f"{RARE}_{percent}={percent}%" for percent in (5, 10, 20, 30, 50)))
"""What `--rare sweep` means: the rare class as ever, 15 %, and further shares of the least frequent types."""

PLATEAU, POWER_LAW, DECAY, CENSORED = "plateau", "powerlaw", "decay", "censored"
"""Segments of a class's rank-influence curve, and CENSORED for neurons that are on none."""
RAISED_TOP, FLATTENING_TOP = "raised top", "flattening top"
"""What the first segment is called by its shape: above the extended power law, or below it. Only groups of neurons that
are stable members of a raised top are called plateau."""
TOP, BOOST, SUPPRESS = "top", "boost", "suppress"
"""Groups of neurons beside those of the regimes."""

RANDOM, MATCHED, SELECTED = "random", "matched", "selected"
"""Nulls of a group's statistic."""
PSEUDO_CLASS = "pseudo-class"
"""The null of a class's statistic: as many common positions in the rare class's place."""

HUB_SCHEME = "hf://"
"""What an address of a data set on the Hub begins with."""
KING_JAMES = "king-james"
CORPORA = (KING_JAMES, "king-james-held-out")
"""Evaluation texts that come with a package."""
PILE = "pile"
"""Reference counts that come with this package: of the Pile, by the tokenizer of Pythia."""
COUNTS = (PILE, "corpus")
"""Reference counts that are named and lie in no file; `corpus` is the evaluation text itself."""
TRACKERS = WANDB, TRACKIO = "wandb", "trackio"
"""Programs that show a run's numbers as they come."""
