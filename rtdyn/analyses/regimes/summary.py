"""The fit of a curve and its bootstrap in numbers, each by its name among the metrics (METHODS §3)."""

from __future__ import annotations

from dataclasses import asdict, fields

from rtdyn.analyses.regimes.evidence import Bootstrap
from rtdyn.analyses.regimes.fit import FixedBoundaries, Regimes, ThreeSegments
from rtdyn.names import DECAY, PLATEAU, POWER_LAW
from rtdyn.store.schema import STABLE
from rtdyn.undefined import Undefined

SEGMENTS = (PLATEAU, POWER_LAW, DECAY)
FIT_METRICS = (
    *(f.name for f in fields(ThreeSegments)),
    *(f"{label}_{what}" for label in SEGMENTS for what in ("size", "fraction")),
    "raised",
)
PAPER_CODE = "paper_code_"
"""What the metrics of fixed boundaries begin with."""
PAPER_CODE_METRICS = tuple(PAPER_CODE + f.name for f in fields(FixedBoundaries))
BOOTSTRAP_METRICS = ("stable_plateau_size", "raised_share", "no_fit_share")


def fit_values(regimes: Regimes) -> dict[str, float | Undefined]:
    """Each number of a curve's fits."""
    values: dict[str, float | Undefined] = {}
    if isinstance(regimes.fit, Undefined):
        values |= dict.fromkeys(FIT_METRICS, regimes.fit)
    else:
        values |= {name: float(value) for name, value in asdict(regimes.fit).items()}
        for label in SEGMENTS:
            size = int((regimes.label == label).sum())
            values |= {f"{label}_size": float(size), f"{label}_fraction": size / len(regimes.label)}
        values["raised"] = float(regimes.fit.raised)
    if isinstance(regimes.paper_code, Undefined):
        values |= dict.fromkeys(PAPER_CODE_METRICS, regimes.paper_code)
    else:
        values |= {PAPER_CODE + name: float(value) for name, value in asdict(regimes.paper_code).items()}
    return {**values, "censored": float(regimes.censored)}


def bootstrap_values(resampled: Bootstrap | Undefined) -> dict[str, float | Undefined]:
    """How steady the plateau is under resampling; by BOOTSTRAP_METRICS."""
    if isinstance(resampled, Undefined):
        return dict.fromkeys(BOOTSTRAP_METRICS, resampled)
    stable = float((resampled.stable_share > STABLE).sum())
    return dict(zip(BOOTSTRAP_METRICS, (stable, resampled.raised_share, resampled.no_fit_share), strict=True))
