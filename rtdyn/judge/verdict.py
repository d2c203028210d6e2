"""One criterion of a claim, held against the last sound step of a run."""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTED, CONTRADICTED, UNDETERMINED = "supported", "contradicted", "undetermined"
TRENDS = ("trend", "relative trend")
"""Kinds that are read over all steps."""


@dataclass(frozen=True)
class Check:
    """One criterion at the last sound step."""

    statistic: str
    """What is shown of the criterion."""
    role: str
    """Whether it bears the verdict or gates it, as the criterion says."""
    kind: str
    """How it is read, as the criterion says."""
    metric: str
    """The stored metric that is read."""
    token_class: str | None
    """The class that the metric is read for; None where it has none."""
    value: float | None
    """The statistic at the last sound step, for a trend its slope; None where it is undefined."""
    ci_low: float | None
    """Lower end of its 95 % interval; None where it has none."""
    ci_high: float | None
    """Upper end of its 95 % interval; None where it has none."""
    clusters: int | None
    """Independent pieces of text that the interval is from; None where it is not from text."""
    at_edge: bool
    """Whether the value is the last that could be found: the quantity is as far or farther."""
    null: str | None
    """The null that it is held against; None without one."""
    null_mean: float | None
    """Mean of the metric under the null."""
    null_sd: float | None
    """Standard deviation of the metric under the null."""
    p_value: float | None
    """Of the value under the null, or the value itself where that is a p-value."""
    margin_low: float | None
    """Lower bound of the region in which the claim holds; None where it is open."""
    margin_high: float | None
    """Upper bound of the region in which the claim holds; None where it is open."""
    level: float | None
    """Of the interval that has to lie inside the margin for support; None where no interval is asked for."""
    verdict: str
    """`supported`, `contradicted` or `undetermined`."""
    reason: str
    """Why the verdict is not `supported`; empty if it is."""

    @property
    def null_centre(self) -> float | None:
        """The null's mean in the units of the value: of a difference from it 0, of a trend there is none."""
        if self.kind in TRENDS or self.null_mean is None:
            return None
        return 0.0 if self.kind == "difference" else self.null_mean
