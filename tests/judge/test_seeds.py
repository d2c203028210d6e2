"""Runs of several seeds: which runs they are, their spread, and who stands apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from rtdyn.judge.emergence import Emergence
from rtdyn.judge.seeds import APART, LEAST_RUNS, differ_in_seed_alone, over_seeds
from rtdyn.judge.series import Selection, Series, series
from rtdyn.store.manifest import SCHEMA_VERSION, Manifest
from rtdyn.store.schema import Metric, metric_frame

STEPS = (0, 1, 2, 4, 8)


def run(suite: str, **config: Any) -> Manifest:
    return Manifest(schema_version=SCHEMA_VERSION, suite=suite, config={"suite": suite, **config}, config_digest="d")


def measured(values: list[float]) -> Series:
    frames = [metric_frame([Metric("capture", "loss", v, "rare")], s, s) for s, v in zip(STEPS, values, strict=True)]
    return series(pl.concat(frames), Selection("capture", "loss", "rare"))


@pytest.mark.parametrize(
    ("runs", "are"),
    [
        ([run("p-70m-seed1"), run("p-70m-seed2")], True),
        ([run("p-70m"), run("p-70m-seed2"), run("p-70m-data-seed3")], True),
        ([run("tiny", seed=0, evaluation_set="a"), run("tiny", seed=1, evaluation_set="b")], True),
        ([run("tiny", seed=0, domains=["x=a"]), run("tiny", seed=1, domains=["x=b"])], True),
        ([run("p-70m-seed1", domains=["x=a"]), run("p-70m-seed2", domains=["x=b"])], False),
        ([run("p-70m-seed1", evaluation_set="a"), run("p-70m-seed2", evaluation_set="b")], False),
        ([run("tiny", seed=0), run("tiny", seed=0)], False),
        ([run("p-70m-seed1"), run("p-160m-seed2")], False),
        ([run("p-70m-seed1", tokens=1), run("p-70m-seed2", tokens=2)], False),
        ([run("p-70m-seed1")], False),
    ],
)
def test_runs_of_several_seeds_are_told_from_others(runs: list[Manifest], are: bool) -> None:
    assert differ_in_seed_alone(runs) is are


def test_median_and_quartiles_are_those_of_the_runs_at_shared_steps() -> None:
    values = np.random.default_rng(0).normal(size=(7, len(STEPS)))
    whole = [measured(row.tolist()) for row in values]
    whole[3] = replace(whole[3], steps=np.array([0, 1, 2, 4, 16]))
    emerged = Emergence(step=4, after=2, reason="", adjusted=np.zeros(len(STEPS)))
    over = over_seeds(whole, [emerged, *[None] * 6])
    assert over is not None
    assert over.steps.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(over.median, np.median(values[:, :4], axis=0))
    np.testing.assert_allclose([over.low, over.high], np.quantile(values[:, :4], (0.25, 0.75), axis=0))
    assert over.emerged == (4, *[None] * 6)


def test_a_run_far_from_the_others_stands_apart_and_no_other() -> None:
    """One at six times the limit at all steps but one; fewer runs than LEAST_RUNS say nothing."""
    rng = np.random.default_rng(1)
    values = rng.uniform(-1, 1, (9, len(STEPS)))
    values[5, 1:] += 6 * APART
    over = over_seeds([measured(row.tolist()) for row in values], [None] * 9)
    assert over is not None
    assert over.apart == (5,)
    few = over_seeds([measured(row.tolist()) for row in values[5 - LEAST_RUNS + 2 : 6]], [None] * (LEAST_RUNS - 1))
    assert few is not None
    assert few.apart == ()


def test_runs_without_a_shared_step_have_nothing_over_seeds() -> None:
    one = measured([1.0] * 5)
    assert over_seeds([one, replace(one, steps=one.steps + 100)], [None, None]) is None


def test_where_most_runs_agree_none_stands_apart_by_round_off() -> None:
    values = [[0.5 + 1e-12 * (i == 4)] * len(STEPS) for i in range(LEAST_RUNS)]
    over = over_seeds([measured(row) for row in values], [None] * LEAST_RUNS)
    assert over is not None and over.apart == ()
