"""The fit of a curve, as it is and on halves of the text, in numbers by their names among the metrics (METHODS §3)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from rtdyn.analyses.half_samples import Corrected
from rtdyn.analyses.regimes.fit import FixedBoundaries, Regimes, ThreeSegments
from rtdyn.analyses.regimes.resampled import CORRECTED, LOGARITHMIC, Resampled
from rtdyn.names import DECAY, PLATEAU, POWER_LAW
from rtdyn.store.schema import PLAIN, STABLE
from rtdyn.undefined import Undefined

SEGMENTS = (PLATEAU, POWER_LAW, DECAY)
FIT_METRICS = (
    *(f.name + PLAIN * (f.name in CORRECTED) for f in fields(ThreeSegments)),
    *(f"{label}_size" for label in SEGMENTS),
    *(f"{label}_fraction" for label in SEGMENTS[1:]),
    "raised",
)
PAPER_CODE = "paper_code_"
"""What the metrics of fixed boundaries begin with."""
PAPER_CODE_METRICS = tuple(PAPER_CODE + f.name for f in fields(FixedBoundaries))
PLATEAU_FRACTION = "plateau_fraction"
STABILITY_METRICS = ("stable_plateau_size", "raised_share", "no_fit_share")


@dataclass(frozen=True)
class FitValue:
    """A number of a curve's fit, by the names of `Metric`."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    clusters: int | None = None
    at_edge: bool = False


def fit_values(regimes: Regimes) -> dict[str, FitValue | Undefined]:
    """Each number of a curve's fits as they are; those of CORRECTED under names that end in PLAIN."""
    values: dict[str, float | Undefined] = {}
    if isinstance(regimes.fit, Undefined):
        values |= dict.fromkeys(FIT_METRICS, regimes.fit)
    else:
        values |= {name + PLAIN * (name in CORRECTED): float(value) for name, value in asdict(regimes.fit).items()}
        values |= {f"{label}_size": float((regimes.label == label).sum()) for label in SEGMENTS}
        values |= {f"{label}_fraction": float((regimes.label == label).mean()) for label in SEGMENTS[1:]}
        values["raised"] = float(regimes.fit.raised)
    if isinstance(regimes.paper_code, Undefined):
        values |= dict.fromkeys(PAPER_CODE_METRICS, regimes.paper_code)
    else:
        values |= {PAPER_CODE + name: float(value) for name, value in asdict(regimes.paper_code).items()}
    values["censored"] = float(regimes.censored)
    return {name: v if isinstance(v, Undefined) else FitValue(v) for name, v in values.items()}


def corrected_values(regimes: Regimes, resampled: Resampled | Undefined) -> dict[str, FitValue | Undefined]:
    """The numbers of CORRECTED without the winner's curse, and the plateau's share of the neurons, r1 / F.

    A boundary that the fit has at an end of its grid, or that the correction takes beyond one, is `at_edge`. Its value
    is that end, and its interval is open on that side.
    """
    names = (*CORRECTED, PLATEAU_FRACTION)
    if isinstance(regimes.fit, Undefined):
        return dict.fromkeys(names, regimes.fit)
    if isinstance(resampled, Undefined):
        return dict.fromkeys(names, resampled)
    values: dict[str, FitValue | Undefined] = {}
    for name, number in resampled.statistics.items():
        if isinstance(number, Undefined):
            values[name] = number
        elif name in LOGARITHMIC:
            values[name] = _rank(number, getattr(regimes.ends, name), regimes.fit.last)
        else:
            estimate = number.estimate_with_leaps()
            values[name] = FitValue(estimate.value, estimate.low, estimate.high, estimate.clusters)
    r1 = values["r1"]
    values[PLATEAU_FRACTION] = r1 if isinstance(r1, Undefined) else _scaled(r1, 1 / len(regimes.rank))
    return values


def _rank(logarithm: Corrected, ends: tuple[int, int], last: int) -> FitValue:
    """A boundary from its logarithm, inside the grid from the first to the second of `ends`; ranks end at `last`."""
    estimate = logarithm.estimate_with_leaps()
    value, low, high = (None if x is None else math.exp(x) for x in (estimate.value, estimate.low, estimate.high))
    assert value is not None
    plain, (least, most) = math.exp(logarithm.plain), ends
    low, high = (None if end is None else min(max(end, 1.0), float(last)) for end in (low, high))
    # the interval of a correction beyond an end is moved to the end, so that it holds its value
    if max(value, plain) >= most - 0.5:
        return FitValue(float(most), None if low is None else min(low, float(most)), None, estimate.clusters, True)
    if min(value, plain) <= least + 0.5:
        return FitValue(float(least), None, None if high is None else max(high, float(least)), estimate.clusters, True)
    return FitValue(value, low, high, estimate.clusters)


def _scaled(number: FitValue, factor: float) -> FitValue:
    low, high = (None if end is None else end * factor for end in (number.ci_low, number.ci_high))
    return FitValue(number.value * factor, low, high, number.clusters, number.at_edge)


def stability_values(resampled: Resampled | Undefined) -> dict[str, float | Undefined]:
    """How steady the plateau is over halves of the text; by STABILITY_METRICS."""
    if isinstance(resampled, Undefined):
        return dict.fromkeys(STABILITY_METRICS, resampled)
    stable = float((resampled.stable_share > STABLE).sum())
    return dict(zip(STABILITY_METRICS, (stable, resampled.raised_share, resampled.no_fit_share), strict=True))
