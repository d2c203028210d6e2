"""Figures of runs: each analysis for itself, steps that are left out, and figures in a notebook."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats
from support.synthetic import synthetic_run

import rtdyn
from rtdyn.errors import InputError, UsageError
from rtdyn.names import ANALYSES
from rtdyn.store.manifest import SCHEMA_VERSION, Manifest
from rtdyn.store.run import Run, read_run
from rtdyn.store.schema import AT_EDGE, ATTENTION, EIGENVALUE, HILL, PSEUDO_INFLUENCE, SELECTED_HILL
from rtdyn.undefined import Undefined
from rtdyn.views.report.figures import figures
from rtdyn.views.report.panels import PANELS, THEMES, judged_panels
from rtdyn.views.report.plots.influence import rank_influence, ranked_influence
from rtdyn.views.report.plots.neurons import neuron_rows, with_interval
from rtdyn.views.report.plots.style import run_colour
from rtdyn.views.report.run_tables import RunTables, labels, show

CURVES_OF = {
    "regimes": [PSEUDO_INFLUENCE], "routing": [ATTENTION], "heavytail": [EIGENVALUE, HILL, SELECTED_HILL],
}  # fmt: skip
NEEDS = {
    "regime-sizes": ("regimes",), "attention": ("routing",), "spectra": ("heavytail",), "hill-over-k": ("heavytail",),
    "emergence-groups": ("dimensionality", "modularity", "heavytail", "mediation"), "emergence-layers": ("routing",),
}  # fmt: skip
"""Figures with the analyses of which they need one; all others show what every run has."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", 11, 60, left_out={4: "it repeats step 2"})


@pytest.fixture(scope="module")
def shown(path: Path) -> RunTables:
    return show(read_run(path))


def only(shown: RunTables, *analyses: str) -> RunTables:
    """The run as if these analyses alone had been asked for, beside influences."""
    kinds = [kind for name in analyses for kind in CURVES_OF.get(name, [])]
    neurons = shown.neurons
    if "regimes" not in analyses:
        neurons = neurons.select(c for c in neurons.columns if not c.startswith(("regime", "stable_share")))
    return replace(
        shown,
        metrics=shown.metrics.filter(pl.col("analysis").is_in(["capture", "ablation", *analyses])),
        neurons=neurons,
        curves=shown.curves.filter(pl.col("kind").is_in(kinds)),
    )


def text_of(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text) if isinstance(t, Text))


@pytest.mark.slow
@pytest.mark.parametrize("analysis", ANALYSES)
def test_each_analysis_alone_is_drawn_or_the_reason_is_given(shown: RunTables, analysis: str) -> None:
    run = only(shown, analysis)
    for name, draw in figures([run], [judged_panels(run)], [run.spread(2)]).items():
        found = draw()
        if name in NEEDS and analysis not in NEEDS[name]:
            assert isinstance(found, Undefined), name
            assert all(needed in found.reason for needed in NEEDS[name])
        else:
            assert isinstance(found, Figure), (name, found)
            assert any(axes.has_data() or axes.tables for axes in found.axes), name


def test_the_emergence_panel_marks_emergence_change_points_nulls_and_steps_left_out(shown: RunTables) -> None:
    judged = judged_panels(shown)
    drawn = figures([shown], [judged], [shown.spread(4)])
    parts = [drawn[f"emergence-{theme}"]() for theme in THEMES]
    assert all(isinstance(part, Figure) for part in parts)
    text = "\n".join(text_of(part) for part in parts if isinstance(part, Figure))
    for mark in ("emerged", "95 % interval", "null (pseudo-class)", "null (selected)", "step left out of trajectories"):
        assert mark in text, mark
    emerged = {name for name, lines in judged.items() if any(j.emerged and j.emerged.step is not None for j in lines)}
    assert {"excess", "participation"} <= emerged
    titles = {panel.title: panel.name for panel in PANELS}
    every = [axes for part in parts if isinstance(part, Figure) for axes in part.axes if axes.get_title(loc="left")]
    assert {titles[axes.get_title(loc="left").replace("\n", " ")] for axes in every} == set(judged)
    for axes in every:
        name = titles[axes.get_title(loc="left").replace("\n", " ")]
        lines = judged[name]
        markers = [line.get_marker() for line in axes.lines]
        assert markers.count("x") == len(lines), name
        assert markers.count("v") == sum(j.emerged is not None and j.emerged.step is not None for j in lines), name
        changes = sum(len(j.changes.steps) for j in lines if not isinstance(j.changes, Undefined))
        assert markers.count("D") == changes, name


@pytest.mark.slow
def test_a_legend_names_nothing_that_is_not_drawn(shown: RunTables) -> None:
    manifest = shown.run.manifest.replace(left_out={})
    sound = replace(only(shown, "dimensionality"), run=Run(shown.run.path, manifest))
    drawn = figures([sound], [judged_panels(sound)], [sound.spread(4)])
    panel, curves = drawn["emergence-groups"](), drawn["rank-influence"]()
    assert isinstance(panel, Figure)
    assert isinstance(curves, Figure)
    assert "left out" not in text_of(panel)
    assert "fitted" not in text_of(curves)
    assert "pseudo-classes" not in text_of(curves)


@pytest.mark.slow
def test_runs_that_share_axes_have_each_its_null_band(path: Path, tmp_path: Path) -> None:
    runs = [show(read_run(path), "one"), show(read_run(synthetic_run(tmp_path / "b", 6, 60, suite="other")), "other")]
    judged = [judged_panels(run) for run in runs]
    drawn = figures(runs, judged, [[16], [16]])
    for name in ("emergence-groups", "rank-influence", "spectra"):
        figure = drawn[name]()
        assert isinstance(figure, Figure)
        bands = [band for band in figure.axes[0].collections if isinstance(band, PolyCollection)]
        assert {to_hex(band.get_facecolor()[0]).upper() for band in bands} == {run_colour(0), run_colour(1)}
        assert "each run's" in text_of(figure)


