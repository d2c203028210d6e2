"""How what a run says of rare tokens moves with the threshold that makes a token rare.

A run that measured several bands in one pass has the same numbers for each. They are its curve, its plateau, the
verdicts on both, and a ranking of the neurons. Bands share types and positions, so that they are no independent
samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import polars as pl

from rtdyn.errors import InputError
from rtdyn.judge.claims import CLAIMS, Claim
from rtdyn.judge.scorecard import scorecard
from rtdyn.names import COMMON, RARE
from rtdyn.parquet import read_parquet
from rtdyn.rank_correlation import rank_correlation
from rtdyn.store.run import Run, done_steps, table_file
from rtdyn.store.schema import AT_EDGE
from rtdyn.undefined import Undefined

BAND_CLAIMS = ("three-regimes-rare", "plateau-size")
"""Claims that rest on one class's curve alone, and so are judged for each band."""


@dataclass(frozen=True)
class Estimate:
    """A stored number with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    at_edge: bool = False
    """Whether it is the last that could be found, so that the interval is open on its far side."""


@dataclass(frozen=True)
class BandRow:
    """One band of a run at its last sound step."""

    token_class: str
    band: str
    """As it was asked for."""
    types: int
    targets: int
    """Positions that it is measured on."""
    share: float
    """Of all ranked types, how many are as frequent as the band's most frequent one or less."""
    plateau: Estimate | Undefined
    """Share of the neurons that the fitted plateau holds, be it raised or not."""
    kappa: Estimate | Undefined
    excess: Estimate | Undefined
    """ln units."""
    shape_p: float | None
    """The largest p of the shape nulls."""
    spearman: Estimate | Undefined
    """Of the neurons' ranks with those of the class `rare`; its interval takes the neurons for the sample."""
    verdicts: dict[str, str] | Undefined
    """By claim of BAND_CLAIMS."""


def band_rows(run: Run) -> list[BandRow]:
    """A row a band of rare tokens, the narrowest first; none of a run with fewer than two bands, or no curves.

    Raises InputError if the run holds no finished step.
    """
    steps = list(done_steps(run))
    if not steps:
        raise InputError(f"{run.path} holds no finished step yet")
    names = [name for name in run.manifest.classes if name != COMMON]
    step = last_step(run, steps)
    metrics = read_parquet(table_file(run, "metrics", step)).filter(analysis="regimes")
    if len(names) < 2 or metrics.is_empty():
        return []
    neurons = read_parquet(table_file(run, "neurons", step))
    neurons = neurons.filter(layer=neurons["layer"].max())
    verdicts = _verdicts(run, names)
    ranked = max(c.ranks[1] for c in run.manifest.classes.values())
    rows = []
    for name in names:
        found, own = run.manifest.classes[name], metrics.filter(token_class=name)
        rows.append(
            BandRow(
                name,
                found.band,
                found.types,
                found.measured,
                1 - (found.ranks[0] - 1) / ranked,
                estimate(own, "plateau_fraction"),
                estimate(own, "kappa"),
                estimate(own, "excess"),
                own.filter(metric="shape_p_value").row(0, named=True)["value"],
                _spearman(neurons["rank"], neurons["rank" if name == RARE else f"rank_{name}"]),
                verdicts if isinstance(verdicts, Undefined) else verdicts[name],
            )
        )
    return sorted(rows, key=lambda row: row.share)


def last_step(run: Run, stored: Collection[int]) -> int:
    """The step that stands for a run: the last sound one of those stored, or the last where none is."""
    return max([s for s in stored if s not in run.manifest.left_out] or stored)


def estimate(rows: pl.DataFrame, metric: str) -> Estimate | Undefined:
    """A metric's number among rows of one class, or why it has none."""
    own = rows.filter(metric=metric)
    if own.is_empty():
        return Undefined("its analysis was not asked for")
    row = own.row(0, named=True)
    if row["value"] is None:
        return Undefined(row["reason"])
    return Estimate(row["value"], row["ci_low"], row["ci_high"], row["status"] == AT_EDGE)


def _spearman(theirs: pl.Series, own: pl.Series) -> Estimate | Undefined:
    found = rank_correlation(theirs.cast(pl.Float64).to_numpy(), own.cast(pl.Float64).to_numpy())
    return found if isinstance(found, Undefined) else Estimate(found.value, found.low, found.high)


def _verdicts(run: Run, names: Iterable[str]) -> dict[str, dict[str, str]] | Undefined:
    """By class, then claim; or why the run has no scorecard."""
    verdicts = {}
    try:
        for name in names:
            verdicts[name] = {row.claim: row.verdict for row in scorecard(run, claims_of_class(name))}
    except InputError as error:
        return Undefined(str(error))
    return verdicts


def claims_of_class(name: str) -> tuple[Claim, ...]:
    """BAND_CLAIMS of one class, in the last layer."""
    claims = (c for c in CLAIMS if c.name in BAND_CLAIMS)
    return tuple(
        replace(c, criteria=tuple(replace(k, token_class=name) for k in c.criteria), earlier_layers=False)
        for c in claims
    )
