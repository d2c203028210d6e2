"""Earlier layers over training: panels, maps and scatters of a run that holds them, and none where it does not."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from support.synthetic import LAYERS as MEASURED
from support.synthetic import synthetic_run

from rtdyn.names import LAYERS, RARE
from rtdyn.store.run import read_run
from rtdyn.store.schema import Metric, metric_frame
from rtdyn.views.report.figures import figures
from rtdyn.views.report.layers import (
    QUANTITIES,
    TWO_SIGNS,
    calibration_points,
    calibration_said,
    layer_matrix,
    layer_name,
    measured_layers,
)
from rtdyn.views.report.page import page
from rtdyn.views.report.page_data import page_data
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.plots.layers import layers_figure
from rtdyn.views.report.run_tables import RunTables, show
from rtdyn.views.wandb.rows import prefixes, scalars

NAMES = {"layers-mean", "layers-share", "layers-rare", "layers-direct", "layers-participation", "layers-inside"}
BEFORE = MEASURED[-1] - 1


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return show(read_run(synthetic_run(Path(tmp_path_factory.mktemp("runs")) / "run", 3, 40)))


def rows_of(step: int) -> list[Metric]:
    """Of the layer before the last: what grows with the step, and a share that has no value."""
    size = 0.01 * (1 + step)
    number = {"token_class": RARE, "layer": BEFORE, "clusters": 40}
    return [
        Metric(LAYERS, "total_mean", size, ci_low=0.9 * size, ci_high=1.1 * size, **number),
        Metric(LAYERS, "total_rare_excess", -size, ci_low=-2 * size, ci_high=0.0, **number),
        Metric(LAYERS, "total_top_share", None, reason="too few pieces of text", **number),
        Metric(LAYERS, "direct_share", 1.2, RARE, layer=BEFORE, ci_low=1.1, ci_high=1.3, n=256),
        *(
            Metric(LAYERS, metric, size, RARE, "top", null, BEFORE, null_mean=mean, null_sd=1.0, p_value=0.5)
            for metric in ("participation_ratio_unbiased", "inside_share")
            for null, mean in (("random", 9.0), ("selected", 8.0))
        ),
    ]


def with_layers(shown: RunTables) -> RunTables:
    further = [metric_frame(rows_of(step), step, None) for step in shown.steps]
    return replace(shown, metrics=pl.concat([shown.metrics, *further]))


def test_panels_of_layers_are_drawn_where_they_were_measured(shown: RunTables) -> None:
    assert not NAMES & judged_panels(shown).keys()
    judged = judged_panels(with_layers(shown))
    assert NAMES & judged.keys() == NAMES - {"layers-share"}
    [line] = judged["layers-mean"]
    assert line.line.label == "layer L-2"
    assert line.series.value.tolist() == pytest.approx([0.01 * (1 + step) for step in shown.sound_steps])
    [top] = judged["layers-participation"]
    assert top.series.null_mean.tolist() == [8.0] * len(shown.sound_steps), "beside sets selected alike"
    assert judged["layers-rare"][0].series.ci_high.tolist() == [0.0] * len(shown.sound_steps)
    others = {name: lines for name, lines in judged.items() if name not in NAMES}
    assert others.keys() == judged_panels(shown).keys()


@pytest.mark.slow
def test_the_figure_draws_them_for_one_run_and_for_several(shown: RunTables) -> None:
    run = with_layers(shown)
    for runs in ([run], [run, shown]):
        judged = [judged_panels(one) for one in runs]
        titles: set[str] = set()
        for name, draw in figures(runs, judged, [one.steps for one in runs]).items():
            if name.startswith("emergence"):
                figure = draw()
                assert isinstance(figure, Figure), name
                titles |= {" ".join(ax.get_title(loc).split()) for ax in figure.axes for loc in ("left", "center")}
        assert "Mean total influence by layer" in titles


def test_values_of_both_signs_have_one_colour_scale_in_the_figure_and_on_the_page(shown: RunTables) -> None:
    figure = layers_figure([with_neurons(shown)])
    assert isinstance(figure, Figure)
    scales = [image.cmap for ax in figure.axes for image in ax.images]
    assert [to_hex(scales[1](end)) for end in (0.0, 1.0)] == [TWO_SIGNS[0], TWO_SIGNS[-1]]
    assert "run.layers.twoSigns" in files("rtdyn.views.report").joinpath("assets/page.js").read_text()


def test_wandb_has_each_layer_under_a_name_of_its_own(shown: RunTables) -> None:
    step = shown.steps[-1]
    row = scalars(with_layers(shown).metrics.filter(step=step))
    assert row["layers/total_mean/rare/L-2"] == pytest.approx(0.01 * (1 + step))
    assert row["layers/inside_share/rare/top/L-2"] == pytest.approx(0.01 * (1 + step))
    own = {"analyses": ["ablation"]}
    assert set(prefixes({**own, "layers": "all"})) - set(prefixes(own)) == {"layers"}, "they are drawn over steps too"


NUMBERS = np.arange(12341, 12381)
"""Of neurons: five figures, none of which may be rounded."""


def with_neurons(shown: RunTables) -> RunTables:
    """The layer before the last at every step: 40 neurons, ten of them random, and the first order doubles them."""
    frames = []
    for step in shown.steps:
        exact = 0.001 * np.arange(1.0, 41)
        columns = {"step": step, "layer": BEFORE, "neuron": NUMBERS, "random": np.arange(40) % 4 == 0}
        columns |= {"mean_abs_rare": exact, "first_order_mean_abs_rare": 2 * exact}
        frames.append(pl.DataFrame(columns | {"delta_rare": -exact, "first_order_delta_rare": exact}))
    last = [
        metric_frame([Metric(LAYERS, "total_rare_excess", 0.5, RARE, layer=MEASURED[-1])], step, None)
        for step in shown.steps
    ]
    run = with_layers(shown)
    return replace(run, metrics=pl.concat([run.metrics, *last]), earlier_neurons=pl.concat(frames))


def test_the_heat_map_holds_each_layer_at_each_step_the_last_layer_first(shown: RunTables) -> None:
    run = with_neurons(shown)
    assert [layer_name(run, layer) for layer in measured_layers(run)] == ["L-1", "L-2"]
    top, rare = (layer_matrix(run, quantity) for quantity in QUANTITIES)
    assert np.isnan(top).all(), "a share that has no value anywhere"
    np.testing.assert_allclose(rare, [[0.5] * len(run.steps), [-0.01 * (1 + step) for step in run.steps]])
    assert measured_layers(shown) == []


def test_the_scatter_is_of_the_random_neurons_alone_by_what_ranks_them(shown: RunTables) -> None:
    run = with_neurons(shown)
    points = calibration_points(run, run.steps[0], BEFORE)
    assert points["neuron"].to_list() == NUMBERS[::4].tolist()
    np.testing.assert_allclose(points["first_order"], 2 * points["exact"])
    assert calibration_said(run, run.steps[0], BEFORE) == "not measured at this step"
    said = Metric(LAYERS, "ranking_spearman", 0.9995, RARE, layer=BEFORE, ci_low=0.7, ci_high=0.99984)
    judged = replace(run, metrics=pl.concat([run.metrics, metric_frame([said], run.steps[0], None)]))
    assert calibration_said(judged, run.steps[0], BEFORE) == "Spearman 0.9995 (0.7 to 1)"
    assert not calibration_points(shown, shown.steps[0], BEFORE).height


def test_a_run_with_layers_has_both_figures_and_the_pages_charts_and_others_have_none(shown: RunTables) -> None:
    run = with_neurons(shown)
    drawn = figures([run], [{}], [run.steps])
    for name, axes in (("layers", 2), ("layers-calibration", 1)):
        figure = drawn[name]()
        assert isinstance(figure, Figure)
        assert len([ax for ax in figure.axes if ax.get_xlabel()]) == axes
        assert name not in figures([shown], [{}], [shown.steps])
    assert "layers" in figures([run, shown], [{}, {}], [run.steps, shown.steps])
    [data] = page_data([run], [{}])["runs"]
    assert data["layers"]["names"] == ["L-1", "L-2"]
    [scatter] = data["layers"]["calibration"]
    assert scatter["name"] == "L-2" and len(scatter["steps"]) == len(run.steps)
    assert scatter["steps"][0]["neuron"] == NUMBERS[::4].tolist()
    assert scatter["steps"][0]["exact"] == pytest.approx([0.001 * (1 + k) for k in range(0, 40, 4)])
    assert "layers" not in page_data([shown], [{}])["runs"][0]
    assert '<section id="layers">' in page([run], [{}], {}) and '<section id="layers">' not in page([shown], [{}], {})
