"""The scorecard: each claim of the Distributed Specialization paper against what a run stored (METHODS §10).

A claim is decided by criteria, each a region for a statistic at the last sound step. An effect (95 %): supported if
the 95 % interval lies inside the region, contradicted if it lies outside, else undetermined. An absence, or a published
figure with a margin (90 %): supported if the 90 % interval lies inside the equivalence margin, which is two one-sided
tests at 5 %, contradicted if the 95 % interval lies outside. The store holds 95 % intervals; each side shrinks by
1.645/1.960 about the value to give 90 %. A difference from a null has the interval ±1.96 null sd. Gates are criteria
that have to be supported before a claim is (or before it is contradicted). A p-value above 0.05 decides nothing.
Levels hold for each criterion by itself; they are not corrected for the number of claims.
All thresholds, margins and texts are in the table CLAIMS.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rtdyn.emergence import (
    ALPHA,
    NORMAL_95,
    Emergence,
    Selection,
    Series,
    beyond_p,
    emergence,
    interval_90,
    series,
    trend,
)
from rtdyn.errors import InputError
from rtdyn.soundness import read_judged
from rtdyn.store import Run, replace_file
from rtdyn.trajectories import trajectories

SUPPORTED, CONTRADICTED, UNDETERMINED = "supported", "contradicted", "undetermined"
RARE, COMMON = "rare", "common"
PLATEAU, TOP = "plateau", "top"
FINAL, PENULTIMATE = -1, -2
CLAIMS_FILE = "claims.parquet"

Kind = Literal["interval", "difference", "null", "p", "point", "trend", "relative trend"]
"""How a criterion is read. `interval`: the metric's own interval. `difference`: value minus null mean, ±1.96 null sd.
`null`: the value's rank in its null, on the side of the region. `p`: a p-value that is stored as the value. `point`:
the value alone, which can hold support back but not bear a verdict. `trend`: the slope of ln value over ln(step + 1)
with Sen's interval. `relative trend`: the same of ln(value / null mean)."""
Role = Literal["decides", "for support", "for contradiction", "for either"]
"""Whether a criterion bears the verdict, or has to be supported before the claim is supported or contradicted."""


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
    interval_of: str | None = None
    """A metric proportional to this one, whose interval is rescaled where this one has none stored."""


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
    matrices: tuple[str, ...] = ()
    """Input matrices whose metrics carry their name, judged each for itself where the store has them: a gated MLP's."""


