"""What every analysis of groups of neurons is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.group import Group
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.evaluation import Evaluation
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Context:
    """One checkpoint as captured, the influence of its neurons, and the groups that were chosen by it."""

    captured: Capture
    """One forward pass over the evaluation text, made with attention if routing is asked for."""
    influence: Influence
    """Of every neuron on every class."""
    evaluation: Evaluation
    """What the run is measured on."""
    halves: np.ndarray
    """int64 (windows,): the half, 0 or 1, that each window belongs to."""
    groups: Mapping[str, Group | Undefined]
    """By name: chosen on each half of the windows, to be measured on the other."""
    options: StepOptions

    @property
    def layer(self) -> int:
        """The final layer, whose MLP neurons are measured."""
        return self.captured.anatomy.layer

    @property
    def clusters(self) -> np.ndarray:
        """int64 (windows,): the independent piece of text that each window is of."""
        return self.evaluation.clusters.index

    @property
    def seed(self) -> int:
        """Seed of every random draw."""
        return self.options.seed

    @property
    def memory_bytes(self) -> int:
        """Memory for arrays beside the model and the capture."""
        return self.options.memory_bytes
