"""The scorecard: each claim of the Distributed Specialization paper against what a run stored (METHODS §10).

A claim is decided by criteria, each a region for a statistic at the last sound step.

- An effect (95 %) is supported if the 95 % interval lies inside the region. It is contradicted if that lies outside,
  else undetermined.
- An absence, or a published figure with a margin (90 %), is supported if the 90 % interval lies inside the equivalence
  margin. That is two one-sided tests at 5 %. It is contradicted if the 95 % interval lies outside.

The store holds 95 % intervals, of as many independent pieces of text as it says. Each side shrinks by the ratio of t
quantiles about the value to give 90 %. A difference from a null has the interval ±1.96 null sd. Gates are criteria that
have to be supported before a claim is (or before it is contradicted). A p-value above 0.05 decides nothing. Levels hold
for each criterion by itself; they are not corrected for the number of claims. All thresholds, margins and texts are in
the table CLAIMS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from rtdyn.errors import InputError
from rtdyn.intervals import NORMAL_95
from rtdyn.judge.change_points import trend
from rtdyn.judge.claims import CLAIMS, HEADS, Claim, Criterion, layers_from_end
from rtdyn.judge.emergence import ALPHA, Emergence, beyond_p, emergence, interval_90
from rtdyn.judge.series import Selection, Series, series
from rtdyn.judge.structure import is_structural
from rtdyn.judge.targets import DecidingTargets, deciding_targets
from rtdyn.judge.trajectories import trajectories
from rtdyn.judge.verdict import CONTRADICTED, SUPPORTED, TRENDS, UNDETERMINED, Check
from rtdyn.names import LAYERS, PLATEAU, RARE, TOP
from rtdyn.store.manifest import TokenClassRecord
from rtdyn.store.run import Run
from rtdyn.undefined import Undefined

_NO_PLATEAU = "the plateau has no value at the last step"


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
    heads: str | None
    """Whose heads are ablated, where an earlier layer's neurons are judged: `own heads`, or `heads below`."""
    group: str | None
    """The group that is shown; `top` is a stand-in where the plateau has no value."""
    verdict: str
    reason: str
    """Why the verdict is not `supported`; empty if it is."""
    emerged: int | None
    """First step from which all that support needs is significant and stays so; None for a claim not supported."""
    emerged_after: int | None
    """The sound checkpoint before it."""
    emergence_reason: str
    rare_targets: int | None
    """Rare targets that the run is measured on; None where it does not say."""
    targets_to_decide: int | None
    """How many would decide an open claim if its values stayed; None where no number of them would."""
    targets_reason: str
    """Why there is no such number; empty if there is, and for a claim that is decided."""
    checks: tuple[Check, ...]
    """The claim's criteria; the first is the statistic of the claim."""

    @property
    def is_stand_in(self) -> bool:
        """Whether another group is shown, as the claim's own has no value."""
        return self.emergence_reason == _NO_PLATEAU


def scorecard(run: Run, claims: tuple[Claim, ...] = CLAIMS) -> list[ClaimRow]:
    """A row a claim, and layer, input matrix or heads where it has several, in the order of the table.

    Earlier layers are judged where the run has measured them. A claim has no row where the model's structure leaves it
    nothing to be decided by, as `unreached_layers` says.

    A metric that was not asked for or is undefined leaves its claim undetermined, with the reason. Raises InputError
    if the run holds fewer than three distinct steps.
    """
    return judged(trajectories(run), run.manifest.classes, claims)


def judged(metrics: pl.DataFrame, classes: Mapping[str, TokenClassRecord], claims: tuple[Claim, ...]) -> list[ClaimRow]:
    """The same of rows of metrics/ over distinct steps. classes: those that the rows were measured on."""
    last = metrics.filter(pl.col("step") == metrics["step"].max())
    final = last["layer"].max()
    rare = classes.get(RARE)
    targets = None if rare is None else rare.measured
    rows = []
    for claim in claims:
        shown = claim.criteria[0]
        if shown.analysis == LAYERS and LAYERS not in metrics["analysis"]:
            continue  # a question of its own, which was not asked
        for layer in layers_from_end(claim.layers, final):
            if is_structural(metrics, shown.analysis, shown.metric, layer):
                continue
            rows += [_claim_row(claim, metrics, layer, matrix, None, targets) for matrix in _matrices(claim, metrics)]
        if claim.earlier_layers:
            of_layers = _of_earlier_layers(claim)
            rows += [
                _claim_row(of_layers, metrics, n, matrix, heads, targets)
                for matrix in _matrices(of_layers, metrics)
                for heads in (HEADS if claim.of_heads else (None,))
                for n in _judged_layers(of_layers, matrix, heads, metrics)
            ]
    return rows


def _judged_layers(claim: Claim, matrix: str | None, heads: str | None, metrics: pl.DataFrame) -> list[int]:
    """The layers before the last that the run has the claim's statistic of, ascending."""
    shown = claim.criteria[0]
    metric = shown.metric + _ending(matrix, heads)
    rows = metrics.filter(pl.col("group").eq_missing(pl.lit(shown.group)), analysis=LAYERS, metric=metric)
    layers = rows["layer"].unique().sort().to_list()
    return [layer for layer in layers if not is_structural(metrics, LAYERS, metric, layer)]