# fmt: off
_SHAPE = Criterion("largest shape p (half-normal, lognormal, Pareto)", "regimes", "shape_p_value", "p", null="shape")
_RAISED = Criterion("excess of the top, ln units", "regimes", "excess", low=0.0)
_MATCHED_AND_SELECTED = ("matched", "selected")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "three-regimes-rare", "Rare targets: influence has a plateau above its power law, and a rapid decay",
        "[DS] §4.1", (
            _RAISED,
            replace(_SHAPE, role="for support"),
            Criterion("decay slope + κ", "regimes", "decay_slope", "point", high=0.0, plus="kappa", role="for support"),
        ),
    ),
    Claim(
        "plateau-size", "The plateau holds about 1 % of the neurons",
        "[DS] §4.1", (
            # within a factor of 2 of 1 %
            Criterion("plateau, share of neurons", "regimes", "plateau_fraction", low=0.005, high=0.02, absence=True,
                      interval_of="r1"),
            replace(_RAISED, role="for either"),
            replace(_SHAPE, role="for either"),
        ),
    ),
    Claim(
        "no-plateau-common", "Common targets: no plateau",
        "[DS] §4.1", (
            # a top raised by under a quarter is none: the factor customary in bioequivalence
            Criterion("excess of the top, ln units", "regimes", "excess", high=math.log(1.25), absence=True,
                      token_class=COMMON),
            replace(_SHAPE, token_class=COMMON, role="for contradiction"),
        ),
    ),
    Claim(
        "rare-against-common", "The top is raised for rare targets more than for equally many common ones",
        "[DS] §4.1; METHODS §3(d)",
        (Criterion("excess of the top, none censored, ln units", "regimes", "contrast_excess", "null", low=0.0,
                   null="pseudo-class"),),
    ),
    Claim(
        "lower-dimensionality", "Plateau neurons act together: fewer effective dimensions than matched, selected sets",
        "[DS] §4.2", tuple(
            Criterion("d_eff", "dimensionality", "d_eff", "null", high=0.0, group=PLATEAU, null=null)
            for null in _MATCHED_AND_SELECTED
        ),
    ),
    Claim(
        "no-modular-cluster", "Plateau neurons form no modular cluster",
        "[DS] §4.3", (
            # a third of the Q = 0.3 from which communities are spoken of (Newman & Girvan 2004)
            *(Criterion("Q at equal edges minus its null's", "modularity", "q_excess", "difference", high=0.1,
                        absence=True, group=PLATEAU, null=null) for null in _MATCHED_AND_SELECTED),
            *(Criterion("share of edges inside minus its null's", "modularity", "inside_share", "difference", high=0.1,
                        absence=True, group=PLATEAU, null=null) for null in _MATCHED_AND_SELECTED),
        ),
    ),
    Claim(
        "attention-alike", "Rare and common targets attend alike: profiles correlate at r ≈ 0.89",
        "[DS] §4.4",
        (Criterion("Pearson r of profiles", "routing", "profile_r", low=0.84, high=0.94, absence=True,
                   null="resampling"),),
        layers=(PENULTIMATE, FINAL),
    ),
    Claim(
        "no-gini-difference", "Attention is as concentrated for rare targets as for common ones",
        "[DS] §4.4",
        (Criterion("difference of Gini coefficients", "routing", "gini_difference", low=-0.02, high=0.02, absence=True,
                   null="permutation"),),
        layers=(PENULTIMATE, FINAL),
    ),
    Claim(
        # a fifth of the effect claimed for the whole layer; 0.28–0.34 are sums |Δa|, in units of their own
        "single-head-small", "No single head drives the plateau neurons: ablating it changes them by under 10 %",
        "[DS] §4.4",
        (Criterion("largest effect of a head", "routing", "head_effect_max", low=-0.1, high=0.1, absence=True,
                   group=PLATEAU, null="random"),),
        layers=(PENULTIMATE, FINAL),
    ),
    Claim(
        # the published range, and 5 points on either side
        "layer-effect", "Ablating a layer's attention lowers the plateau neurons' activation by 45 to 50 %",
        "[DS] §4.4",
        (Criterion("effect of the layer's heads", "routing", "layer_effect", low=-0.55, high=-0.40, absence=True,
                   group=PLATEAU, null="random"),),
        layers=(PENULTIMATE, FINAL),
    ),
    Claim(
        # α moves with n/d, so being under 2 says nothing where matched sets of the same n are as low
        "heavy-tailed", "Plateau neurons' input weights are heavy-tailed: Hill's α < 2",
        "[DS] §4.5", (
            Criterion("Hill α, upper half", "heavytail", "hill_alpha_half", high=2.0, group=PLATEAU, null="matched"),
            Criterion("Hill α against sets of equal size", "heavytail", "hill_alpha_half", "null", high=0.0,
                      group=PLATEAU, null="matched", role="for support"),
        ),
        matrices=("gate", "up"),
    ),
    Claim(
        # the plateau's n changes from step to step, and α with it
        "tail-grows", "The plateau's α falls in training",
        "[DS] §4.5", (
            Criterion("slope of ln α", "heavytail", "hill_alpha_half", "trend", high=0.0, group=PLATEAU),
            Criterion("slope of ln(α / mean of matched sets)", "heavytail", "hill_alpha_half", "relative trend",
                      high=0.0, group=PLATEAU, null="matched", role="for support"),
        ),
        matrices=("gate", "up"),
    ),
)
# fmt: on


@dataclass(frozen=True)
class Check:
    """One criterion at the last sound step."""

    statistic: str
    role: str
    kind: str
    metric: str
    token_class: str | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    """95 %."""
    null: str | None
    null_mean: float | None
    null_sd: float | None
    p_value: float | None
    margin_low: float | None
    margin_high: float | None
    level: float | None
    """Of the interval that has to lie inside the margin for support; None where no interval is asked for."""
    verdict: str
    reason: str
    """Why the verdict is not `supported`; empty if it is."""


