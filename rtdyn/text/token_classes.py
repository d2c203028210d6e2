"""How frequent each token type is, and which types count as rare or common (METHODS §1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rtdyn.errors import InputError, UsageError
from rtdyn.streams import stream
from rtdyn.text.token_counts import SampledCounts, TokenCounts
from rtdyn.undefined import Undefined

ELBOW_WINDOW = 2000
ELBOW_MIN_TYPES = 3 * ELBOW_WINDOW
ROUND_OFF = 1e-6
"""Change of slope that the arithmetic alone may show."""
RARE_FRACTION = 0.15
REDRAWS = 5
"""How often sampled counts are drawn anew to see how their rare class moves."""
SURE = 0.1
"""Relative standard error of the rare class's frequencies up to which this says about how much is right."""
DECILES = 10
CLASS_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class TokenClass:
    """A band of frequency ranks: types ranked first < rank <= last, rank 1 the most frequent."""

    name: str
    band: str
    first: int
    last: int
    types: np.ndarray
    """bool (logits,): which ids belong."""


@dataclass(frozen=True)
class TokenClasses:
    """The classes of a run, and how their bands ended: the rare one first, `common` (all above it) last."""

    classes: tuple[TokenClass, ...]
    rank: np.ndarray
    """int64 (logits,): frequency rank from 1; 0 for padding ids, which are of no type."""
    end_rank: int
    end_reason: str

    @property
    def deciles(self) -> np.ndarray:
        """int64 (logits,): tenth of the frequency ranks each type lies in, 0 the most frequent; −1 for padding."""
        return np.where(self.rank > 0, (self.rank - 1) * DECILES // max(1, int(self.rank.max())), -1)

    def named(self, name: str) -> TokenClass:
        """The class called `name`."""
        return next(c for c in self.classes if c.name == name)


def elbow(frequencies: np.ndarray) -> int | None:
    """Rank at which the log-frequency curve breaks off into glitch and never-seen types (METHODS §1).

    frequencies: (types,) > 0, descending. At each rank the least-squares slope of log f on log rank over
    the next 2,000 ranks is compared with that over the last 2,000. The largest |change| in the lower half
    counts if it exceeds the mean of all by three standard deviations. None if it does not, or under 6,000
    types.
    """
    n = len(frequencies)
    if n < ELBOW_MIN_TYPES:
        return None
    x, y = np.log(np.arange(1, n + 1)), np.log(frequencies)
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (x, y, x * x, x * y)]
    sx, sy, sxx, sxy = (s[ELBOW_WINDOW:] - s[:-ELBOW_WINDOW] for s in sums)
    slopes = (sxy - sx * sy / ELBOW_WINDOW) / (sxx - sx * sx / ELBOW_WINDOW)
    change = np.abs(slopes[ELBOW_WINDOW:] - slopes[:-ELBOW_WINDOW])
    ranks = np.arange(len(change)) + ELBOW_WINDOW
    lower = ranks >= n // 2
    best = int(np.argmax(np.where(lower, change, -np.inf)))
    stands_out = change[best] > max(change.mean() + 3 * change.std(), ROUND_OFF)
    return int(ranks[best]) if stands_out else None


def classify(counts: TokenCounts, bands: Sequence[str], n_logits: int) -> TokenClasses:
    """The token classes of `bands` (the first is named `rare`) and `common`, over `n_logits` ids.

    A band is `N%`, the least frequent N % of types that count, of which `paper-text` is the 15 %. Or it is rank
    fractions `LOW:HIGH`, where `elbow` as HIGH is the rank that they count up to. `paper-code` is 0.15:elbow. `NAME=`
    before it names it. Raises InputError if the counts are longer than the logits, UsageError for a band that holds
    nothing.
    """
    n = len(counts.counts)
    if n > n_logits:
        raise InputError(
            f"the counts of {counts.source} have {n:,} entries but the model has {n_logits:,} logits; "
            "they belong to another tokenizer"
        )
    order = np.argsort(-counts.counts, kind="stable")
    rank = np.zeros(n_logits, dtype=np.int64)
    rank[order] = np.arange(1, n + 1)
    end = elbow(counts.counts[order] + 1.0)
    reason = "elbow"
    if end is None:
        end = int((counts.counts > 0).sum())
        reason = "last type seen" + (
            f" (elbow undefined under {ELBOW_MIN_TYPES:,} types)" if n < ELBOW_MIN_TYPES else " (no elbow found)"
        )
    classes: list[TokenClass] = []
    for i, text in enumerate(bands):
        name, band = _band_name(text, first=i == 0)
        if any(c.name == name for c in classes) or name == "common":
            raise UsageError(f"two classes would be called {name!r}; name the band, as in mid=0.3:0.6")
        first, last = _band_ranks(band, n, end)
        classes.append(_token_class(name, band, first, last, rank))
    classes.append(_token_class("common", "more frequent than rare", 0, classes[0].first, rank))
    return TokenClasses(tuple(classes), rank, end, reason)


