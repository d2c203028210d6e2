"""The rank–influence curves of all classes, and what the rare one shows beyond common positions (METHODS §3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.contrast import Contrast, contrast_with_pseudo_classes
from rtdyn.analyses.regimes.curve import Curve, curve
from rtdyn.analyses.top import top_size
from rtdyn.names import PLATEAU, RARE
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class CurveEvidence:
    """The curve of every class with its evidence."""

    curves: Mapping[str, Curve]
    """By class."""
    contrast: Contrast | Undefined
    """Of the class `rare` with pseudo-classes of common positions."""


def regimes(result: Influence, evaluation: Evaluation, options: StepOptions) -> CurveEvidence:
    """Curves of the influence on each class, neurons ranked by `rank_by`."""
    members = evaluation.pseudo_classes
    curves = {name: curve(c, options.rank_by, options.seed) for name, c in result.classes.items()}
    if isinstance(members, Undefined):
        return CurveEvidence(curves, members)
    return CurveEvidence(curves, contrast_with_pseudo_classes(result, overlap(members), options.rank_by))


def plateau_candidates(result: Influence, curves: Mapping[str, Curve]) -> Tensor:
    """int64 (k,), ascending: neurons among the most influential on `rare`, or in the plateau of any class's curve."""
    influence = result.classes[RARE].mean_abs
    chosen = torch.zeros_like(influence, dtype=torch.bool)
    chosen[influence.topk(top_size(len(influence))).indices] = True
    for c in curves.values():
        chosen |= torch.from_numpy(c.regimes.label == PLATEAU).to(chosen.device)
    return chosen.nonzero().squeeze(1)
