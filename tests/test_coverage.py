"""Do the printed intervals cover, in short: the long form is scripts/calibration/coverage.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "calibration"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module; its neighbours are found as when it is run."""
    from importlib.util import module_from_spec, spec_from_file_location

    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = spec_from_file_location("coverage_of_intervals", SCRIPTS / "coverage.py")
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPTS))
        sys.modules.pop("coverage_of_intervals", None)


@pytest.fixture(scope="module")
def whole(script: Any, takes_long: None) -> Any:
    return script.population(4000, "king-james", 250_000)


@pytest.mark.slow
def test_a_part_that_is_the_whole_text_is_measured_as_it_is(script: Any, whole: Any) -> None:
    every = np.arange(len(whole.text.windows))
    taken, rows, cluster = script.part(whole, every, every)
    positions = whole.captured.positions
    assert np.array_equal(taken.positions.flat, positions.flat) and np.array_equal(rows, np.arange(len(positions.flat)))
    assert np.array_equal(cluster, every)
    assert (taken.loss == whole.captured.loss).all()
    few, documents = np.array([7, 8, 3, 8]), np.array([0, 0, 1, 2])
    taken, rows, _ = script.part(whole, few, documents)
    assert set(positions.window[rows]) <= {3, 7, 8}
    of_loss = taken.kept_flat // 256
    for new, old in enumerate(few.tolist()):
        mine, its = taken.positions.window == new, positions.window == old
        assert np.array_equal(taken.positions.target[mine], positions.target[its])
        assert np.array_equal(taken.positions.query[mine], positions.query[its])
        assert np.array_equal(taken.positions.members("rare")[mine], positions.members("rare")[its])
        assert (taken.loss[of_loss == new] == whole.captured.loss[whole.captured.kept_flat // 256 == old]).all()
    at = np.searchsorted(taken.kept_flat, taken.positions.flat)
    assert np.array_equal(taken.kept_flat[at], taken.positions.flat)


def test_what_lies_in_chosen_windows_comes_in_their_order_and_as_often(script: Any) -> None:
    window = np.array([0, 0, 2, 2, 2, 5])
    rows, place = script.in_windows(window, np.array([2, 5, 1, 2, 0]))
    assert rows.tolist() == [2, 3, 4, 5, 2, 3, 4, 0, 1]
    assert place.tolist() == [0, 0, 0, 1, 3, 3, 3, 4, 4]


def test_parts_are_independent_draws_of_the_large_text(script: Any) -> None:
    # half as many windows as the text has, whose mean would scatter by a half less if none came twice
    rng, windows, rare = np.random.default_rng(0), 240, np.ones(480, dtype=bool)
    positions = SimpleNamespace(members=lambda name: rare)
    text = SimpleNamespace(windows=np.zeros((windows, 8)))
    whole = SimpleNamespace(text=text, captured=SimpleNamespace(positions=positions))
    values = rng.exponential(size=windows)
    for design, size in (("own", 1), ("4 windows", 4)):
        parts = list(script.replicates(whole, design, 240, 600))
        means = np.array([values[chosen].mean() for chosen, _ in parts])
        expected = values.reshape(-1, size).mean(1).std() / np.sqrt(120 // size)
        assert all(len(chosen) == 120 and len(np.unique(d)) == 120 // size for chosen, d in parts)
        assert abs(means.mean() - values.mean()) < 4 * expected / np.sqrt(600)
        assert means.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * 600))


@pytest.mark.slow
def test_intervals_cover_and_signs_are_right(script: Any, whole: Any) -> None:
    table = script.coverage(whole, "own", 100, 24)
    intervals = [row["coverage"] for name, row in table.items() if "wrong signs" not in name and row["printed"] > 0.5]
    # of 24 replicates 95 % is 22.8 ± 1.1; the large text of this short form is itself a sample
    assert len(intervals) > 15 and np.mean(intervals) > 0.88 and min(intervals) >= 0.7
    for name in ("rare", "common"):
        # 5 % against the truth; this short text's own signs are wrong for some of the neurons near 0
        assert table[f"wrong signs, {name}"]["coverage"] <= 0.1
    assert table["plain profile r, last layer"]["bias"] < -1.5 < table["profile r, last layer"]["bias"]


@pytest.mark.slow
def test_kappa_and_excess_are_right_on_average(script: Any, whole: Any) -> None:
    for name, found in ((name, script.curve_bias(whole, name, "own", 200, 160)) for name in ("rare", "common")):
        for metric, bias in found.items():
            # a quarter of a standard deviation, and what 160 parts of a short text may add to it
            assert abs(bias.value) < 0.25 + 3 * bias.se and bias.se < 0.25, (name, metric, bias)


@pytest.mark.slow
def test_intervals_of_curves_cover_and_reach_as_far_as_t_intervals(script: Any, whole: Any) -> None:
    for name in ("rare", "common"):
        found = script.curve_intervals(whole, name, "own", 200, 24)
        assert set(found) == set(script.CURVE)
        for metric, (ours, by_t) in found.items():
            assert ours >= max(by_t, 0.8), (name, metric)
