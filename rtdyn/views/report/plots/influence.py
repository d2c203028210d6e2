"""Rank–influence curves with their fitted regimes, and the regimes' sizes over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rtdyn.names import CENSORED, COMMON, DECAY, FLATTENING_TOP, PLATEAU, POWER_LAW, RAISED_TOP, RARE
from rtdyn.store.schema import AT_EDGE, PLAIN, PSEUDO_INFLUENCE
from rtdyn.undefined import Undefined
from rtdyn.views.number import p_value
from rtdyn.views.report.plots.style import (
    COLOURS,
    LINE_STYLES,
    NULL,
    OKABE_ITO,
    grid,
    head,
    label_edges,
    legend,
    log_scale,
    plain,
    run_colour,
    step_axis,
    styled,
    title,
    wrapped,
)
from rtdyn.views.report.run_tables import RunTables

NO_INFLUENCE = Undefined("the run holds no influences: its weights alone were analysed")
REGIME_NAMES = {PLATEAU: "top", POWER_LAW: "power law", DECAY: "rapid decay"}
SEGMENT_COLOURS = {PLATEAU: OKABE_ITO["purple"], POWER_LAW: OKABE_ITO["black"], DECAY: OKABE_ITO["green"]}


def ranked_influence(shown: RunTables, step: int, token_class: str) -> pl.DataFrame:
    """rank from 1, influence, its error and regime of each neuron at a step, the most influential first.

    error: half of the 95 % interval.
    """
    suffix = "" if token_class == RARE else f"_{token_class}"
    regime = pl.col(f"regime{suffix}") if f"regime{suffix}" in shown.neurons.columns else pl.lit(None, pl.String)
    return (
        shown.neurons.filter(step=step)
        .select(
            "neuron",
            shown.influence(token_class).alias("influence"),
            shown.influence_error(step, token_class).alias("error"),
            regime.alias("regime"),
        )
        .sort("influence", "neuron", descending=[True, False])
        .with_row_index("rank", offset=1)
    )


def fitted_segments(shown: RunTables, step: int, token_class: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By regime, ranks and fitted influence at the ends of its line; empty where the fit is undefined."""
    corrected = ("r1", "r2", "kappa", "decay_slope")
    names = (*(name + PLAIN for name in corrected), "last", "beta", "plateau_slope", "plateau_intercept")
    fitted = {name: shown.value(step, name, token_class) for name in names}
    fit = {name.removesuffix(PLAIN): value for name, value in fitted.items() if value is not None}
    if len(fit) < len(names):
        return {}
    r1, r2, last = fit["r1"], fit["r2"], fit["last"]
    ends = {PLATEAU: np.array([1.0, r1]), POWER_LAW: np.array([r1, r2]), DECAY: np.array([r2, last])}
    level = fit["beta"] - fit["kappa"] * np.log(r2)
    lines = {
        PLATEAU: fit["plateau_intercept"] + fit["plateau_slope"] * np.log(ends[PLATEAU]),
        POWER_LAW: fit["beta"] - fit["kappa"] * np.log(ends[POWER_LAW]),
        DECAY: level + fit["decay_slope"] * np.log(ends[DECAY] / r2),
    }
    return {name: (ends[name], np.exp(lines[name])) for name in ends}


def verdict(shown: RunTables, step: int, token_class: str) -> str:
    """What the top of the curve is, with its shape p."""
    raised = shown.value(step, "raised", token_class)
    if raised is None:
        return "no fit"
    p = shown.value(step, "shape_p_value", token_class)
    return (RAISED_TOP if raised else FLATTENING_TOP) + ("" if p is None else f", shape p {p_value(p)}")


RANKS = 160
"""Ranks with an interval of their own, at most: those of more would hide the curve."""


def thinned(count: int, most: int) -> np.ndarray:
    """Up to `most` of the ranks 1..count, evenly spaced in log rank, the first and the last among them."""
    if count <= most:
        return np.arange(1, count + 1)
    return np.unique(np.geomspace(1, count, most).round().astype(int))


