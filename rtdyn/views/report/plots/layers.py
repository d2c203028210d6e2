"""Layers over training, and the first order against the exact effect of earlier layers' random neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rtdyn.undefined import Undefined
from rtdyn.views.report.layers import (
    QUANTITIES,
    TWO_SIGNS,
    Quantity,
    calibration_points,
    calibration_said,
    layer_matrix,
    layer_name,
    measured_layers,
)
from rtdyn.views.report.plots.neurons import step_columns
from rtdyn.views.report.plots.style import OKABE_ITO, head, plain, styled, title, wrapped
from rtdyn.views.report.run_tables import RunTables

NO_LAYERS = Undefined("no layer before the last was measured; `rtdyn track --layers` asks for some")


def layers_figure(runs: Sequence[RunTables], width: float | None = None) -> Figure | Undefined:
    """Heat maps of layer and step, a row of axes a run that measured earlier layers; or why there is none."""
    runs = [run for run in runs if measured_layers(run)]
    if not runs:
        return NO_LAYERS
    with styled():
        columns = len(QUANTITIES)
        figure, flat = wrapped(columns * len(runs), 4.4, 2.2, width, columns)
        for place, run in enumerate(runs):
            for ax, quantity in zip(flat[place * columns :], QUANTITIES, strict=False):
                _heat(figure, ax, run, quantity)
    return figure


def _heat(figure: Figure, ax: Axes, run: RunTables, quantity: Quantity) -> None:
    values = layer_matrix(run, quantity)
    title(ax, f"{plain(run.label)}: {quantity.title}")
    ax.set_xlabel("step")
    ax.set_yticks(range(len(values)), [layer_name(run, layer) for layer in measured_layers(run)])
    size = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    two_signs = bool((values < 0).any())
    image = ax.imshow(
        values,
        aspect="auto",
        interpolation="nearest",
        cmap=LinearSegmentedColormap.from_list("two signs", TWO_SIGNS) if two_signs else "cividis",
        vmin=-size if two_signs else 0,
        vmax=size,
    )
    ax.set_facecolor("lightgrey")
    step_columns(ax, run)
    figure.colorbar(image, ax=ax, pad=0.02).set_label(quantity.unit)


def calibration_figure(run: RunTables, step: int, width: float | None = None) -> Figure | Undefined:
    """An axis an earlier layer: each random neuron's exact influence on rare over its first order; or why none."""
    layers = [layer for layer in measured_layers(run) if calibration_points(run, step, layer).height]
    if not layers:
        return NO_LAYERS
    with styled():
        figure, axes = wrapped(len(layers), 3.1, 2.7, width, 4)
        for ax, layer in zip(axes, layers, strict=True):
            points = calibration_points(run, step, layer)
            x, y = points["first_order"].to_numpy(), points["exact"].to_numpy()
            shown = (x > 0) & (y > 0)
            ax.loglog(x[shown], y[shown], ls="", marker="o", ms=3, color=OKABE_ITO["blue"])
            if shown.any():
                ends = [min(x[shown].min(), y[shown].min()), max(x[shown].max(), y[shown].max())]
                ax.plot(ends, ends, color="black", lw=0.8)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_minor_formatter(NullFormatter())
            title(ax, f"{layer_name(run, layer)}\n{calibration_said(run, step, layer)}")
            ax.set_xlabel("to first order, nats")
            ax.set_ylabel("exact, nats")
        head(figure, f"{plain(run.label)}, {run.named(step)}: influence of random neurons on rare tokens")
    return figure