def class_errors(sampled: SampledCounts, classes: TokenClasses) -> dict[str, float | Undefined]:
    """For each class the median over its types of a frequency's relative standard error, or why there is none."""
    if isinstance(sampled.relative_se, Undefined):
        return {c.name: sampled.relative_se for c in classes.classes}
    errors: dict[str, float | Undefined] = {}
    for c in classes.classes:
        median = float(np.median(sampled.relative_se[np.flatnonzero(c.types)]))
        met = np.isfinite(median)
        errors[c.name] = median if met else Undefined("half of its types were not met in the sample")
    return errors


def rare_overlap(counts: TokenCounts, classes: TokenClasses) -> float | None:
    """How right the rare class is expected to be that sampled counts give, or None where they have no standard errors.

    The share of the types in both of two classes, among those in either. One class is by these counts, and one by
    counts drawn anew about them with their standard errors (a parametric bootstrap). It is the mean of REDRAWS. A type
    that was not met stays so. Noise spreads sampled counts apart, so that the share is too high for a small sample. It
    is no more than a bound where the class's median relative standard error exceeds SURE.
    """
    if counts.sampled is None or isinstance(counts.sampled.relative_se, Undefined):
        return None
    seen, rare, rng = counts.counts, classes.classes[0], stream(0, "sampled counts drawn anew")
    se = np.where(seen > 0, counts.sampled.relative_se, 0.0) * seen
    shares = []
    for _ in range(REDRAWS):
        redrawn = np.maximum(0, np.rint(rng.normal(seen, se))).astype(np.int64)
        other = classify(replace(counts, counts=redrawn), [rare.band], len(rare.types)).classes[0].types
        shares.append((rare.types & other).sum() / (rare.types | other).sum())
    return float(np.mean(shares))


def _band_name(text: str, first: bool) -> tuple[str, str]:
    name, equals, band = text.rpartition("=")
    if not equals:
        plain = f"band_{text}" if text[:1].isdigit() else text
        name = "rare" if first else re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    elif first and name != "rare":
        raise UsageError(f"the first band is the class `rare`; give {band!r} without a name, or put it second")
    if not CLASS_COLUMN_NAME.fullmatch(name) or name == "all" or name.startswith("abs_"):
        raise UsageError(
            f"a band cannot be called {name!r}; use lower-case letters, digits and underscores, not `all` or `abs_...`"
        )
    return name, band


def _band_ranks(band: str, n: int, end: int) -> tuple[int, int]:
    share = re.fullmatch(r"([0-9]*\.?[0-9]+)%", band)
    if band == "paper-text" or share is not None:
        fraction = RARE_FRACTION if share is None else float(share[1]) / 100
        if not 0 < fraction < 1:
            raise UsageError(f"the band {band!r} must lie between 0% and 100%")
        return round((1 - fraction) * end), end
    match = re.fullmatch(r"([0-9]*\.?[0-9]+):([0-9]*\.?[0-9]+|elbow)", band)
    if band != "paper-code" and match is None:
        raise UsageError(
            f"cannot read the band {band!r}; use paper-text, paper-code, N%, LOW:HIGH such as 0.5:0.9, or LOW:elbow"
        )
    low = RARE_FRACTION if match is None else float(match[1])
    if match is None or match[2] == "elbow":
        return round(low * n), end
    high = float(match[2])
    if not 0 <= low < high <= 1:
        raise UsageError(f"the band {band!r} is empty or inverted; it must satisfy 0 <= LOW < HIGH <= 1")
    return round(low * n), round(high * n)


def _token_class(name: str, band: str, first: int, last: int, rank: np.ndarray) -> TokenClass:
    if last <= first:
        raise UsageError(f"the class {name!r} ({band}) would hold no token type: ranks {first + 1} to {last}")
    return TokenClass(name, band, first, last, (rank > first) & (rank <= last))
