"""The main metrics over training, with what is judged of each: emergence and change points, from the store alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from rtdyn.errors import InputError
from rtdyn.judge.change_points import ChangePoints, change_points
from rtdyn.judge.emergence import Emergence, beyond_p, emergence
from rtdyn.judge.series import NOT_STORED, Selection, Series, series
from rtdyn.names import COMMON, LAYERS, PLATEAU, PSEUDO_CLASS, RARE, SELECTED, TOP
from rtdyn.undefined import Undefined
from rtdyn.views.report.run_tables import RunTables

Scale = Literal["linear", "log", "symlog"]
Effect = Literal["null", "value is p", "above 0", "none"]
"""What emerges: a value that differs from its null, a p-value of its own, an interval above 0, nothing."""


@dataclass(frozen=True)
class PanelLine:
    """One series of a panel."""

    label: str
    selection: Selection
    effect: Effect = "none"
    colour: str = RARE
    """By meaning: a class, a group, or a layer counted from the end."""
    layer_from_end: int | None = None
    whole_layer: bool = False
    """Whether the rows of no group are meant, where groups have rows of the same name."""


@dataclass(frozen=True)
class Panel:
    """One metric's place in the emergence panel."""

    name: str
    title: str
    unit: str
    scale: Scale
    lines: tuple[PanelLine, ...]

    @property
    def full_title(self) -> str:
        """With its unit, where it has one."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


@dataclass(frozen=True)
class JudgedLine:
    """One line with its series."""

    line: PanelLine
    series: Series
    """Over the sound steps."""
    left_out: Series | None
    """Over the steps that trajectories leave out; None where there are none."""
    emerged: Emergence | None
    """None where no effect is looked for."""
    changes: ChangePoints | Undefined


JudgedPanels = Mapping[str, Sequence[JudgedLine]]
"""By panel name, its lines."""


def _by_class(analysis: str, metric: str, effect: Effect = "none") -> tuple[PanelLine, ...]:
    return tuple(PanelLine(c, Selection(analysis, metric, c), effect, c) for c in (RARE, COMMON))


def _by_group(
    analysis: str, metric: str, null: str = SELECTED, groups: tuple[str, ...] = (TOP, PLATEAU)
) -> tuple[PanelLine, ...]:
    return tuple(PanelLine(g, Selection(analysis, metric, RARE, g, null), "null", g) for g in groups)


def _by_layer(metric: str, null: str, group: str | None = None) -> tuple[PanelLine, ...]:
    return tuple(
        PanelLine(
            "last layer" if k == -1 else "layer before",
            Selection("routing", metric, RARE, group, null),
            "null",
            f"layer {k}",
            k,
        )
        for k in (-2, -1)
    )


def _earlier_layers(metric: str) -> tuple[PanelLine, ...]:
    return tuple(
        PanelLine(
            f"layer L{k}", Selection(LAYERS, metric, RARE), colour=f"layer {k}", layer_from_end=k, whole_layer=True
        )
        for k in (-2, -3, -4)
    )


def _top_of_earlier_layers(metric: str) -> tuple[PanelLine, ...]:
    return tuple(
        PanelLine(f"layer L{k}", Selection(LAYERS, metric, RARE, TOP, SELECTED), "null", f"layer {k}", k)
        for k in (-2, -3, -4)
    )


def _of_layer(metric: str, *matrices: str) -> tuple[PanelLine, ...]:
    """A line for each matrix of the final MLP that a metric names; without a name it is the only one that reads."""
    return tuple(
        PanelLine(
            m or "in", Selection("heavytail", metric + (m and f"_{m}")), colour=f"matrix {m or 'in'}", whole_layer=True
        )
        for m in matrices
    )


PANELS: tuple[Panel, ...] = (
    Panel("loss", "Loss", "nats", "linear", (*_by_class("capture", "loss"),)),
    Panel("influence-max", "Largest influence", "nats", "log", _by_class("ablation", "influence_max")),
    Panel("influence-share", "Share of the top 1 %", "of all influence", "linear",
          _by_class("ablation", "influence_top_share")),
    Panel("layers-mean", "Mean total influence by layer", "nats", "log", _earlier_layers("total_mean")),
    Panel("layers-share", "Share of the top 1 % by layer", "of all influence", "linear",
          _earlier_layers("total_top_share")),
    Panel("layers-rare", "Total influence by layer", "rare − common, nats", "symlog",
          _earlier_layers("total_rare_excess")),
    Panel("layers-direct", "Direct share by layer", "of total effects", "linear", _earlier_layers("direct_share")),
    Panel("layers-participation", "Participation ratio of the top by layer", "dimensions", "linear",
          _top_of_earlier_layers("participation_ratio_unbiased")),
    Panel("layers-inside", "Edges inside the top by layer", "share", "linear", _top_of_earlier_layers("inside_share")),
    Panel("excess", "Excess of the top", "log units", "linear", _by_class("regimes", "excess", "above 0")),
    Panel("shape-p", "Largest shape p", "", "log", _by_class("regimes", "shape_p_value", "value is p")),
    Panel("contrast-excess", "Excess among pseudo-classes", "log units", "linear",
          (PanelLine(RARE, Selection("regimes", "contrast_excess", RARE, None, PSEUDO_CLASS), "null"),)),
    Panel("kappa", "Power-law exponent κ", "", "linear", _by_class("regimes", "kappa")),
    Panel("contrast-kappa", "κ among pseudo-classes", "", "linear",
          (PanelLine(RARE, Selection("regimes", "contrast_kappa", RARE, None, PSEUDO_CLASS), "null"),)),
    Panel("participation", "Participation ratio", "dimensions", "linear",
          _by_group("dimensionality", "participation_ratio_unbiased")),
    Panel("d-eff", "Effective dimensionality", "components", "linear", _by_group("dimensionality", "d_eff")),
    Panel("q-excess", "Modularity at equal edges", "Q", "symlog", _by_group("modularity", "q_excess")),
    Panel("inside", "Edges inside the group", "share", "linear", _by_group("modularity", "inside_share")),
    Panel("profile-r", "Attention profiles", "Pearson r", "linear", _by_layer("profile_r_plain", PSEUDO_CLASS)),
    Panel("gini", "Gini of attention", "rare − common", "symlog",
          _by_layer("gini_difference", PSEUDO_CLASS)),
    Panel("bos", "Attention to key 0", "rare − common", "symlog",
          _by_layer("bos_difference", PSEUDO_CLASS)),
    Panel("head-max", "Strongest head on the top", "share of activation", "symlog",
          _by_layer("head_effect_max", SELECTED, TOP)),
    Panel("layer-effect", "All heads on the top", "share of activation", "symlog",
          _by_layer("layer_effect", SELECTED, TOP)),
    Panel("hill", "Hill α of input weights", "", "linear", _by_group("heavytail", "hill_alpha_half")),
    Panel("hill-gate", "Hill α of gate weights", "", "linear", _by_group("heavytail", "hill_alpha_half_gate")),
    Panel("hill-up", "Hill α of up weights", "", "linear", _by_group("heavytail", "hill_alpha_half_up")),
    Panel("layer-hill", "Hill α of the whole layer", "", "linear", _of_layer("hill_alpha_tenth", "", "gate", "up")),
    Panel("layer-farms", "Hill α of square submatrices, layer", "", "linear",
          _of_layer("farms_hill_alpha_half", "", "gate", "up")),
    Panel("layer-ww", "weightwatcher's α, layer", "", "linear",
          _of_layer("ww_alpha", "in", "gate", "up", "out")),
    Panel("layer-rank", "Stable rank of the layer", "dimensions", "linear",
          _of_layer("ww_stable_rank", "in", "gate", "up", "out")),
    Panel("mediation", "Mediated by frequency", "share of influence", "linear",
          _by_group("mediation", "mediation")),
    Panel("null-space", "Output in the null space", "share", "linear", _by_group("mediation", "null_space_share")),
)  # fmt: skip
THEMES = {
    "influence": "loss, influence and regimes",
    "groups": "the groups of neurons",
    "layers": "attention and layers",
}
"""The figures that the main metrics are divided among, and what each shows."""


def theme_of(panel: Panel) -> str:
    """Which of THEMES a panel belongs to: by its analysis, and by whether a group or the whole layer is measured."""
    first = panel.lines[0]
    if first.selection.analysis in ("capture", "ablation", "regimes"):
        return "influence"
    return "layers" if first.selection.analysis in ("routing", LAYERS) or first.whole_layer else "groups"


def judged_panels(shown: RunTables, panels: tuple[Panel, ...] = PANELS) -> dict[str, list[JudgedLine]]:
    """By panel name, the lines that have a value at some sound step; a panel without any is left out.

    Raises InputError if the run holds fewer than three sound steps.
    """
    result = {}
    for panel in panels:
        lines = [judged for line in panel.lines if (judged := judge(shown, line)) is not None]
        if lines:
            result[panel.name] = lines
    return result


def undefined_lines(shown: RunTables, judged: JudgedPanels) -> dict[str, str]:
    """Lines that were measured and have no value, by panel and label, with the reason of the last sound step.

    judged: the run's lines that have a value, from `judged_panels`.
    """
    reasons = {}
    for panel in PANELS:
        has_value = {one.line for one in judged.get(panel.name, ())}
        for line in (line for line in panel.lines if line not in has_value):
            measured = _series(shown, line, shown.sound_steps)
            if isinstance(measured, Undefined):
                reasons[f"{panel.title}, {line.label}"] = measured.reason
            elif np.isnan(measured.value).all() and set(measured.reasons) != {NOT_STORED}:
                reasons[f"{panel.title}, {line.label}"] = measured.reasons[-1]
    return reasons


def judge(shown: RunTables, line: PanelLine) -> JudgedLine | None:
    """A line's series with its emergence and change points; None where it has no value at any sound step."""
    measured = _series(shown, line, shown.sound_steps)
    if isinstance(measured, Undefined) or np.isnan(measured.value).all():
        return None
    flawed = _series(shown, line, shown.steps) if shown.left_out else Undefined("no step is left out")
    return JudgedLine(
        line,
        measured,
        None if isinstance(flawed, Undefined) else _only(flawed, set(shown.left_out)),
        _emergence(line.effect, measured),
        change_points(measured.steps, measured.value),
    )