def test_a_raised_top_is_in_the_legend_where_one_is_drawn(shown: RunTables) -> None:
    """One that ends at an end of the grid has the hollow marker alone."""

    def legend(metrics: pl.DataFrame) -> str:
        figure = figures([replace(shown, metrics=metrics)], [{}], [[16]])["regime-sizes"]()
        assert isinstance(figure, Figure)
        return text_of(figure)

    is_raised = pl.col("metric") == "raised"
    assert "raised top" in legend(shown.metrics)
    flat = shown.metrics.with_columns(pl.when(is_raised).then(0.0).otherwise("value").alias("value"))
    assert "raised top" not in legend(flat)
    at_edge = pl.when(pl.col("metric") == "r1").then(pl.lit(AT_EDGE)).otherwise("status").alias("status")
    assert "raised top" not in legend(shown.metrics.with_columns(at_edge))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_legend_of_the_curves_lies_inside_the_figure(shown: RunTables, steps: int) -> None:
    figure = rank_influence(shown, shown.spread(steps))
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_a_step_that_is_left_out_is_named_as_such_and_never_chosen(shown: RunTables) -> None:
    assert set(shown.left_out).isdisjoint(shown.spread(len(shown.steps)))
    figure = figures([shown], [{}], [[0, 4]])["attention"]()
    assert isinstance(figure, Figure)
    assert "step 4 (left out)" in text_of(figure)


@pytest.mark.slow
def test_dollars_in_a_name_are_no_formula(shown: RunTables) -> None:
    run = replace(shown, label="a$b_{$ \\frac <x>")
    for draw in figures([run], [judged_panels(run)], [[0, 512]]).values():
        figure = draw()
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0542, 0.0099, "0.0542 (0.0443 to 0.0641)"),
        (-2.04e-5, 0.0073, "-2.04e-05 (-0.00732 to 0.00728)"),
        (0.5, None, "0.5"),
        (0.5, 0.0, "0.5"),
        (float("nan"), 1.0, "—"),
        (None, 1.0, "—"),
    ],
)
def test_a_neurons_number_has_its_interval_in_the_form_of_all_others(
    value: float | None, error: float | None, text: str
) -> None:
    assert with_interval(value, error) == text


def test_neurons_have_students_intervals_of_the_clusters_that_are_stored(shown: RunTables) -> None:
    """Nine clusters of rare targets and thirty of common ones; a step that stores none has no error."""
    few = (pl.col("analysis") == "ablation") & (pl.col("metric") == "influence_mean") & (pl.col("step") == 512)
    counted = pl.when(few).then(pl.when(pl.col("token_class") == "rare").then(9).otherwise(30))
    run = replace(shown, metrics=shown.metrics.with_columns(counted.otherwise(None).alias("clusters")))
    at = run.neurons.filter(step=512)
    for name, reach in (("rare", stats.t.ppf(0.975, 8)), ("common", stats.t.ppf(0.975, 29))):
        ranked = ranked_influence(run, 512, name).join(at.select("neuron", f"se_abs_{name}"), "neuron")
        np.testing.assert_allclose(ranked["error"], reach * ranked[f"se_abs_{name}"])
        assert ranked_influence(run, 0, name)["error"].is_nan().all()
    row = neuron_rows(run, 512)[0]
    of_row = at.filter(neuron=row["neuron"]).to_dicts()[0]
    assert row["delta"] == (of_row["delta_rare"], pytest.approx(stats.t.ppf(0.975, 8) * of_row["se_rare"]))
    assert row["influence"][1] == pytest.approx(stats.t.ppf(0.975, 8) * of_row["se_abs_rare"])
    assert row["common"][1] == pytest.approx(stats.t.ppf(0.975, 29) * of_row["se_abs_common"])


def test_runs_of_one_suite_are_named_by_what_differs_or_by_their_directory(tmp_path: Path) -> None:
    def run(folder: str, **config: object) -> Run:
        settings = {"suite": "s", **config}
        manifest = Manifest(schema_version=SCHEMA_VERSION, suite="s", config=settings, config_digest="d")
        return Run(tmp_path / folder, manifest)

    assert labels([run("a", seed=0), run("b", seed=1)]) == ["s, seed 0", "s, seed 1"]
    assert labels([run("a", seed=0), run("b", seed=0)]) == ["s (a)", "s (b)"]
    assert labels([run("a", corpus="f" * 64), run("b", corpus="0" * 64)]) == ["s (a)", "s (b)"]
    deep = labels([run("a/run", seed=0), run("b/run", seed=0)])
    assert len(set(deep)) == 2


@pytest.mark.slow
def test_a_notebook_gets_each_figure_by_name(path: Path) -> None:
    run = rtdyn.open_run(path)
    figure = run.plot("regime-sizes")
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]  # what IPython looks for
    assert "step 8" in text_of(run.plot("rank-influence", at=[0, 8]))
    with pytest.raises(UsageError, match="there are rank-influence, emergence"):
        run.plot("nothing")
    with pytest.raises(UsageError, match="step 3 is not stored"):
        run.plot(at=[3])


def test_a_figure_that_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    run = rtdyn.open_run(synthetic_run(tmp_path / "run", 2, 60))
    with pytest.raises(InputError, match="fewer than three distinct steps"):
        run.plot("emergence-groups")


def test_opening_a_run_does_not_import_matplotlib(path: Path) -> None:
    code = f"import rtdyn, sys; rtdyn.open_run({str(path)!r}); sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