def rank_influence(shown: RunTables, steps: Sequence[int], width: float | None = None) -> Figure | Undefined:
    """Ranked influence by step, rare beside common, its regimes, and for rare the band of pseudo-classes.

    A column a step; in a figure of up to two columns' `width`, in inches, a row a step. Of a run of weights alone, why
    there is none.
    """
    classes = [c for c in (RARE, COMMON) if c in shown.classes]
    if not classes:
        return NO_INFLUENCE
    with styled():
        if width is None or width >= 1.7 * len(steps):
            one = max(2.3, 2.6 / len(steps)) if width is None else width / len(steps)  # as wide as the legend
            figure, axes = grid(len(classes), len(steps), one, 2.25, sharex=True, sharey=True)
        else:
            figure, upright = grid(len(steps), len(classes), width / len(classes), 1.9, sharex=True, sharey=True)
            axes = upright.T
        for row, token_class in zip(axes, classes, strict=True):
            for ax, step in zip(row, steps, strict=True):
                _curve(ax, shown, step, token_class)
                title(ax, f"{token_class}, {shown.named(step)}")
                # below the curve, which falls: a title has no room for it
                ax.text(0.03, 0.04, verdict(shown, step, token_class), transform=ax.transAxes, fontsize=7,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        label_edges(figure.axes, "rank", "influence (nats)")
        axes[0, 0].set_ylim(*_limits(shown, steps, classes))
        head(figure, f"{plain(shown.label)}: influence of each neuron by rank")
        legend(figure, _handles(shown, steps, classes))
    return figure


def _handles(shown: RunTables, steps: Sequence[int], classes: Sequence[str]) -> list[Line2D | Patch]:
    """What is drawn at any of the steps, and nothing else."""
    handles: list[Line2D | Patch] = [Line2D([], [], color=COLOURS[c], label=f"{c}, 95 % intervals") for c in classes]
    if any(fitted_segments(shown, step, c) for step in steps for c in classes):
        handles += [
            Line2D([], [], color=colour, lw=1, label=f"fitted {REGIME_NAMES[name]}")
            for name, colour in SEGMENT_COLOURS.items()
        ]
        handles.append(Line2D([], [], color="black", lw=0.5, ls=(0, (1, 3)), label="ends of fitted segments"))
    if any((ranked_influence(shown, step, c)["regime"] == CENSORED).any() for step in steps for c in classes):
        handles.append(Line2D([], [], color=NULL, ls="", marker=".", label="censored: no influence beyond its error"))
    if shown.curves.filter(pl.col("step").is_in(list(steps)), kind=PSEUDO_INFLUENCE).height:
        handles.append(Patch(color=NULL, alpha=0.4, label="95 % of pseudo-classes of common tokens"))
    return handles


def _limits(shown: RunTables, steps: Sequence[int], classes: Sequence[str]) -> tuple[float, float]:
    """From the half percent smallest influence, below which few neurons would fill the picture, to the largest."""
    at = shown.neurons.filter(pl.col("step").is_in(list(steps)))
    values = np.concatenate([at.select(shown.influence(c)).to_series().to_numpy() for c in classes])
    positive = values[values > 0]
    if not len(positive):
        return 1e-9, 1.0
    return float(np.quantile(positive, 0.005)) / 2, float(positive.max()) * 2


def _curve(ax: Axes, shown: RunTables, step: int, token_class: str) -> None:
    ranked = ranked_influence(shown, step, token_class).filter(pl.col("influence") > 0)
    log_scale(ax, "xy")
    if token_class == RARE:
        _pseudo_band(ax, shown, step)
    rank, influence, error = (ranked[c].to_numpy() for c in ("rank", "influence", "error"))
    colour = COLOURS.get(token_class, OKABE_ITO["black"])
    floor = influence.min(initial=1) / 10
    shown_at = thinned(len(rank), RANKS) - 1 if len(rank) else np.array([], int)
    low, high = np.maximum(influence - error, floor), influence + error
    ax.vlines(rank[shown_at], low[shown_at], high[shown_at], color=colour, alpha=0.35, lw=0.6)
    ax.plot(rank, influence, color=colour, lw=1.6)
    hidden = ranked.filter(regime=CENSORED)
    ax.plot(hidden["rank"], hidden["influence"], ls="", marker=".", ms=1.5, color=NULL)
    for name, (ends, fitted) in fitted_segments(shown, step, token_class).items():
        ax.plot(ends, fitted, color=SEGMENT_COLOURS[name], lw=0.9)
        if name != PLATEAU:
            ax.axvline(ends[0], color="black", lw=0.5, ls=":")
        if name == DECAY:
            ax.axvline(ends[1], color="black", lw=0.5, ls=(0, (1, 3)))


def _pseudo(shown: RunTables, step: int) -> pl.DataFrame:
    return shown.curves.filter(step=step, kind=PSEUDO_INFLUENCE).drop_nulls("low")


def _pseudo_band(ax: Axes, shown: RunTables, step: int, colour: str = NULL, alpha: float = 0.4) -> None:
    band = _pseudo(shown, step)
    if band.height:
        ax.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=alpha, lw=0)


