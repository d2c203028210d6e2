"""Every figure of a report, by file name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from rtdyn.views.plots.influence import compare_rank_influence, rank_influence, regime_sizes
from rtdyn.views.plots.lines import attention_profiles, compare_attention, spectra
from rtdyn.views.plots.neurons import heat_map, neuron_table
from rtdyn.views.plots.trajectories import emergence_panel
from rtdyn.views.series_panels import Judged
from rtdyn.views.shown import Shown

TOO_FEW = "fewer than three distinct steps are stored; a trajectory needs more"


def figures(
    runs: Sequence[Shown], judged: Sequence[Mapping[str, Sequence[Judged]]], at: Sequence[Sequence[int]]
) -> Iterator[tuple[str, Figure | str]]:
    """Names and figures, or why there is none.

    judged: each run's lines, from `judged_panels`. at: each run's steps; what shows one step shows the last of them.
    One run gets its own figures, several share theirs, a colour each.
    """
    last = [steps[-1] for steps in at]
    if len(runs) == 1:
        yield "rank-influence", rank_influence(runs[0], at[0])
    else:
        yield "rank-influence", compare_rank_influence(runs, last)
    enough = all(run.has_trajectories for run in runs)
    yield "emergence", emergence_panel(runs, judged) if enough else TOO_FEW
    yield "regime-sizes", regime_sizes(runs) if any("regime" in r.neurons.columns for r in runs) else "no regimes"
    yield "neurons", heat_map(runs)
    if len(runs) == 1:
        yield "attention", attention_profiles(runs[0], last[0])
        yield "neuron-table", neuron_table(runs[0], last[0])
    else:
        yield "attention", compare_attention(runs, last)
    yield "spectra", spectra(runs, last)
