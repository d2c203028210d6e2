"""Attention profiles of rare against common tokens, and eigenvalue spectra of the groups' input weights."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rtdyn.names import COMMON, RARE, SELECTED
from rtdyn.store.schema import ATTENTION, EIGENVALUE
from rtdyn.undefined import Undefined
from rtdyn.views.report.plots.style import (
    COLOURS,
    LINE_STYLES,
    NULL,
    head,
    label_edges,
    legend,
    log_scale,
    plain,
    run_colour,
    styled,
    wrapped,
)
from rtdyn.views.report.run_tables import RunTables

HEADS = 8
"""Heads a layer that are drawn, at most."""
_HALF_STYLES = ("-", LINE_STYLES[1])


def drawn_heads(profiles: pl.DataFrame, layer: int, most: int = HEADS) -> list[int]:
    """The layer's heads whose profiles differ most between the classes, by largest difference, in their own order."""
    wide = profiles.filter(layer=layer).pivot("token_class", index=["head", "x"], values="value")
    apart = wide.group_by("head").agg((pl.col(RARE) - pl.col(COMMON)).abs().max().alias("apart"))
    return sorted(apart.sort("apart", "head", descending=[True, False]).head(most)["head"].to_list())


def attention_profiles(shown: RunTables, step: int, width: float | None = None) -> Figure | Undefined:
    """An axis a head, by layer: attention by distance of the key, with the band of common draws; or why none.

    width: inches of the figure; by default a row a layer.
    """
    profiles = shown.curves.filter(step=step, kind=ATTENTION)
    if not profiles.height:
        return Undefined(f"no attention profiles are stored for step {step}: the analysis routing made none")
    layers = profiles["layer"].unique().sort().to_list()
    heads = {layer: drawn_heads(profiles, layer) for layer in layers}
    with styled():
        drawn = [(layer, of_layer) for layer in layers for of_layer in heads[layer]]
        most = max(map(len, heads.values()))
        figure, axes = wrapped(len(drawn), 1.75, 1.75, width, most, sharex=True, sharey=True)
        for ax, (layer, of_layer) in zip(axes, drawn, strict=True):
            _profile(ax, profiles.filter(layer=layer, head=of_layer))
            ax.set_title(f"layer {layer}, head {of_layer}")
        label_edges(axes, "keys back", "mean attention")
        total = profiles.filter(layer=layers[0])["head"].n_unique()
        which = "" if total <= HEADS else f", the {HEADS} of {total} heads that differ most"
        head(figure, f"{plain(shown.label)}, {shown.named(step)}: attention by distance{which}")
        handles = [
            *(Line2D([], [], color=COLOURS[c], label=f"{c} tokens") for c in (RARE, COMMON)),
            Patch(color=NULL, alpha=0.4, label="95 % of pseudo-classes of common tokens"),
        ]
        legend(figure, handles)
    return figure


def _profile(ax: Axes, rows: pl.DataFrame) -> None:
    log_scale(ax, "y")
    for token_class in (COMMON, RARE):
        profile = rows.filter(token_class=token_class).sort("x")
        band = profile.drop_nulls("low")
        ax.fill_between(band["x"], band["low"], band["high"], color=NULL, alpha=0.4, lw=0)
        ax.plot(profile["x"], profile["value"], color=COLOURS[token_class], lw=1.1)


def compare_attention(runs: Sequence[RunTables], at: Sequence[int], width: float | None = None) -> Figure | Undefined:
    """Profiles of several runs, a colour each, mean over a layer's heads; rare solid, common dashed; or why none."""
    profiles_of = [run.curves.filter(step=step, kind=ATTENTION) for run, step in zip(runs, at, strict=True)]
    if not any(profiles.height for profiles in profiles_of):
        return Undefined("no run holds attention profiles at its step: the analysis routing made none")
    with styled():
        figure, axes = wrapped(2, 3.6, 2.8, width, sharex=True, sharey=True)
        for index, profiles in enumerate(profiles_of):
            layers = profiles["layer"].unique().sort(descending=True).to_list()
            for ax, layer in zip(axes[::-1], layers, strict=False):
                for token_class, style in ((RARE, "-"), (COMMON, "--")):
                    mean = (
                        profiles.filter(layer=layer, token_class=token_class)
                        .group_by("x").agg(pl.col("value").mean()).sort("x")
                    )  # fmt: skip
                    ax.plot(mean["x"], mean["value"], color=run_colour(index), ls=style)
        for ax, title in zip(axes, ("layer before the last", "last layer"), strict=True):
            log_scale(ax, "y")
            ax.set(title=title, xlabel="keys back")
        axes[0].set_ylabel("mean attention over heads")
        head(figure, "Attention by distance")
        handles = [
            Line2D([], [], color=run_colour(i), label=f"{plain(run.label)}, {run.named(step)}")
            for i, (run, step, profiles) in enumerate(zip(runs, at, profiles_of, strict=True))
            if profiles.height
        ]
        handles += [Line2D([], [], color="black", ls=s, label=c) for c, s in ((RARE, "-"), (COMMON, "--"))]
        legend(figure, handles)
    return figure