def _series(shown: RunTables, line: PanelLine, steps: list[int]) -> Series | Undefined:
    """The line over `steps`, or why its rows cannot be read as one series."""
    selection = line.selection
    layer = shown.layer
    if layer is not None and selection.analysis != "capture":
        offset = 0 if line.layer_from_end is None else line.layer_from_end + 1
        selection = Selection(
            selection.analysis, selection.metric, selection.token_class, selection.group, selection.null, layer + offset
        )
    rows = shown.metrics.filter(pl.col("step").is_in(steps))
    if line.whole_layer:
        rows = rows.filter(pl.col("analysis").ne(selection.analysis) | pl.col("group").is_null())
    try:
        return series(rows, selection)
    except InputError as error:
        return Undefined(str(error))


def _only(whole: Series, steps: set[int]) -> Series:
    kept = np.isin(whole.steps, list(steps))
    arrays: dict[str, Any] = {
        name: getattr(whole, name)[kept]
        for name in (
            "steps",
            "tokens_seen",
            "value",
            "ci_low",
            "ci_high",
            "null_mean",
            "null_sd",
            "p_value",
            "clusters",
        )
    }
    reasons: dict[str, Any] = {
        name: tuple(r for r, k in zip(getattr(whole, name), kept, strict=True) if k)
        for name in ("reasons", "null_reasons", "at_edge")
    }
    return Series(**arrays, **reasons)


def _emergence(effect: Effect, measured: Series) -> Emergence | None:
    if effect == "null":
        return emergence(measured.steps, measured.p_value)
    if effect == "value is p":
        return emergence(measured.steps, measured.value)
    if effect == "above 0":
        # ≤ 0.05 where the 95 % interval lies above 0
        p = 2 * beyond_p(measured.value, measured.ci_low, measured.ci_high, measured.clusters, 0.0, 1)
        return emergence(measured.steps, np.minimum(1.0, p))
    return None