def _ending(matrix: str | None, heads: str | None) -> str:
    """Of the metrics' names, where a claim is judged for each matrix or for the heads of each layer."""
    return (f"_{matrix}" if matrix else "") + (HEADS[heads] if heads else "")


def _of_earlier_layers(claim: Claim) -> Claim:
    return replace(claim, criteria=tuple(replace(c, analysis=LAYERS) for c in claim.criteria))


def _matrices(claim: Claim, metrics: pl.DataFrame) -> list[str | None]:
    """The input matrices that the store tells apart; None where there is one."""
    stored = metrics.filter(analysis=claim.criteria[0].analysis)["metric"]
    return [m for m in claim.matrices if f"{claim.criteria[0].metric}_{m}" in stored] or [None]


def _claim_row(
    claim: Claim,
    metrics: pl.DataFrame,
    layer: int | None,
    matrix: str | None,
    heads: str | None,
    rare_targets: int | None,
) -> ClaimRow:
    step = int(metrics["step"].to_numpy().max())
    criteria = claim.criteria
    if of_what := matrix or heads:
        criteria = tuple(
            replace(c, metric=c.metric + _ending(matrix, heads), statistic=f"{c.statistic}, {of_what}")
            for c in criteria
        )
    group = criteria[0].group
    row = partial(ClaimRow, claim.name, claim.text, claim.source, step, layer, matrix, heads)
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
            undecidable = rare_targets, None, "the plateau has no value"
            return row(TOP, UNDETERMINED, why, None, None, _NO_PLATEAU, *undecidable, top_checks)
    emerged = _emergence(metrics, p)
    if verdict != SUPPORTED and emerged.step is not None:
        # it lasted for most of the steps, and does not hold at the last
        emerged = replace(emerged, step=None, after=None, reason=f"{verdict} at the last step")
    targets = _targets_to_decide(checks, rare_targets) if verdict == UNDETERMINED else (None, "")
    return row(group, verdict, reason, emerged.step, emerged.after, emerged.reason, rare_targets, *targets, checks)


def _evaluate(
    criteria: tuple[Criterion, ...], metrics: pl.DataFrame, layer: int | None
) -> tuple[tuple[Check, ...], np.ndarray | Undefined]:
    """The criteria's checks, and the p-value of the claim at each step (k,), or why it has none."""
    readings = [_reading(c, metrics, layer) for c in criteria]
    checks = tuple(_check(c, r) for c, r in zip(criteria, readings, strict=True))
    if any(c.kind in TRENDS for c in criteria):
        return checks, Undefined("a trend belongs to no step")
    # each has to be significant: the intersection-union test
    needed = [
        _p_values(c, r)
        for c, r in zip(criteria, readings, strict=True)
        if c.role not in ("for contradiction", "beside")
    ]
    return checks, np.max(np.stack(needed), axis=0)


def _emergence(metrics: pl.DataFrame, p: np.ndarray | Undefined) -> Emergence:
    if isinstance(p, Undefined):
        return Emergence(None, None, p.reason, np.array([]))
    return emergence(metrics["step"].unique().sort().to_numpy(), p)


def _combined(checks: tuple[Check, ...]) -> tuple[str, str]:
    """The claim's verdict: all that decide and their gates for support, any that decides and its gates against."""
    against, open_ones = _against(checks), _open_ones(checks)
    if against:
        reason = _reasons(against)
        return (UNDETERMINED, f"{reason}, but {_reasons(open_ones)}") if open_ones else (CONTRADICTED, reason)
    return (UNDETERMINED, _reasons(open_ones)) if open_ones else (SUPPORTED, "")


def _against(checks: tuple[Check, ...]) -> list[Check]:
    return [c for c in checks if c.role == "decides" and c.verdict == CONTRADICTED]


def _open_ones(checks: tuple[Check, ...]) -> list[Check]:
    """The checks that keep a claim from being supported or, where one that decides is against it, contradicted."""
    needed = {"for contradiction", "for either"} if _against(checks) else {"decides", "for support", "for either"}
    return sorted((c for c in checks if c.role in needed and c.verdict != SUPPORTED), key=lambda c: c.role != "decides")


def _targets_to_decide(checks: tuple[Check, ...], rare_targets: int | None) -> tuple[int | None, str]:
    """How many rare targets would decide a claim that is open, or None and why no number of them would.

    The values stay and intervals shrink with the root of the number, so that one check after another gets its verdict.
    """
    if rare_targets is None:
        return None, "the run does not say on how many rare positions it is measured"
    deciding = [deciding_targets(c, rare_targets) for c in checks]
    reached: tuple[Check, ...] = checks
    for wanted in sorted({d.targets for d in deciding if isinstance(d, DecidingTargets)}):
        reached = tuple(
            replace(c, verdict=SUPPORTED if d.supports else CONTRADICTED)
            if isinstance(d, DecidingTargets) and d.targets <= wanted
            else c
            for c, d in zip(checks, deciding, strict=True)
        )
        if not _open_ones(reached):
            return wanted, ""
    open_ones = _open_ones(reached)
    lasting = (
        (c.statistic, d.reason if isinstance(d, Undefined) else "its value lies outside what is claimed")
        for c, d in zip(reached, deciding, strict=True)
        if c in open_ones
    )
    return None, _said_once(lasting)