def spectra(runs: Sequence[RunTables], at: Sequence[int], width: float | None = None) -> Figure | Undefined:
    """Eigenvalues by rank, an axis a group and input matrix, Hill's fit and the band of selected sets; or why none.

    Several runs share the axes, a colour each, with their bands and without the fit.
    """
    lines_of = [
        run.curves.filter(pl.col("step") == step, pl.col("kind").str.starts_with(EIGENVALUE))
        for run, step in zip(runs, at, strict=True)
    ]
    panels = sorted({pair for lines in lines_of for pair in lines.select("group", "kind").iter_rows()})
    if not panels:
        return Undefined("no eigenvalue spectra of groups are stored for the step: the analysis heavytail made none")
    single = len(runs) == 1
    with styled():
        figure, axes = wrapped(len(panels), 3.4 if len(panels) > 1 else 4.2, 2.9, width, sharey=True)
        for ax, (group, kind) in zip(axes, panels, strict=True):
            for index, lines in enumerate(lines_of):
                eigenvalues = lines.filter(group=group, kind=kind)
                _spectrum(ax, eigenvalues, COLOURS[group] if single else run_colour(index), is_alone=single)
            matrix = kind.removeprefix(EIGENVALUE).removeprefix("_")
            log_scale(ax, "xy")
            ax.set_xlabel("rank of the eigenvalue")
            ax.set_title(
                group + (f", {matrix}" if matrix else "") + (_hill(runs[0], at[0], group, matrix) if single else "")
            )
        axes[0].set_ylabel("eigenvalue")
        names = [f"{plain(run.label)}, {run.named(step)}" for run, step in zip(runs, at, strict=True)]
        if single:
            head(figure, f"{names[0]}: spectra of the input weights")
            handles: list[Line2D | Patch] = [
                *(
                    Line2D([], [], color=COLOURS[g], ls=_HALF_STYLES[h], label=f"{g}, chosen on half {h + 1}")
                    for g in dict.fromkeys(group for group, _ in panels)
                    for h in (0, 1)
                ),
                Line2D([], [], color="black", lw=0.8, label="Pareto tail with Hill's α (straight)"),
                Line2D([], [], color="black", lw=0.8, ls="", marker="|", ms=9, label="end of the tail"),
                Patch(color=NULL, alpha=0.4, label="95 % of sets selected alike for common tokens"),
            ]
        else:
            head(figure, "Spectra of the input weights")
            handles = [Line2D([], [], color=run_colour(i), label=name) for i, name in enumerate(names)]
            handles.append(Patch(color=NULL, alpha=0.4, label="95 % of each run's sets selected alike"))
        legend(figure, handles)
    return figure


def _spectrum(ax: Axes, rows: pl.DataFrame, colour: str, *, is_alone: bool) -> None:
    for half in rows["half"].unique().sort():
        eigenvalues = rows.filter(half=half).sort("x").with_columns(pl.col("value", "low", "high").replace(0.0, None))
        band = eigenvalues.drop_nulls(["low", "high"])
        shade, alpha = (NULL, 0.25) if is_alone else (colour, 0.1)
        ax.fill_between(band["x"], band["low"], band["high"], color=shade, alpha=alpha, lw=0)
        if is_alone:
            tail = eigenvalues.drop_nulls("fit")
            ax.plot(tail["x"], tail["fit"], color="black", lw=0.8)
            ax.plot(tail["x"][-1:], tail["fit"][-1:], color="black", ls="", marker="|", ms=9, mew=0.8)
        ax.plot(eigenvalues["x"], eigenvalues["value"], color=colour, ls=_HALF_STYLES[half], lw=1.2)


def _hill(shown: RunTables, step: int, group: str, matrix: str) -> str:
    name = "hill_alpha_half" + (f"_{matrix}" if matrix else "")
    rows = shown.metrics.filter(step=step, analysis="heavytail", metric=name, group=group)
    beside = rows.filter(null=SELECTED)
    if not beside.height or beside["value"][0] is None:
        return ": α undefined"
    row = beside.row(0, named=True)
    against = "" if row["null_mean"] is None else f", selected {row['null_mean']:.2g} (sd {row['null_sd']:.1g})"
    return f": α {row['value']:.2g}{against}"
