"""Domains beside the main text, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from rtdyn.counted import counted
from rtdyn.judge.bands import BAND_CLAIMS, Estimate
from rtdyn.judge.domains import DomainRow
from rtdyn.names import position_by
from rtdyn.say_plain import say_plain
from rtdyn.store.manifest import LeftOutDomainRecord
from rtdyn.text.clusters import FEW_CLUSTERS
from rtdyn.text.evaluation import Evaluation
from rtdyn.undefined import Undefined
from rtdyn.views.number import number
from rtdyn.views.terminal.fitted import print_fitted

DOMAIN_HEADERS = (
    "domain", "band", "positions", "types", "byte fragments", "no whole words", "loss", "plateau, share of neurons",
    "κ", "excess", "shape p", "ranks as in the main text: Spearman", "between its halves", *BAND_CLAIMS,
)  # fmt: skip
DOMAIN_NOTE = (
    "All texts are measured on the same token types. Positions are the measured ones, whose class is that of their "
    "target, or of their query with --class-by query. Types are the distinct ones of these tokens; byte fragments and "
    "no whole words are shares of them. The plateau is the fitted one, be it raised or not. "
    "Noise lowers Spearman's correlations: that between halves of a domain's own text says how far. Their intervals "
    "take the neurons for the sample."
)
MAIN_TEXT = "main text"


def domain_lines(evaluation: Evaluation) -> Iterator[str]:
    """A line a domain, before the run: what it is measured on, or why it is left out."""
    for name, domain in evaluation.domains.items():
        rare = domain.positions.classes[0]
        held_out = "not checked" if domain.known_text is None else domain.known_text.held_out
        pieces, unit = domain.clusters.count, f"independent {domain.clusters.unit.removesuffix('s')}"
        few = f"; caution: under {FEW_CLUSTERS} pieces, intervals may be too narrow" if pieces < FEW_CLUSTERS else ""
        size = f"{counted(domain.text.windows.size, 'token')} in {counted(pieces, unit)}"
        positions = counted(rare.available, f"rare {position_by(domain.class_by)}")
        yield f"domain {name}: {domain.corpus_name}, {size}, {positions}; held out from training: {held_out}{few}"
    for name, fault in evaluation.left_out.items():
        yield left_out_line(name, LeftOutDomainRecord(rare_targets=fault.rare, reason=fault.reason))


def left_out_line(name: str, domain: LeftOutDomainRecord) -> str:
    """How many rare positions a domain has that is left out, and why it is."""
    return f"domain {name} is left out with {counted(domain.rare_targets, 'rare position')}: {domain.reason}"


def domain_cells(row: DomainRow) -> tuple[str, ...]:
    """The row as it is shown, by DOMAIN_HEADERS."""
    verdicts = ["—"] * len(BAND_CLAIMS) if isinstance(row.verdicts, Undefined) else [*row.verdicts.values()]
    kinds = row.kinds
    shares = (None, None) if kinds is None else (kinds.byte_fragments, kinds.no_whole_words)
    return (
        MAIN_TEXT if row.domain is None else row.domain,
        f"{row.token_class} ({row.band})",
        f"{row.targets:,}",
        "—" if kinds is None else f"{kinds.types:,}",
        *("—" if share is None else f"{share:.2f}" for share in shares),
        *map(_shown, (row.loss, row.plateau, row.kappa, row.excess, row.shape_p, row.spearman, row.between_halves)),
        *verdicts,
    )


def print_domains(rows: Sequence[DomainRow], left_out: Mapping[str, LeftOutDomainRecord], console: Console) -> None:
    """A row a text and band, then what is left out; nothing of a run without domains."""
    notes = [left_out_line(name, domain) for name, domain in left_out.items()]
    if rows:
        cells = [dict(zip(DOMAIN_HEADERS, domain_cells(row), strict=True)) for row in rows]
        print_fitted("Domains beside the main text, intervals 95 %", cells, console)
        why = next((row.verdicts.reason for row in rows if isinstance(row.verdicts, Undefined)), "")
        unread = next((row.kinds.reason for row in rows if row.kinds is not None and row.kinds.reason), "")
        notes = [
            DOMAIN_NOTE,
            *([f"No verdicts: {why}."] if why else []),
            *([f"No shares of fragments and words: {unread}."] if unread else []),
            *notes,
        ]
    for text in notes:
        say_plain(console, text)


def _shown(estimate: Estimate | Undefined | None) -> str:
    if estimate is None:
        return "—"
    if isinstance(estimate, Undefined):
        return f"undefined ({estimate.reason})"
    return number(estimate.value, estimate.low, estimate.high, at_edge=estimate.at_edge)
