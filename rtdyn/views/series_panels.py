"""The main metrics over training, with what is judged of each: emergence and change points, from the store alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from rtdyn.emergence import (
    ChangePoints,
    Emergence,
    Selection,
    Series,
    change_points,
    emergence,
    emergence_of_intervals,
    series,
)
from rtdyn.errors import InputError
from rtdyn.views.shown import COMMON, RARE, Shown

Scale = Literal["linear", "log", "symlog"]
Effect = Literal["null", "value is p", "above 0", "none"]
"""What emerges: a value that differs from its null, a p-value of its own, an interval above 0, nothing."""


@dataclass(frozen=True)
class Line:
    """One series of a panel."""

    label: str
    selection: Selection
    effect: Effect = "none"
    colour: str = RARE
    """By meaning: a class, a group, or a layer counted from the end."""
    layer_from_end: int | None = None


@dataclass(frozen=True)
class Panel:
    """One metric's place in the emergence panel."""

    name: str
    title: str
    unit: str
    scale: Scale
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Judged:
    """One line with its series."""

    line: Line
    series: Series
    """Over the sound steps."""
    left_out: Series | None
    """Over the steps that trajectories leave out; None where there are none."""
    emerged: Emergence | None
    """None where no effect is looked for."""
    changes: ChangePoints | str


def _by_class(analysis: str, metric: str, effect: Effect = "none") -> tuple[Line, ...]:
    return tuple(Line(c, Selection(analysis, metric, c), effect, c) for c in (RARE, COMMON))


def _by_group(
    analysis: str, metric: str, null: str = "matched", groups: tuple[str, ...] = ("top", "plateau")
) -> tuple[Line, ...]:
    return tuple(Line(g, Selection(analysis, metric, RARE, g, null), "null", g) for g in groups)


def _by_layer(metric: str, null: str, group: str | None = None) -> tuple[Line, ...]:
    return tuple(
        Line(f"layer L−{-k}", Selection("routing", metric, RARE, group, null), "null", f"layer {k}", k)
        for k in (-2, -1)
    )


_CONTRAST = "pseudo-class"
PANELS: tuple[Panel, ...] = (
    Panel("loss", "Loss", "nats", "linear", (*_by_class("capture", "loss"),)),
    Panel("influence-max", "Largest influence", "nats", "log", _by_class("ablation", "influence_max")),
    Panel("influence-share", "Share of the top 1 %", "of all influence", "linear",
          _by_class("ablation", "influence_top_share")),
    Panel("excess", "Excess of the top", "log units", "linear", _by_class("regimes", "excess", "above 0")),
    Panel("shape-p", "Largest shape p", "p", "log", _by_class("regimes", "shape_p_value", "value is p")),
    Panel("contrast-excess", "Excess among pseudo-classes", "log units", "linear",
          (Line(RARE, Selection("regimes", "contrast_excess", RARE, None, _CONTRAST), "null"),)),
    Panel("kappa", "Power-law exponent κ", "", "linear", _by_class("regimes", "kappa")),
    Panel("contrast-kappa", "κ among pseudo-classes", "", "linear",
          (Line(RARE, Selection("regimes", "contrast_kappa", RARE, None, _CONTRAST), "null"),)),
    Panel("participation", "Participation ratio", "dimensions", "linear",
          _by_group("dimensionality", "participation_ratio")),
    Panel("d-eff", "Effective dimensions", "dimensions", "linear", _by_group("dimensionality", "d_eff")),
    Panel("q-excess", "Modularity at equal edges", "Q", "symlog", _by_group("modularity", "q_excess")),
    Panel("inside", "Edges inside the group", "share", "linear", _by_group("modularity", "inside_share")),
    Panel("profile-r", "Attention profiles, rare–common", "Pearson r", "linear", _by_layer("profile_r", "resampling")),
    Panel("gini", "Gini of attention, rare − common", "difference", "symlog",
          _by_layer("gini_difference", "permutation")),
    Panel("bos", "Attention to key 0, rare − common", "difference", "symlog",
          _by_layer("bos_difference", "permutation")),
    Panel("head-max", "Strongest head on the top", "share of activation", "symlog",
          _by_layer("head_effect_max", "matched", "top")),
    Panel("layer-effect", "All heads on the top", "share of activation", "symlog",
          _by_layer("layer_effect", "matched", "top")),
    Panel("hill", "Hill α of input weights", "α", "linear", _by_group("heavytail", "hill_alpha_half")),
    Panel("mediation", "Mediated by frequency", "share of influence", "linear",
          _by_group("mediation", "mediation")),
    Panel("null-space", "Output in the null space", "share", "linear", _by_group("mediation", "null_space_share")),
)  # fmt: skip


def judged_panels(shown: Shown, panels: tuple[Panel, ...] = PANELS) -> dict[str, list[Judged]]:
    """By panel name, the lines that have a value at some sound step; a panel without any is left out.

    Raises InputError if the run holds fewer than three sound steps.
    """
    result = {}
    for panel in panels:
        lines = [judged for line in panel.lines if (judged := judge(shown, line)) is not None]
        if lines:
            result[panel.name] = lines
    return result


def undefined_lines(shown: Shown, panels: tuple[Panel, ...] = PANELS) -> dict[str, str]:
    """Lines without any value, by panel and label, with the reason of the last sound step."""
    reasons = {}
    for panel in panels:
        for line in panel.lines:
            found = _series(shown, line, shown.sound_steps)
            if isinstance(found, str) or np.isnan(found.value).all():
                why = found if isinstance(found, str) else found.reasons[-1]
                reasons[f"{panel.title}, {line.label}"] = why
    return reasons


def judge(shown: Shown, line: Line) -> Judged | None:
    """A line's series with its emergence and change points; None where it has no value at any sound step."""
    found = _series(shown, line, shown.sound_steps)
    if isinstance(found, str) or np.isnan(found.value).all():
        return None
    flawed = _series(shown, line, shown.steps)
    return Judged(
        line,
        found,
        _only(flawed, set(shown.left_out)) if shown.left_out and not isinstance(flawed, str) else None,
        _emergence(line.effect, found),
        change_points(found.steps, found.value),
    )


def _series(shown: Shown, line: Line, steps: list[int]) -> Series | str:
    """The line over `steps`, or why its rows cannot be read as one series."""
    selection = line.selection
    layer = shown.layer
    if layer is not None and selection.analysis != "capture":
        offset = 0 if line.layer_from_end is None else line.layer_from_end + 1
        selection = Selection(
            selection.analysis, selection.metric, selection.token_class, selection.group, selection.null, layer + offset
        )
    try:
        return series(shown.metrics.filter(pl.col("step").is_in(steps)), selection)
    except InputError as error:
        return str(error)


def _only(whole: Series, steps: set[int]) -> Series:
    kept = np.isin(whole.steps, list(steps))
    arrays: dict[str, Any] = {
        name: getattr(whole, name)[kept]
        for name in ("steps", "tokens_seen", "value", "ci_low", "ci_high", "null_mean", "null_sd", "p_value", "n")
    }
    reasons: dict[str, Any] = {
        name: tuple(r for r, k in zip(getattr(whole, name), kept, strict=True) if k)
        for name in ("reasons", "null_reasons")
    }
    return Series(**arrays, **reasons)


def _emergence(effect: Effect, found: Series) -> Emergence | None:
    if effect == "null":
        return emergence(found.steps, found.p_value)
    if effect == "value is p":
        return emergence(found.steps, found.value)
    if effect == "above 0":
        return emergence_of_intervals(found.steps, found.value, found.ci_low, found.ci_high, side=1)
    return None