@dataclass(frozen=True)
class ClaimRow:
    """One claim at the last sound step, for one layer where the claim is by layer."""

    claim: str
    text: str
    source: str
    step: int
    layer: int | None
    matrix: str | None
    """Input matrix, where the MLP has several."""
    group: str | None
    """The group that is shown; `top` is a stand-in where the plateau has no value."""
    verdict: str
    reason: str
    """Why the verdict is not `supported`; empty if it is."""
    emerged: int | None
    """First step from which all that support needs is significant and stays so."""
    emerged_after: int | None
    """The sound checkpoint before it."""
    emergence_reason: str
    checks: tuple[Check, ...]
    """The claim's criteria; the first is the statistic of the claim."""


def scorecard(run: Run, claims: tuple[Claim, ...] = CLAIMS) -> list[ClaimRow]:
    """A row a claim, and layer or input matrix where it has several, in the order of the table.

    A metric that was not asked for or is undefined leaves its claim undetermined, with the reason. Raises InputError
    if the run holds fewer than three distinct steps.
    """
    metrics = trajectories(run)
    last = metrics.filter(pl.col("step") == metrics["step"].max())
    final = last["layer"].max()
    rows = []
    for claim in claims:
        for offset in claim.layers or (None,):
            layer = None if offset is None or not isinstance(final, int) else final + 1 + offset
            rows += [_claim_row(claim, metrics, layer, matrix) for matrix in _matrices(claim, metrics)]
    return rows


def _matrices(claim: Claim, metrics: pl.DataFrame) -> list[str | None]:
    """The input matrices that the store tells apart; None where there is one."""
    stored = metrics.filter(analysis=claim.criteria[0].analysis)["metric"]
    return [m for m in claim.matrices if f"{claim.criteria[0].metric}_{m}" in stored] or [None]


def _claim_row(claim: Claim, metrics: pl.DataFrame, layer: int | None, matrix: str | None) -> ClaimRow:
    step = int(metrics["step"].to_numpy().max())
    criteria = claim.criteria
    if matrix is not None:
        criteria = tuple(
            replace(c, metric=f"{c.metric}_{matrix}", statistic=f"{c.statistic}, {matrix}") for c in criteria
        )
    group = criteria[0].group
    row = partial(ClaimRow, claim.name, claim.text, claim.source, step, layer, matrix)
    checks, p = _evaluate(criteria, metrics, layer)
    verdict, reason = _combined(checks)
    if group == PLATEAU and checks[0].value is None:
        stand_in = tuple(replace(c, group=TOP) for c in criteria)
        top_checks, _ = _evaluate(stand_in, metrics, layer)
        if top_checks[0].value is not None:
            why = (
                f"undefined for the plateau ({checks[0].reason}); shown is the top 1 % (at least 32 neurons), which "
                f"would be {_combined(top_checks)[0]}"
            )
            return row(TOP, UNDETERMINED, why, None, None, "the plateau has no value at the last step", top_checks)
    found = _emergence(metrics, p)
    return row(group, verdict, reason, found.step, found.after, found.reason, checks)


def _evaluate(
    criteria: tuple[Criterion, ...], metrics: pl.DataFrame, layer: int | None
) -> tuple[tuple[Check, ...], np.ndarray | str]:
    """The criteria's checks, and the p-value of the claim at each step (k,), or why it has none."""
    readings = [_reading(c, metrics, layer) for c in criteria]
    checks = tuple(_check(c, r) for c, r in zip(criteria, readings, strict=True))
    if any(c.kind in ("trend", "relative trend") for c in criteria):
        return checks, "a trend belongs to no step"
    # each has to be significant: the intersection-union test
    needed = [_p_values(c, r) for c, r in zip(criteria, readings, strict=True) if c.role != "for contradiction"]
    return checks, np.max(np.stack(needed), axis=0)


def _emergence(metrics: pl.DataFrame, p: np.ndarray | str) -> Emergence:
    if isinstance(p, str):
        return Emergence(None, None, p, np.array([]))
    return emergence(metrics["step"].unique().sort().to_numpy(), p)


def _combined(checks: tuple[Check, ...]) -> tuple[str, str]:
    """The claim's verdict: all that decide and their gates for support, any that decides and its gates against."""
    decisive = [c for c in checks if c.role == "decides"]
    against = [c for c in decisive if c.verdict == CONTRADICTED]
    gate = "for contradiction" if against else "for support"
    closed = [c for c in checks if c.role in (gate, "for either") and c.verdict != SUPPORTED]
    if against:
        reason = _reasons(against)
        return (UNDETERMINED, f"{reason}, but {_reasons(closed)}") if closed else (CONTRADICTED, reason)
    missing = [c for c in decisive if c.verdict != SUPPORTED] + closed
    return (UNDETERMINED, _reasons(missing)) if missing else (SUPPORTED, "")


