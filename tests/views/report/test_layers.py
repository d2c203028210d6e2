"""Earlier layers over training: panels of a run that holds them, and none where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure
from support.synthetic import LAYERS as MEASURED
from support.synthetic import synthetic_run

from rtdyn.names import LAYERS, RARE
from rtdyn.store.run import read_run
from rtdyn.store.schema import Metric, metric_frame
from rtdyn.views.report.figures import figures
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.run_tables import RunTables, show
from rtdyn.views.wandb.rows import scalars

NAMES = {"layers-mean", "layers-share", "layers-rare", "layers-direct"}
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
    assert judged["layers-rare"][0].series.ci_high.tolist() == [0.0] * len(shown.sound_steps)
    others = {name: lines for name, lines in judged.items() if name not in NAMES}
    assert others.keys() == judged_panels(shown).keys()


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


def test_wandb_has_each_layer_under_a_name_of_its_own(shown: RunTables) -> None:
    step = shown.steps[-1]
    row = scalars(with_layers(shown).metrics.filter(step=step))
    assert row["layers/total_mean/rare/L-2"] == pytest.approx(0.01 * (1 + step))
