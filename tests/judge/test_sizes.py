"""Models of several sizes: their family and size by name, and values after equally many tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rtdyn.judge.series import Selection, Series, series
from rtdyn.judge.sizes import differ_in_size, equal_tokens, family_and_size, named_parameters, value_at
from rtdyn.store.manifest import SCHEMA_VERSION, Manifest
from rtdyn.store.schema import Metric, metric_frame


def run(suite: str, **config: Any) -> Manifest:
    return Manifest(schema_version=SCHEMA_VERSION, suite=suite, config={"suite": suite, **config}, config_digest="d")


def measured(tokens_a_step: int, values: dict[int, float | None]) -> Series:
    frames = []
    for step, value in values.items():
        ends = {} if value is None else {"ci_low": value - 1, "ci_high": value + 2, "clusters": 40}
        reason = {"reason": "no value"} if value is None else {}
        row = Metric("capture", "loss", value, "rare", **ends, **reason)  # type: ignore[arg-type]  # of several types
        frames.append(metric_frame([row], step, step * tokens_a_step))
    return series(pl.concat(frames), Selection("capture", "loss", "rare"))


@pytest.mark.parametrize(
    ("name", "family", "size", "parameters"),
    [
        ("pythia-1.4b-deduped", "pythia-deduped", "1.4b", 1.4e9),
        ("pythia-70m", "pythia", "70m", 7e7),
        ("OLMo-2-7B", "OLMo-2", "7B", 7e9),
        ("tiny", "tiny", None, None),
    ],
)
def test_a_name_says_family_and_size(name: str, family: str, size: str | None, parameters: float | None) -> None:
    assert family_and_size(name) == (family, size)
    assert named_parameters(name) == parameters


@pytest.mark.parametrize(
    ("runs", "are"),
    [
        ([run("p-70m"), run("p-160m")], True),
        ([run("p-70m", device="cpu"), run("p-160m", device="cuda")], True),
        ([run("p-70m"), run("q-160m")], False),
        ([run("p-70m", tokens=1), run("p-160m", tokens=2)], False),
        ([run("p-70m"), run("p-70m")], False),
        ([run("tiny"), run("tiny")], False),
    ],
)
def test_sizes_of_one_family_are_told_from_other_runs(runs: list[Manifest], are: bool) -> None:
    assert differ_in_size(runs) is are


def test_values_are_taken_after_equally_many_tokens_at_which_all_have_one() -> None:
    small = measured(1, {0: 9.0, 2: 7.0, 4: 5.0, 6: 4.0, 8: 3.0})
    large = measured(2, {0: 9.5, 1: 6.5, 2: 5.5, 3: None, 5: 1.0})
    tokens = equal_tokens([small, large])
    assert tokens == 4
    assert value_at(small, tokens) == (5.0, 4.0, 7.0)
    assert value_at(large, tokens) == (5.5, 4.5, 7.5)
    assert equal_tokens([small, measured(1000, {1: 1.0, 2: 1.0, 3: 1.0})]) is None
    assert not np.isfinite(large.value[3])