def _reasons(checks: list[Check]) -> str:
    return "; ".join(dict.fromkeys(f"{c.statistic}: {c.reason}" for c in checks))


def _reading(c: Criterion, metrics: pl.DataFrame, layer: int | None) -> Series:
    """The criterion's statistic over the sound steps, with what it is derived from worked in."""
    own = _stored(c, c.metric, metrics, layer)
    if c.plus is not None:
        other = _stored(c, c.plus, metrics, layer)
        reasons = tuple(a or b for a, b in zip(own.reasons, other.reasons, strict=True))
        return replace(own, value=own.value + other.value, reasons=reasons)
    if c.kind == "difference":
        half = NORMAL_95 * np.where(own.null_sd > 0, own.null_sd, math.nan)
        value = own.value - own.null_mean
        return replace(own, value=value, ci_low=value - half, ci_high=value + half)
    if c.interval_of is not None:
        other = _stored(c, c.interval_of, metrics, layer)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(other.value != 0, own.value / other.value, math.nan)
        low, high = (
            np.where(np.isnan(mine), scale * theirs, mine)
            for mine, theirs in ((own.ci_low, other.ci_low), (own.ci_high, other.ci_high))
        )
        return replace(own, ci_low=low, ci_high=high)
    return own


def _stored(c: Criterion, metric: str, metrics: pl.DataFrame, layer: int | None) -> Series:
    """The metric's series; undefined throughout, with the reason, where the store has none or contradicts itself."""
    selection = Selection(c.analysis, metric, c.token_class, c.group, None if c.kind == "p" else c.null, layer)
    reason = "" if c.analysis in metrics["analysis"] else f"the analysis {c.analysis} was not asked for"
    try:
        found = series(metrics, selection)
    except InputError as error:
        # one claim is left undetermined then, not the scorecard unprinted
        reason = str(error)
        found = series(metrics.with_columns(analysis=pl.lit("", pl.String)), selection)
    if reason:
        return replace(found, reasons=(reason,) * len(found.steps))
    return replace(found, p_value=found.value) if c.kind == "p" else found


def _check(c: Criterion, r: Series) -> Check:
    """The criterion's verdict at the last step."""
    value, low, high = (float(x[-1]) for x in (r.value, r.ci_low, r.ci_high))
    null_mean, null_sd, p = (float(x[-1]) for x in (r.null_mean, r.null_sd, r.p_value))
    reason = r.reasons[-1]
    if c.kind in ("trend", "relative trend"):
        value, low, high, p, reason = _trend(c, r)
    if not reason and math.isnan(value):
        reason = r.null_reasons[-1] or "undefined"
    level = None if c.kind in ("null", "p", "point") else 0.9 if c.absence else 0.95
    if reason:
        verdict = UNDETERMINED
    elif level is not None:
        verdict, reason = _by_interval(c, value, low, high)
    else:
        verdict, reason = _by_test(c, value, null_mean, p, r.null_reasons[-1])
    return Check(
        c.statistic, c.role, c.kind, c.metric, c.token_class, _stated(value), _stated(low), _stated(high), c.null,
        _stated(null_mean), _stated(null_sd), _stated(p),
        c.low if c.kind != "null" else None, c.high if c.kind != "null" else None, level, verdict, reason,
    )  # fmt: skip


def _stated(number: float) -> float | None:
    return None if math.isnan(number) else number


def _trend(c: Criterion, r: Series) -> tuple[float, float, float, float, str]:
    """Slope, interval, no p-value, and why there is no slope."""
    base = r.value / r.null_mean if c.kind == "relative trend" else r.value
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(base > 0, np.log(base), math.nan)
    found = r.reasons[-1] or trend(r.steps, logs)
    if isinstance(found, str):
        return math.nan, math.nan, math.nan, math.nan, found
    return found.slope, found.low, found.high, math.nan, ""


def _bounds(c: Criterion) -> tuple[float, float]:
    return -math.inf if c.low is None else c.low, math.inf if c.high is None else c.high


