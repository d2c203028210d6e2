"""One suite measured by two designs, ours and the papers': each statistic by both, and the verdicts that turn.

Either run holds the papers' statistics beside ours, so that each row is one statistic and the designs alone differ. The
papers' groups were set by hand to 30 to 50 neurons; here they are `top`, in both designs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from rtdyn.errors import InputError
from rtdyn.intervals import NORMAL_95
from rtdyn.judge.bands import Estimate
from rtdyn.judge.claims import FINAL, PENULTIMATE, layers_from_end
from rtdyn.judge.scorecard import scorecard
from rtdyn.judge.series import NOT_STORED, Selection, one_step
from rtdyn.names import COMMON, PSEUDO_CLASS, RANDOM, RARE, SELECTED, TOP
from rtdyn.parquet import read_parquet
from rtdyn.store.run import Run, done_steps, table_file
from rtdyn.undefined import Undefined

Whose = Literal["papers'", "rtdyn's", "both"]
Kind = Literal["value", "difference", "largest head"]
"""How a statistic is read. `difference`: value minus null mean, ±1.96 null sd. `largest head`: a position's, of all."""


@dataclass(frozen=True)
class Statistic:
    """A number that a claim rests on: the papers' own, or ours of the same."""

    claim: str
    """A name in CLAIMS."""
    text: str
    whose: Whose
    analysis: str
    metric: str
    published: str = ""
    """What the papers give, empty where they give no such number."""
    kind: Kind = "value"
    token_class: str = RARE
    group: str | None = None
    null: str | None = None
    layers: tuple[int, ...] = ()
    """Layers that it is measured at, −1 the final one; empty where the layer is no question."""


_BOTH = (PENULTIMATE, FINAL)
# fmt: off
STATISTICS: tuple[Statistic, ...] = (
    Statistic("three-regimes-rare", "first e^3.5 neurons above one line, ln units", "papers'", "regimes",
              "paper_code_plateau_deviation", "above 0"),
    Statistic("three-regimes-rare", "neurons from e^5.5 on above that line, ln units", "papers'", "regimes",
              "paper_code_decay_deviation", "below 0"),
    Statistic("three-regimes-rare", "excess of the fitted top, ln units", "rtdyn's", "regimes", "excess"),
    Statistic("plateau-size", "fitted plateau, share of neurons", "rtdyn's", "regimes", "plateau_fraction",
              "about 0.01"),
    Statistic("no-plateau-common", "common targets: first e^3.5 neurons above one line, ln units", "papers'", "regimes",
              "paper_code_plateau_deviation", "no plateau", token_class=COMMON),
    Statistic("no-plateau-common", "common targets: excess of the fitted top, ln units", "rtdyn's", "regimes", "excess",
              token_class=COMMON),
    Statistic("lower-dimensionality", "d_eff minus that of random sets", "papers'", "dimensionality", "d_eff",
              "below 0", "difference", group=TOP, null=RANDOM),
    Statistic("lower-dimensionality", "d_eff minus that of sets selected alike", "rtdyn's", "dimensionality", "d_eff",
              kind="difference", group=TOP, null=SELECTED),
    Statistic("no-modular-cluster", "Q, every pair an edge", "papers'", "modularity", "q_paper_code",
              "0.05 to 0.11, of controls 0.04 to 0.09", group=TOP),
    Statistic("no-modular-cluster", "Q at equal edges minus that of sets selected alike", "rtdyn's", "modularity",
              "q_excess", kind="difference", group=TOP, null=SELECTED),
    Statistic("attention-alike", "Pearson r of profiles as they are", "papers'", "routing", "profile_r_plain",
              "about 0.89", null=PSEUDO_CLASS, layers=_BOTH),
    Statistic("attention-alike", "Pearson r of profiles without noise", "rtdyn's", "routing", "profile_r",
              layers=_BOTH),
    Statistic("no-gini-difference", "difference of Gini coefficients", "both", "routing", "gini_difference",
              "no difference", null=PSEUDO_CLASS, layers=_BOTH),
    Statistic("single-head-small", "largest Σ|Δa| of a head, a position", "papers'", "routing", "head_effect_total",
              "0.28 to 0.34", "largest head", group=TOP, layers=_BOTH),
    Statistic("single-head-small", "size of the largest effect of a head", "rtdyn's", "routing", "head_effect_max",
              group=TOP, null=SELECTED, layers=_BOTH),
    Statistic("layer-effect", "effect of the layer's heads", "both", "routing", "layer_effect", "−0.50 to −0.45",
              group=TOP, null=SELECTED, layers=_BOTH),
    Statistic("heavy-tailed", "Hill α, upper tenth", "papers'", "heavytail", "hill_alpha_tenth", "below 2", group=TOP,
              null=SELECTED),
    Statistic("heavy-tailed", "Hill α, upper half", "rtdyn's", "heavytail", "hill_alpha_half", group=TOP,
              null=SELECTED),
)
# fmt: on


