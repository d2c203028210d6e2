"""What a notebook makes of a stored run: tables, arrays, one neuron, axes of one's own, several runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from support.synthetic import synthetic_run

import rtdyn
from rtdyn.errors import InputError, UsageError
from rtdyn.views.notebook import RunFrames

STEPS, NEURONS = (0, 1, 2, 4), 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        synthetic_run(folder / f"s{seed}", len(STEPS), NEURONS, suite=f"s<{seed}>", seed=seed)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFrames:
    return rtdyn.open_run(folder / "s0")


def test_influence_is_an_array_by_step_and_neuron(run: RunFrames) -> None:
    values = run.influence("common")
    assert values.shape == (len(STEPS), NEURONS)
    for row in run.neurons.collect().sample(20, seed=0).to_dicts():
        assert values[STEPS.index(row["step"]), row["neuron"]] == row["mean_abs_common"]
    with pytest.raises(UsageError, match="no influences on 'all'; it has them on rare, common"):
        run.influence("all")


def test_one_neuron_has_a_row_a_step(run: RunFrames) -> None:
    rows = run.neuron(7)
    assert rows["step"].to_list() == list(STEPS)
    assert rows["neuron"].unique().to_list() == [7]
    np.testing.assert_array_equal(rows["mean_abs_rare"], run.influence()[:, 7])
    with pytest.raises(UsageError, match="no neuron 60; the final MLP has 0 to 59"):
        run.neuron(NEURONS)


def test_a_notebook_shows_the_last_steps_numbers_escaped(run: RunFrames) -> None:
    summary = run.summary()
    assert summary.columns == ["step 4", "rare", "common"]
    text = run._repr_html_()
    assert "s&lt;0&gt;" in text and "s<0>" not in text
    for row in summary.iter_rows():
        assert f"<td>{row[1]}</td>" in text


def test_a_metric_is_drawn_into_axes_that_are_there(run: RunFrames) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert run.plot("loss", ax=right) is figure
    assert right.get_title(loc="center") == "Loss" or right.get_title(loc="left") == "Loss"
    assert right.has_data() and not left.has_data()
    drawn = [line.get_ydata() for line in right.lines]
    rare = run.metrics.filter(metric="loss", token_class="rare").sort("step").collect()["value"]
    assert any(len(y) == len(rare) and np.array_equal(y, rare) for y in drawn)
    with pytest.raises(UsageError, match="no metric is called 'neurons'; there are loss"):
        run.plot("neurons", ax=left)
    with pytest.raises(UsageError, match="give ax or at"):
        run.plot("loss", at=[0], ax=left)


def test_a_pattern_opens_one_run_or_several(folder: Path) -> None:
    assert rtdyn.open_run(folder / "s1*").path == folder / "s1"
    assert [one.path.name for one in rtdyn.open_runs(folder / "s*")] == ["s0", "s1"]
    with pytest.raises(InputError, match=r"names 2 runs, .*s0, .*s1; rtdyn.open_runs"):
        rtdyn.open_run(str(folder / "s*"))
    for opened in (rtdyn.open_run, rtdyn.open_runs):
        with pytest.raises(InputError, match="not an rtdyn run"):
            opened(folder / "t*")


def test_two_runs_are_compared_number_by_number(folder: Path) -> None:
    a, b = rtdyn.open_runs(folder / "s*")
    both = rtdyn.compare(a, b)
    assert both.height == a.metrics.collect().height
    largest = {"metric": "influence_max", "token_class": "rare", "step": 4}
    wanted = [one.metrics.filter(**largest).collect()["value"][0] for one in (a, b)]
    row = both.filter(**largest).to_dicts()[0]
    assert [row["value_a"], row["value_b"]] == wanted
    assert row["difference"] == wanted[1] - wanted[0] != 0
    assert both.filter(pl.col("group").is_null()).height > 0