def compare_rank_influence(
    runs: Sequence[RunTables], at: Sequence[int], width: float | None = None
) -> Figure | Undefined:
    """Ranked influence of several runs, a colour each, rare beside common; `at` is each run's step. Or why none."""
    classes = [c for c in (RARE, COMMON) if any(c in run.classes for run in runs)]
    if not classes:
        return NO_INFLUENCE
    with styled():
        figure, axes = wrapped(len(classes), 3.6, 3.0, width, sharex=True, sharey=True)
        for ax, token_class in zip(axes, classes, strict=True):
            for index, (run, step) in enumerate(zip(runs, at, strict=True)):
                if token_class not in run.classes:
                    continue
                ranked = ranked_influence(run, step, token_class).filter(pl.col("influence") > 0)
                if token_class == RARE:
                    _pseudo_band(ax, run, step, run_colour(index), 0.15)
                ax.plot(ranked["rank"], ranked["influence"], color=run_colour(index))
                for ends, fitted in fitted_segments(run, step, token_class).values():
                    ax.plot(ends, fitted, color="black", lw=0.6)
            log_scale(ax, "xy")
            ax.set(title=token_class, xlabel="rank")
        measured = [(index, run, step) for index, (run, step) in enumerate(zip(runs, at, strict=True)) if run.classes]
        limits = [_limits(run, [step], [c for c in classes if c in run.classes]) for _, run, step in measured]
        axes[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axes[0].set_ylabel("influence (nats)")
        head(figure, "Influence of each neuron by rank")
        handles: list[Line2D | Patch] = [
            Line2D([], [], color=run_colour(i), label=f"{plain(run.label)}, {run.named(step)}")
            for i, run, step in measured
        ]
        if any(fitted_segments(run, step, c) for _, run, step in measured for c in classes):
            handles.append(Line2D([], [], color="black", lw=0.6, label="fitted regimes"))
        if any(_pseudo(run, step).height for _, run, step in measured):
            handles.append(Patch(color=NULL, alpha=0.4, label="95 % of each run's pseudo-classes of common tokens"))
        legend(figure, handles)
    return figure


def regime_sizes(runs: Sequence[RunTables], width: float | None = None) -> Figure | Undefined:
    """Share of neurons in each regime over training, an axis a class; several runs share the axes, a colour each.

    Without the analysis `regimes`, why there is none.
    """
    if not any("regime" in run.neurons.columns for run in runs):
        return Undefined("no regimes are stored: the analysis regimes was not asked for")
    classes = [c for c in (RARE, COMMON) if any(c in run.classes for run in runs)]
    single = len(runs) == 1
    with styled():
        figure, axes = wrapped(len(classes), 3.6, 2.7, width, sharex=True, sharey=True)
        for ax, token_class in zip(axes, classes, strict=True):
            for index, run in enumerate(runs):
                _sizes(ax, run, token_class, None if single else run_colour(index))
            step_axis(ax, [s for run in runs for s in run.steps])
            ax.set(title=token_class, ylim=(0, 1))
        axes[0].set_ylabel("share of neurons")
        who = f"{plain(runs[0].label)}: " if single else ""
        head(figure, f"{who}regimes of the rank–influence curve", capital=not single)
        styles = dict(zip((PLATEAU, POWER_LAW, DECAY), LINE_STYLES, strict=True))
        handles: list[Line2D | Patch] = [
            Line2D([], [], color=SEGMENT_COLOURS[n] if single else "black", ls=style, label=REGIME_NAMES[n])
            for n, style in styles.items()
        ]
        purple = SEGMENT_COLOURS[PLATEAU] if single else "black"
        if any(_raised(run, c) for run in runs for c in classes):
            handles.append(Line2D([], [], color=purple, ls="", marker="o", ms=4, label=RAISED_TOP))
        handles += _interval_handles([plateau_intervals(run, c) for run in runs for c in classes], purple)
        if any(_at_edge(run, c) for run in runs for c in classes):
            handles.append(
                Line2D([], [], color=purple, ls="", marker="o", mfc="white", ms=4, label="at an end of the fit's grid")
            )
        if any(run.left_out for run in runs):
            handles.append(Line2D([], [], color="black", ls="", marker="x", ms=4, label="step left out"))
        if not single:
            handles += [Line2D([], [], color=run_colour(i), label=plain(run.label)) for i, run in enumerate(runs)]
        legend(figure, handles)
    return figure


UNDECIDED = 0.5
"""Share of all neurons that an interval may span before it says nothing of a size."""


def _interval_handles(intervals: Sequence[pl.DataFrame], colour: str) -> list[Line2D | Patch]:
    """What is drawn of the plateau's intervals."""
    widths = pl.concat(intervals).select(pl.col("high") - pl.col("low")).to_series()
    said = (
        ("-", (widths <= UNDECIDED).any(), "95 % interval of the plateau's last rank"),
        (":", (widths > UNDECIDED).any(), f"one that spans over {UNDECIDED:.0%} of the neurons"),
    )
    return [Line2D([], [], color=colour, lw=0.8, ls=style, label=label) for style, is_drawn, label in said if is_drawn]


def _at_edge(run: RunTables, token_class: str) -> list[int]:
    """Sound steps whose plateau ends at an end of the fit's grid: it is as long, or longer or shorter."""
    rows = run.metrics.filter(analysis="regimes", metric="r1", token_class=token_class, status=AT_EDGE)
    return [step for step in rows["step"].unique().sort() if step not in run.left_out]


def _raised(run: RunTables, token_class: str) -> list[int]:
    """Sound steps whose top is raised and ends within the fit's grid."""
    edges = _at_edge(run, token_class)
    return [step for step in run.sound_steps if run.value(step, "raised", token_class) and step not in edges]


def plateau_intervals(run: RunTables, token_class: str) -> pl.DataFrame:
    """step, low and high: the 95 % interval of the plateau's last rank, as a share of all neurons."""
    rows = run.metrics.filter(analysis="regimes", metric="r1", token_class=token_class).drop_nulls("ci_low")
    count = run.neurons["neuron"].n_unique()
    return rows.sort("step").select("step", low=pl.col("ci_low") / count, high=pl.col("ci_high") / count)


def _sizes(ax: Axes, run: RunTables, token_class: str, colour: str | None) -> None:
    rows = run.metrics.filter(analysis="regimes", token_class=token_class).sort("step")
    for name, style in zip((PLATEAU, POWER_LAW, DECAY), LINE_STYLES, strict=True):
        sizes = rows.filter(metric=f"{name}_fraction").drop_nulls("value")
        regime_colour = colour or SEGMENT_COLOURS[name]
        sound = sizes.filter(~pl.col("step").is_in(list(run.left_out)))
        flawed = sizes.filter(pl.col("step").is_in(list(run.left_out)))
        ax.plot(sound["step"], sound["value"], color=regime_colour, ls=style)
        ax.plot(flawed["step"], flawed["value"], color=regime_colour, ls="", marker="x", ms=4)
        if name == PLATEAU:
            ends = plateau_intervals(run, token_class).filter(~pl.col("step").is_in(list(run.left_out)))
            for is_wide, dashes in ((False, "-"), (True, ":")):
                drawn = ends.filter((pl.col("high") - pl.col("low") > UNDECIDED) == is_wide)
                ax.vlines(drawn["step"], drawn["low"], drawn["high"], color=regime_colour, lw=0.8, ls=dashes)
            up = sound.filter(pl.col("step").is_in(_raised(run, token_class)))
            ax.plot(up["step"], up["value"], color=regime_colour, ls="", marker="o", ms=4)
            edge = sound.filter(pl.col("step").is_in(_at_edge(run, token_class)))
            ax.plot(edge["step"], edge["value"], color=regime_colour, ls="", marker="o", mfc="white", ms=4)