@dataclass(frozen=True)
class DesignRow:
    """One statistic by both designs, at one step."""

    statistic: Statistic
    layer: int | None
    matrix: str
    """Input matrix, where the MLP has several; empty else."""
    paper: Estimate | Undefined
    own: Estimate | Undefined

    @property
    def change(self) -> float | None:
        """What our design gives more than the papers'; None where either is no number, or may lie beyond it."""
        if isinstance(self.paper, Undefined) or isinstance(self.own, Undefined):
            return None
        if self.paper.at_edge or self.own.at_edge:
            return None
        return self.own.value - self.paper.value


@dataclass(frozen=True)
class VerdictRow:
    """One claim's verdict by both designs."""

    claim: str
    text: str
    layer: int | None
    matrix: str | None
    heads: str | None
    paper: str
    own: str

    @property
    def turns(self) -> bool:
        """Whether the designs disagree."""
        return self.paper != self.own


@dataclass(frozen=True)
class DesignComparison:
    """Two runs of one suite, by the papers' design and by ours."""

    step: int
    """The last sound one that both hold."""
    rows: tuple[DesignRow, ...]
    verdicts: tuple[VerdictRow, ...] | Undefined


def compare_designs(own: Run, paper: Run) -> DesignComparison:
    """Every statistic and verdict by both. Raises InputError if no sound step is stored in both runs."""
    stored = [{s for s in done_steps(run) if s not in run.manifest.left_out} for run in (own, paper)]
    if not (both := stored[0] & stored[1]):
        raise InputError(f"{own.path} and {paper.path} hold no sound step in common; track the same steps in both")
    step = max(both)
    frames = [read_parquet(table_file(run, "metrics", step)) for run in (own, paper)]
    final = frames[0]["layer"].max()
    places = (
        (statistic, layer, matrix)
        for statistic in STATISTICS
        for layer in layers_from_end(statistic.layers, final)
        for matrix in _matrices(frames[0], statistic.metric)
    )
    rows = []
    for place in places:
        ours, theirs = (_estimate(frame, *place) for frame in frames)
        rows.append(DesignRow(*place, theirs, ours))
    return DesignComparison(step, tuple(rows), _verdicts(own, paper))


def _matrices(metrics: pl.DataFrame, metric: str) -> list[str]:
    """The endings of a metric that is stored for each input matrix of a gated MLP; an empty one else."""
    return [m for m in ("gate", "up") if f"{metric}_{m}" in metrics["metric"]] or [""]


def _estimate(metrics: pl.DataFrame, s: Statistic, layer: int | None, matrix: str) -> Estimate | Undefined:
    """The statistic of one step's metrics."""
    metric = f"{s.metric}_{matrix}" if matrix else s.metric
    if s.kind == "largest head":
        return _largest_head(metrics, s, layer)
    try:
        record = one_step(metrics, Selection(s.analysis, metric, s.token_class, s.group, s.null, layer))
    except InputError as error:
        return Undefined(str(error))
    value = record["value"]
    if value is None:
        return Undefined(record["reason"])
    if s.kind == "value":
        return Estimate(value, record["ci_low"], record["ci_high"], record["at_edge"])
    if record["null_mean"] is None:
        return Undefined(record["null_reason"] or f"its null ({s.null}) is not stored")
    difference, sd = value - record["null_mean"], record["null_sd"] or math.nan
    reach = NORMAL_95 * sd
    return Estimate(difference, *((None, None) if math.isnan(reach) else (difference - reach, difference + reach)))


def _largest_head(metrics: pl.DataFrame, s: Statistic, layer: int | None) -> Estimate | Undefined:
    """The largest sum of a head, over the positions it is of.

    The stored sum is a mean over both ways of halving the text, each of which takes the other half's positions.
    """
    of_class = metrics.filter(analysis=s.analysis, token_class=s.token_class)
    rows, positions = of_class.filter(layer=layer), of_class.filter(metric="matched_positions")["value"]
    heads = rows.filter(pl.col("head").is_not_null(), metric=s.metric, group=s.group).drop_nulls("value")
    if heads.is_empty() or positions.is_empty():
        why = rows.filter(pl.col("metric").is_in([s.metric, "head_effect_max"]), group=s.group).drop_nulls("reason")
        return Undefined(why["reason"][0] if why.height else NOT_STORED)
    return Estimate(2 * float(heads["value"].to_numpy().max()) / positions[0], None, None)


def _verdicts(own: Run, paper: Run) -> tuple[VerdictRow, ...] | Undefined:
    """The claims' verdicts in both runs, or why one has none."""
    try:
        ours, others = scorecard(own), scorecard(paper)
    except InputError as error:
        return Undefined(str(error))
    if (step := ours[0].step) != (other := others[0].step):
        return Undefined(f"the runs end at different steps, {step} and {other}; track the same steps in both")
    theirs = {(row.claim, row.layer, row.matrix, row.heads): row.verdict for row in others}

    def rows() -> Iterator[VerdictRow]:
        for row in ours:
            place = row.layer, row.matrix, row.heads
            yield VerdictRow(row.claim, row.text, *place, theirs.get((row.claim, *place), "not judged"), row.verdict)

    return tuple(rows())
