"""How what a run says of rare tokens moves with the text: its domains beside the main one, band by band.

All texts are measured on the same classes, by the same model. Each domain has rows at its last sound step as the main
text has, and the verdicts that rest on one class's curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rtdyn.errors import InputError
from rtdyn.judge.bands import BAND_CLAIMS, Estimate, claims_of_class, estimate, last_step
from rtdyn.judge.scorecard import judged
from rtdyn.judge.trajectories import trajectories
from rtdyn.names import COMMON
from rtdyn.parquet import read_parquet
from rtdyn.store.manifest import TargetKindsRecord, TokenClassRecord
from rtdyn.store.run import Run, done_steps, table_file
from rtdyn.undefined import Undefined

_ESTIMATES = ("loss", "plateau", "kappa", "excess", "shape_p", "spearman", "between_halves")


@dataclass(frozen=True)
class DomainRow:
    """One band of rare tokens in one text, at the run's last sound step."""

    domain: str | None
    """None of the main text."""
    token_class: str
    band: str
    """As it was asked for."""
    targets: int
    """Positions that it is measured on."""
    kinds: TargetKindsRecord | None
    loss: Estimate | Undefined
    """Nats, on the class's positions."""
    plateau: Estimate | Undefined
    """Share of the neurons that the fitted plateau holds, be it raised or not."""
    kappa: Estimate | Undefined
    excess: Estimate | Undefined
    """ln units."""
    shape_p: Estimate | Undefined
    """The largest p of the shape nulls."""
    spearman: Estimate | Undefined | None
    """Of the neurons' influence with that in the main text; None of the main text itself."""
    between_halves: Estimate | Undefined | None
    """The same between halves of the domain's own text."""
    verdicts: Mapping[str, str] | Undefined
    """By claim of BAND_CLAIMS."""


def domain_rows(run: Run) -> list[DomainRow]:
    """A row a text and band, the main text first; none of a run without domains.

    Raises InputError if the run holds no finished step.
    """
    if not run.manifest.domains:
        return []
    steps = list(done_steps(run))
    if not steps:
        raise InputError(f"{run.path} holds no finished step yet")
    step = last_step(run, steps)
    main = read_parquet(table_file(run, "metrics", step))
    stored = read_parquet(table_file(run, "domains", step))
    texts = _texts(run, main, stored)
    verdicts = _verdicts(run)
    return [
        _row(name, band, classes[band], metrics, verdicts if isinstance(verdicts, Undefined) else verdicts[name, band])
        for name, (classes, metrics) in texts.items()
        for band in classes
        if band != COMMON
    ]


def _texts(
    run: Run, main: pl.DataFrame, stored: pl.DataFrame
) -> dict[str | None, tuple[Mapping[str, TokenClassRecord], pl.DataFrame]]:
    """By text, the main one as None: its classes, and its rows in the form of metrics/."""
    domains = run.manifest.domains.items()
    return {None: (run.manifest.classes, main)} | {
        name: (domain.classes, stored.filter(domain=name).drop("domain")) for name, domain in domains
    }


def _row(
    domain: str | None,
    band: str,
    found: TokenClassRecord,
    metrics: pl.DataFrame,
    verdicts: Mapping[str, str] | Undefined,
) -> DomainRow:
    own = metrics.filter(token_class=band)
    curve = own.filter(analysis="regimes")
    return DomainRow(
        domain,
        band,
        found.band,
        found.measured,
        found.kinds,
        estimate(own, "loss"),
        estimate(curve, "plateau_fraction"),
        estimate(curve, "kappa"),
        estimate(curve, "excess"),
        estimate(curve, "shape_p_value"),
        None if domain is None else estimate(own, "rank_spearman"),
        None if domain is None else estimate(own, "rank_spearman_halves"),
        verdicts,
    )


def _verdicts(run: Run) -> dict[tuple[str | None, str], dict[str, str]] | Undefined:
    """By text and band, then claim; or why there are none."""
    try:
        main, stored = trajectories(run), trajectories(run, "domains")
    except InputError as error:
        return Undefined(str(error))
    return {
        (name, band): {row.claim: row.verdict for row in judged(metrics, classes, claims_of_class(band))}
        for name, (classes, metrics) in _texts(run, main, stored).items()
        for band in classes
        if band != COMMON
    }


def domain_summary(rows: Sequence[DomainRow]) -> pl.DataFrame:
    """Rows as a frame: each estimate in three columns, number and ends of its interval; null where undefined.

    plateau_at_edge: whether the plateau is as large as the fit can find, or as small, and may lie beyond.
    """
    records = []
    for row in rows:
        record: dict[str, Any] = {"domain": row.domain, "token_class": row.token_class, "band": row.band}
        record["targets"] = row.targets
        for name in ("types", "byte_fragments", "no_whole_words"):
            record[name] = None if row.kinds is None else getattr(row.kinds, name)
        for name in _ESTIMATES:
            found = getattr(row, name)
            ends = (found.value, found.low, found.high) if isinstance(found, Estimate) else (None, None, None)
            record |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        record["plateau_at_edge"] = row.plateau.at_edge if isinstance(row.plateau, Estimate) else None
        verdicts = {} if isinstance(row.verdicts, Undefined) else row.verdicts
        records.append(record | {claim: verdicts.get(claim) for claim in BAND_CLAIMS})
    texts = ("domain", "token_class", "band", *BAND_CLAIMS)
    kinds: dict[str, Any] = dict.fromkeys(texts, pl.String) | dict.fromkeys(("targets", "types"), pl.Int64)
    kinds["plateau_at_edge"] = pl.Boolean
    return pl.DataFrame(records, schema={name: kinds.get(name, pl.Float64) for name in (records[0] if records else ())})
