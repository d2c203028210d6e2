"""The published claims as data: each with its criteria, regions and margins (METHODS §10)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from rtdyn.names import BELOW, COMMON, LAYERS, MATCHED, PLATEAU, PSEUDO_CLASS, RARE, SELECTED

FINAL, PENULTIMATE = -1, -2
HEADS = {"heads below": BELOW, "own heads": ""}
"""Whose heads are ablated where an earlier layer's neurons are judged, and what the metrics' names end with then."""
Kind = Literal["interval", "difference", "null", "p", "point", "trend", "relative trend"]
"""How a criterion is read. `interval`: the metric's own interval. `difference`: value minus null mean, ±1.96 null sd.
`null`: the value's rank in its null, on the side of the region. `p`: a p-value that is stored as the value. `point`:
the value alone, which can hold support back but not bear a verdict. `trend`: the slope of ln value over ln(step + 1)
with Sen's interval. `relative trend`: the same of ln(value / null mean)."""
Role = Literal["decides", "for support", "for contradiction", "for either", "beside"]
"""Whether a criterion bears the verdict, or has to be supported before the claim is supported or contradicted; what
stands beside decides nothing."""


@dataclass(frozen=True)
class Criterion:
    """A statistic and the region in which the claim holds."""

    statistic: str
    """What is shown of it."""
    analysis: str
    metric: str
    kind: Kind = "interval"
    low: float | None = None
    high: float | None = None
    """The open region (low, high); None is unbounded. For `null`, 0 on one side says which."""
    absence: bool = False
    """Whether the region is an equivalence margin."""
    role: Role = "decides"
    token_class: str | None = RARE
    group: str | None = None
    """`plateau` is replaced by `top`, and the verdict withheld, where the metric is undefined for it."""
    null: str | None = None
    plus: str | None = None
    """A metric that is added to the value; for `point` only."""


@dataclass(frozen=True)
class Claim:
    """A row of the table: what is claimed, where, and by which criteria."""

    name: str
    text: str
    source: str
    criteria: tuple[Criterion, ...]
    """The first is the one shown."""
    layers: tuple[int, ...] = ()
    """Layers that are judged each for itself, −1 the final one; empty where the layer is not a question."""
    earlier_layers: bool = False
    """Whether layers before the last are judged, each for itself, where the run has measured the statistic of them."""
    matrices: tuple[str, ...] = ()
    """Input matrices whose metrics carry their name, judged each for itself where the store has them: a gated MLP's."""
    of_heads: bool = False
    """Whether an earlier layer is judged for each of HEADS, where the store has them."""


def layers_from_end(offsets: tuple[int, ...], final: object) -> list[int | None]:
    """The layers at these offsets, −1 the final one, where there are so many; None alone where no layer is asked.

    final: the index of the final layer; where it is no number, as of weights alone, each layer is None.
    """
    if not offsets or not isinstance(final, int):
        return [None] * max(1, len(offsets))
    return [final + 1 + offset for offset in offsets if final + 1 + offset >= 0]


