"""Every figure of a report, by file name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rtdyn.errors import InputError, UsageError
from rtdyn.judge.seeds import differ_in_seed_alone
from rtdyn.judge.sizes import differ_in_size
from rtdyn.undefined import Undefined
from rtdyn.views.report.layers import measured_layers
from rtdyn.views.report.panels import PANELS, THEMES, JudgedPanels, judged_panels
from rtdyn.views.report.plots.bands import bands_figure
from rtdyn.views.report.plots.domains import domains_figure
from rtdyn.views.report.plots.hill import hill_over_k
from rtdyn.views.report.plots.influence import compare_rank_influence, rank_influence, regime_sizes
from rtdyn.views.report.plots.layers import calibration_figure, layers_figure
from rtdyn.views.report.plots.lines import attention_profiles, compare_attention, spectra
from rtdyn.views.report.plots.neurons import heat_map
from rtdyn.views.report.plots.seeds import seeds_figure
from rtdyn.views.report.plots.sizes import sizes_figure
from rtdyn.views.report.plots.trajectories import emergence_panel, metric_panel
from rtdyn.views.report.run_tables import RunTables

TOO_FEW = Undefined("fewer than three distinct steps are stored; a trajectory needs more")
EMERGENCE, SEEDS, SIZES = "emergence", "seeds", "sizes"
CURVE_STEPS = 4
"""Steps whose rank–influence curves are drawn, unless they are named."""
Drawing = Callable[[], Figure | Undefined]
"""Draws a figure, or says why there is none."""
T = TypeVar("T")


def figures(
    runs: Sequence[RunTables],
    judged: Sequence[JudgedPanels],
    at: Sequence[Sequence[int]],
    width: float | None = None,
) -> dict[str, Drawing]:
    """Each figure by name, not drawn yet.

    judged: each run's lines, from `judged_panels`. at: each run's steps; what shows one step shows the last of them.
    width: inches of each figure, by default its own. One run gets its own figures, several share theirs, a colour each.
    """
    last = [steps[-1] for steps in at]

    def emergence(theme: str) -> Figure | Undefined:
        sound = all(run.has_trajectories for run in runs)
        return emergence_panel(runs, judged, theme, width) if sound else TOO_FEW

    shared: dict[str, Drawing] = {
        **{f"{EMERGENCE}-{theme}": partial(emergence, theme) for theme in THEMES},
        "regime-sizes": lambda: regime_sizes(runs, width),
        "neurons": lambda: heat_map(runs, width),
        **({"layers": lambda: layers_figure(runs, width)} if any(map(measured_layers, runs)) else {}),
        "spectra": lambda: spectra(runs, last, width),
        "hill-over-k": lambda: hill_over_k(runs, last, width),
    }
    if len(runs) > 1:
        manifests, sound = [run.run.manifest for run in runs], all(run.has_trajectories for run in runs)
        together: dict[str, Drawing] = {}
        if differ_in_seed_alone(manifests):
            together[SEEDS] = lambda: seeds_figure(runs, judged, width) if sound else TOO_FEW
        if differ_in_size(manifests):
            together[SIZES] = lambda: sizes_figure(runs, judged, width) if sound else TOO_FEW
        return {
            **together,
            "rank-influence": lambda: compare_rank_influence(runs, last, width),
            **shared,
            "attention": lambda: compare_attention(runs, last, width),
        }
    return {
        "rank-influence": lambda: rank_influence(runs[0], at[0], width),
        **shared,
        "attention": lambda: attention_profiles(runs[0], last[0], width),
        **(
            {"layers-calibration": lambda: calibration_figure(runs[0], last[0], width)}
            if measured_layers(runs[0])
            else {}
        ),
        **({"bands": lambda: bands_figure(runs[0], width)} if len(runs[0].classes) > 2 else {}),
        **({"domains": lambda: domains_figure(runs[0], width)} if runs[0].run.manifest.domains else {}),
    }


def chosen_figures(known: dict[str, T], names: Sequence[str] | None) -> dict[str, T]:
    """Those of the figures that are named, or all. Raises UsageError for a name that is not there."""
    for name in names or ():
        if name not in known:
            raise UsageError(f"no figure is called {name!r}; there are {', '.join(known)}")
    return {name: known[name] for name in names} if names else known


def draw_panel(shown: RunTables, name: str, ax: Axes) -> Figure:
    """One metric over training, by its panel's name, in axes that are there; returns their figure.

    Raises UsageError for a name that is no panel's, InputError where the run has no value of it or too few steps.
    """
    panel = next((panel for panel in PANELS if panel.name == name), None)
    if panel is None:
        raise UsageError(f"no metric is called {name!r}; there are {', '.join(p.name for p in PANELS)}")
    if not shown.has_trajectories:
        raise InputError(f"{name} cannot be drawn: {TOO_FEW.reason}")
    lines = judged_panels(shown, (panel,)).get(name)
    if lines is None:
        raise InputError(f"{name} cannot be drawn: it has no value at any step")
    metric_panel(ax, panel, [lines], shown.steps)
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def one_figure(shown: RunTables, name: str, at: Sequence[int] | None) -> Figure:
    """The figure of a run's report that has this name; at: stored steps, by default those of a report.

    Raises UsageError for a name or step that is not there, InputError where the run holds nothing to draw.
    """
    absent = sorted({*(at or ())} - {*shown.steps})
    if absent:
        raise UsageError(f"step {absent[0]} is not stored; the run holds {', '.join(map(str, shown.steps))}")
    judged = judged_panels(shown) if name.startswith(EMERGENCE) and shown.has_trajectories else {}
    known = figures([shown], [judged], [list(at) if at else shown.spread(CURVE_STEPS)])
    figure = chosen_figures(known, [name])[name]()
    if isinstance(figure, Undefined):
        raise InputError(f"{name} cannot be drawn: {figure.reason}")
    return figure