def _reasons(checks: list[Check]) -> str:
    return _said_once((c.statistic, c.reason) for c in checks)


def _said_once(reasons: Iterable[tuple[str, str]]) -> str:
    """Statistics and why each decides nothing, a reason that several share said once of them all."""
    by_reason: dict[str, dict[str, None]] = {}
    for statistic, reason in reasons:
        by_reason.setdefault(reason, {})[statistic] = None
    return "; ".join(f"{' and '.join(statistics)}: {reason}" for reason, statistics in by_reason.items())


def _reading(c: Criterion, metrics: pl.DataFrame, layer: int | None) -> Series:
    """The criterion's statistic over the sound steps, with what it is derived from worked in."""
    main = _stored(c, c.metric, metrics, layer)
    if c.plus is not None:
        other = _stored(c, c.plus, metrics, layer)
        reasons = tuple(a or b for a, b in zip(main.reasons, other.reasons, strict=True))
        return replace(main, value=main.value + other.value, reasons=reasons)
    if c.kind == "difference":
        half = NORMAL_95 * np.where(main.null_sd > 0, main.null_sd, math.nan)
        value = main.value - main.null_mean
        return replace(main, value=value, ci_low=value - half, ci_high=value + half)
    return main


def _stored(c: Criterion, metric: str, metrics: pl.DataFrame, layer: int | None) -> Series:
    """The metric's series; undefined throughout, with the reason, where the store has none or contradicts itself."""
    selection = Selection(c.analysis, metric, c.token_class, c.group, None if c.kind == "p" else c.null, layer)
    reason = "" if c.analysis in metrics["analysis"] else f"the analysis {c.analysis} was not asked for"
    try:
        stored = series(metrics, selection)
    except InputError as error:
        # one claim is left undetermined then, not the scorecard unprinted
        reason = str(error)
        stored = series(metrics.with_columns(analysis=pl.lit("", pl.String)), selection)
    if reason:
        return replace(stored, reasons=(reason,) * len(stored.steps))
    return replace(stored, p_value=stored.value) if c.kind == "p" else stored


def _check(c: Criterion, r: Series) -> Check:
    """The criterion's verdict at the last step."""
    value, low, high = (float(x[-1]) for x in (r.value, r.ci_low, r.ci_high))
    null_mean, null_sd, p = (float(x[-1]) for x in (r.null_mean, r.null_sd, r.p_value))
    reason = r.reasons[-1]
    if c.kind in TRENDS:
        value, low, high, p, reason = _trend(c, r)
    if not reason and math.isnan(value):
        reason = r.null_reasons[-1] or "undefined"
    clusters, at_edge = float(r.clusters[-1]), r.at_edge[-1]
    if not reason and at_edge:
        reason = "the boundary lies at the edge of what the fit can find"
    level = None if c.kind in ("null", "p", "point") else 0.9 if c.absence else 0.95
    if reason:
        verdict = UNDETERMINED
    elif level is not None:
        verdict, reason = _by_interval(c, value, low, high, clusters)
    else:
        verdict, reason = _by_test(c, value, null_mean, p, r.null_reasons[-1])
    return Check(
        c.statistic, c.role, c.kind, c.metric, c.token_class, _stated(value), _stated(low), _stated(high),
        None if math.isnan(clusters) else int(clusters), at_edge, c.null,
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
    undefined = math.nan, math.nan, math.nan, math.nan
    if r.reasons[-1]:
        return *undefined, r.reasons[-1]
    slope = trend(r.steps, logs)
    if isinstance(slope, Undefined):
        return *undefined, slope.reason
    return slope.slope, slope.low, slope.high, math.nan, ""


def _bounds(c: Criterion) -> tuple[float, float]:
    return -math.inf if c.low is None else c.low, math.inf if c.high is None else c.high


def _by_interval(c: Criterion, value: float, low: float, high: float, clusters: float) -> tuple[str, str]:
    if math.isnan(low) or math.isnan(high):
        return UNDETERMINED, "no interval is stored" if c.kind != "difference" else "its null does not vary"
    least, most = _bounds(c)
    inner_low, inner_high = low, high
    if c.absence:
        narrow = interval_90(*(np.array([x]) for x in (value, low, high, clusters)))
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
    sides = [beyond_p(r.value, r.ci_low, r.ci_high, r.clusters, bound, side)
             for bound, side in ((c.low, 1), (c.high, -1)) if bound is not None]  # fmt: skip
    return np.minimum(1.0, np.max(np.stack(sides), axis=0) * (1 if c.absence else 2))