# fmt: off
_SHAPE = Criterion("largest shape p (half-normal, lognormal, Pareto)", "regimes", "shape_p_value", "p", null="shape")
_RAISED = Criterion("excess of the top, ln units", "regimes", "excess", low=0.0)
# `matched` asks another question, which any model answers alike: are influential neurons unlike neurons as strong?
_NULLS: tuple[tuple[str, Role], ...] = ((SELECTED, "decides"), (MATCHED, "beside"))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "three-regimes-rare", "Rare targets: influence has a plateau above its power law, and a rapid decay",
        "[DS] §4.1", (
            _RAISED,
            replace(_SHAPE, role="for support"),
            Criterion("decay slope + κ", "regimes", "decay_slope", "point", high=0.0, plus="kappa", role="for support"),
        ),
        earlier_layers=True,
    ),
    Claim(
        "plateau-size", "The plateau holds about 1 % of the neurons",
        "[DS] §4.1", (
            # within a factor of 2 of 1 %
            Criterion("plateau, share of neurons", "regimes", "plateau_fraction", low=0.005, high=0.02, absence=True),
            replace(_RAISED, role="for either"),
            replace(_SHAPE, role="for either"),
        ),
        earlier_layers=True,
    ),
    Claim(
        "no-plateau-common", "Common targets: no plateau",
        "[DS] §4.1", (
            # a top raised by under a quarter is none: the factor customary in bioequivalence
            Criterion("excess of the top, ln units", "regimes", "excess", high=math.log(1.25), absence=True,
                      token_class=COMMON),
            replace(_SHAPE, token_class=COMMON, role="for contradiction"),
        ),
        earlier_layers=True,
    ),
    Claim(
        "rare-against-common", "The top is raised for rare targets more than for equally many common ones",
        "[DS] §4.1; METHODS §3(d)",
        (Criterion("excess of the top, none censored, ln units", "regimes", "contrast_excess", "null", low=0.0,
                   null=PSEUDO_CLASS),),
    ),
    Claim(
        "lower-dimensionality", "Plateau neurons act together: fewer effective dimensions than sets selected alike",
        "[DS] §4.2", tuple(
            Criterion("d_eff", "dimensionality", "d_eff", "null", high=0.0, group=PLATEAU, null=null, role=role)
            for null, role in _NULLS
        ),
        earlier_layers=True,
    ),
    Claim(
        "no-modular-cluster", "Plateau neurons form no modular cluster",
        "[DS] §4.3", (
            # a third of the Q = 0.3 from which communities are spoken of (Newman & Girvan 2004)
            *(Criterion("Q at equal edges minus its null's", "modularity", "q_excess", "difference", high=0.1,
                        absence=True, group=PLATEAU, null=null, role=role) for null, role in _NULLS),
            *(Criterion("share of edges inside minus its null's", "modularity", "inside_share", "difference", high=0.1,
                        absence=True, group=PLATEAU, null=null, role=role) for null, role in _NULLS),
        ),
        earlier_layers=True,
    ),
    Claim(
        # the published 0.89 is lowered by the noise of its sample: what it says of the heads is that r is no less
        "attention-alike", "Rare and common targets attend alike: profiles without their noise correlate at r > 0.84",
        "[DS] §4.4", (
            Criterion("Pearson r of profiles without noise", "routing", "profile_r", low=0.84),
            Criterion("Pearson r of profiles as they are", "routing", "profile_r_plain", "null", low=0.84,
                      null=PSEUDO_CLASS, role="beside"),
        ),
        layers=(PENULTIMATE, FINAL),
        earlier_layers=True,
    ),
    Claim(
        "no-gini-difference", "Attention is as concentrated for rare targets as for common ones",
        "[DS] §4.4",
        (Criterion("difference of Gini coefficients", "routing", "gini_difference", low=-0.02, high=0.02, absence=True,
                   null=PSEUDO_CLASS),),
        layers=(PENULTIMATE, FINAL),
        earlier_layers=True,
    ),
    Claim(
        # a fifth of the effect claimed for the whole layer; 0.28–0.34 are sums |Δa|, in units of their own
        "single-head-small", "No single head drives the plateau neurons: ablating it changes them by under 10 %",
        "[DS] §4.4",
        (Criterion("size of the largest effect of a head", "routing", "head_effect_max", low=-0.1, high=0.1,
                   absence=True, group=PLATEAU, null=SELECTED),),
        layers=(PENULTIMATE, FINAL),
        earlier_layers=True,
        of_heads=True,
    ),
    Claim(
        # the published range, and 5 points on either side
        "layer-effect", "Ablating a layer's attention lowers the plateau neurons' activation by 45 to 50 %",
        "[DS] §4.4",
        (Criterion("effect of the layer's heads", "routing", "layer_effect", low=-0.55, high=-0.40, absence=True,
                   group=PLATEAU, null=SELECTED),),
        layers=(PENULTIMATE, FINAL),
        earlier_layers=True,
        of_heads=True,
    ),
    Claim(
        # α moves with n/d, so being under 2 says nothing where sets of the same n, selected alike, are as low
        "heavy-tailed", "Plateau neurons' input weights are heavy-tailed: Hill's α < 2",
        "[DS] §4.5", (
            Criterion("Hill α, upper half", "heavytail", "hill_alpha_half", high=2.0, group=PLATEAU, null=SELECTED),
            Criterion("Hill α against sets of equal size", "heavytail", "hill_alpha_half", "null", high=0.0,
                      group=PLATEAU, null=SELECTED, role="for support"),
        ),
        earlier_layers=True,
        matrices=("gate", "up"),
    ),
    Claim(
        # the plateau's n changes from step to step, and α with it
        "tail-grows", "The plateau's α falls in training",
        "[DS] §4.5", (
            Criterion("slope of ln α", "heavytail", "hill_alpha_half", "trend", high=0.0, group=PLATEAU),
            Criterion("slope of ln(α / mean of selected sets)", "heavytail", "hill_alpha_half", "relative trend",
                      high=0.0, group=PLATEAU, null=SELECTED, role="for support"),
        ),
        earlier_layers=True,
        matrices=("gate", "up"),
    ),
    Claim(
        # more than all earlier layers that were measured have together
        "localised-final",
        "Of what acts on rare targets more than on common ones, the last layer has most, among the layers measured",
        "METHODS §11",
        (Criterion("the last layer's part of rare − common influence", LAYERS, "final_layer_share", low=0.5),),
    ),
)