def _by_interval(c: Criterion, value: float, low: float, high: float) -> tuple[str, str]:
    if math.isnan(low) or math.isnan(high):
        return UNDETERMINED, "no interval is stored" if c.kind != "difference" else "its null does not vary"
    least, most = _bounds(c)
    inner_low, inner_high = low, high
    if c.absence:
        narrow = interval_90(*(np.array([x]) for x in (value, low, high)))
        inner_low, inner_high = float(narrow[0][0]), float(narrow[1][0])
    if least < inner_low and inner_high < most:
        return SUPPORTED, ""
    if low > most or high < least:
        return CONTRADICTED, f"the 95 % interval lies {'above' if low > most else 'below'} {_region(c)}"
    return UNDETERMINED, f"the {90 if c.absence else 95} % interval reaches beyond {_region(c)}"


def _region(c: Criterion) -> str:
    if c.low is not None and c.high is not None:
        return f"{c.low:.3g} to {c.high:.3g}"
    return f"{c.low if c.low is not None else c.high:.3g}"


def _by_test(c: Criterion, value: float, null_mean: float, p: float, why_no_null: str) -> tuple[str, str]:
    least, most = _bounds(c)
    if c.kind == "point":
        return (SUPPORTED, "") if least < value < most else (UNDETERMINED, f"{value:.3g} is not below {_region(c)}")
    if math.isnan(p):
        return UNDETERMINED, why_no_null or f"no p-value against its null ({c.null}) is stored"
    if p > ALPHA:
        return UNDETERMINED, f"p = {p:.3g} against {c.null}"
    if c.kind == "p" or least < value - null_mean < most:
        return SUPPORTED, ""
    if value == null_mean:
        return UNDETERMINED, f"equal to the mean of {c.null}"
    return CONTRADICTED, f"{'above' if value > null_mean else 'below'} {c.null} (p = {p:.3g})"


def _p_values(c: Criterion, r: Series) -> np.ndarray:
    """The criterion's p-value (k,) that it is supported at each step: ≤ 0.05 just where it is; NaN where undefined."""
    least, most = _bounds(c)
    undefined = np.isnan(r.value)
    if c.kind == "point":
        return np.where(undefined, math.nan, np.where((least < r.value) & (r.value < most), 0.0, 1.0))
    if c.kind in ("null", "p"):
        above = r.value - r.null_mean
        inside = np.isfinite(r.p_value) if c.kind == "p" else (least < above) & (above < most)
        return np.where(undefined | np.isnan(r.p_value), math.nan, np.where(inside, r.p_value, 1.0))
    sides = [beyond_p(r.value, r.ci_low, r.ci_high, bound, side)
             for bound, side in ((c.low, 1), (c.high, -1)) if bound is not None]  # fmt: skip
    return np.minimum(1.0, np.max(np.stack(sides), axis=0) * (1 if c.absence else 2))


CLAIM_SCHEMA: dict[str, Any] = {
    "claim": pl.String,
    "text": pl.String,
    "source": pl.String,
    "step": pl.Int64,
    "layer": pl.Int64,
    "matrix": pl.String,
    "group": pl.String,
    "verdict": pl.String,
    "reason": pl.String,
    "emerged": pl.Int64,
    "emerged_after": pl.Int64,
    "emergence_reason": pl.String,
    "check": pl.Int64,
    "check_statistic": pl.String,
    "check_role": pl.String,
    "check_kind": pl.String,
    "check_metric": pl.String,
    "check_token_class": pl.String,
    "check_value": pl.Float64,
    "check_ci_low": pl.Float64,
    "check_ci_high": pl.Float64,
    "check_null": pl.String,
    "check_null_mean": pl.Float64,
    "check_null_sd": pl.Float64,
    "check_p_value": pl.Float64,
    "check_margin_low": pl.Float64,
    "check_margin_high": pl.Float64,
    "check_level": pl.Float64,
    "check_verdict": pl.String,
    "check_reason": pl.String,
}


def as_json(rows: list[ClaimRow]) -> list[dict[str, Any]]:
    """The rows as dictionaries of plain values, undefined ones None; `checks` is a list of dictionaries."""
    return [asdict(row) | {"checks": [asdict(check) for check in row.checks]} for row in rows]


def claim_frame(rows: list[ClaimRow]) -> pl.DataFrame:
    """A row a claim, layer and criterion; `check` 0 is the statistic of the claim."""
    records = [
        {k: v for k, v in row.items() if k != "checks"}
        | {"check": number}
        | {f"check_{k}": v for k, v in check.items()}
        for row in as_json(rows)
        for number, check in enumerate(row["checks"])
    ]
    return pl.DataFrame(records, schema=CLAIM_SCHEMA)


def store_claims(run: Run, rows: list[ClaimRow]) -> Path:
    """Writes the scorecard into the run directory, whole or not at all. Raises InputError if it cannot."""
    file = run.path / CLAIMS_FILE
    replace_file(file, partial(claim_frame(rows).write_parquet, metadata={"config_digest": run.digest}))
    return file


CELLS = ("claim", "statistic", "value", "null", "region", "verdict", "emerged")


def claim_cells(row: ClaimRow) -> dict[str, str]:
    """The row as it is shown, by CELLS."""
    shown = row.checks[0]
    # where the statistic has no null of its own, a gate's is what speaks for it
    null = _null(next((c for c in (shown, *row.checks) if c.p_value is not None), shown))
    statistic = shown.statistic + (f" ({row.group})" if row.group else "")
    cells = (_label(row), statistic, _value(shown), null, _margin(shown), row.verdict, _emerged(row))
    return dict(zip(CELLS, cells, strict=True))


def print_claims(rows: list[ClaimRow], console: Console) -> None:
    """The scorecard as a table, and below it why verdicts are not `supported`."""
    title = f"Claims at step {rows[0].step}, intervals 95 %" if rows else "No claims"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("claim and statistic")
    table.add_column("value, null and region")
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        style = {SUPPORTED: "green", CONTRADICTED: "red"}.get(row.verdict, "yellow")
        shown = claim_cells(row)
        lines = {"value": "", "null": "null: ", "region": "claimed: "}
        table.add_row(
            f"[bold]{escape(shown['claim'])}[/bold]\n{escape(shown['statistic'])}",
            escape("\n".join(said + shown[cell] for cell, said in lines.items() if shown[cell])),
            f"[{style}]{row.verdict}[/{style}]" + (f"\n{shown['emerged']}" if row.emerged is not None else ""),
        )
    console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for row in rows:
        say(f"{_label(row)}: {row.text} ({row.source}).{f' {row.verdict}: {row.reason}' if row.reason else ''}")


def _label(row: ClaimRow) -> str:
    layer = "" if row.layer is None else f", layer {row.layer}"
    return row.claim + layer + ("" if row.matrix is None else f", {row.matrix}")


def _value(check: Check) -> str:
    if check.value is None:
        return "undefined"
    interval = "" if check.ci_low is None or check.ci_high is None else f" ({check.ci_low:.3g} to {check.ci_high:.3g})"
    return f"{check.value:.3g}{interval}"


def _null(check: Check) -> str:
    parts = [check.null or ""]
    if check.null_mean is not None:
        sd = "" if check.null_sd is None else f" ± {check.null_sd:.2g}"
        parts.append(f"{check.null_mean:.3g}{sd}")
    if check.p_value is not None:
        parts.append(f"p {check.p_value:.2g}")
    return " ".join(p for p in parts if p) if len(parts) > 1 else ""


def _margin(check: Check) -> str:
    if check.margin_low is not None and check.margin_high is not None:
        return f"{check.margin_low:.3g} to {check.margin_high:.3g}"
    if check.margin_low is not None:
        return f"> {check.margin_low:.3g}"
    return "" if check.margin_high is None else f"< {check.margin_high:.3g}"


def _emerged(row: ClaimRow) -> str:
    if row.emerged is None:
        return ""
    after = "" if row.emerged_after is None else f"\n(after {row.emerged_after})"
    return f"since {row.emerged}{after}"


def claims(path: Path, machine: bool, console: Console) -> list[ClaimRow]:
    """`rtdyn claims RUN [--json]`: prints the scorecard of the run at `path`, then stores it beside the tables.

    machine: print a list for machines instead. Raises InputError if there is no run, fewer than three distinct steps,
    or no place to write.
    """
    run = read_judged(path)
    rows = scorecard(run)
    if machine:
        sys.stdout.write(json.dumps(as_json(rows), allow_nan=False) + "\n")
    else:
        print_claims(rows, console)
    store_claims(run, rows)
    return rows
