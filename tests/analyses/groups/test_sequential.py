"""As many draws as a p needs: exact small cases, valid at every level, and no more sets measured than that."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.measure import measure
from rtdyn.analyses.groups.sequential import ENOUGH, FIRST, batches, compare_in_turn, settled
from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.names import RANDOM
from rtdyn.undefined import Undefined

DRAWS = 999
NEURONS = 60


def comparison(value: float, drawn: np.ndarray) -> Comparison:
    found = compare_in_turn(value, drawn)
    assert isinstance(found, Comparison)
    return found


def test_batches_cover_all_draws_once_and_begin_with_the_first_99() -> None:
    for total in (1, 98, 99, 100, 199, 200, 999):
        parts = list(batches(total))
        assert [n for part in parts for n in range(part.start, part.stop)] == list(range(total))
        assert parts[0] == slice(0, min(FIRST, total))
    assert list(batches(0)) == []


def test_a_value_within_its_null_is_ranked_among_the_first_draws() -> None:
    drawn = np.random.default_rng(0).standard_normal(DRAWS)
    assert settled(0.3, drawn[:FIRST])
    assert comparison(0.3, drawn) == compare(0.3, drawn[:FIRST])


def test_p_is_10_over_the_draw_at_which_the_tenth_lies_as_far_out() -> None:
    drawn = np.zeros(DRAWS)
    far = [3, 40, 99, 100, 101, 150, 200, 300, 400, 500, 600]
    drawn[far] = 5.0
    assert not settled(4.0, drawn[: far[9]]) and settled(4.0, drawn[: far[9] + 1])
    assert comparison(4.0, drawn).p_value == pytest.approx(2 * ENOUGH / (far[9] + 1))
    assert comparison(-4.0, -drawn).p_value == pytest.approx(2 * ENOUGH / (far[9] + 1))
    # the null's mean and deviation are those of the first draws, two of which are 5
    first = drawn[:FIRST]
    assert comparison(4.0, drawn).null_mean == pytest.approx(10 / FIRST)
    assert comparison(4.0, drawn).null_sd == pytest.approx(first.std(ddof=1))


def test_without_a_tenth_p_counts_the_value_itself_in() -> None:
    drawn = np.zeros(DRAWS)
    drawn[[3, 500]] = 5.0
    assert comparison(4.0, drawn).p_value == pytest.approx(2 * 3 / 1000)
    assert comparison(6.0, drawn).p_value == pytest.approx(2 * 1 / 1000)
    assert comparison(4.0, np.where(np.arange(DRAWS) < 50, np.nan, drawn)).p_value == pytest.approx(2 * 2 / 950)
    assert isinstance(compare_in_turn(1.0, np.full(DRAWS, np.nan)), Undefined)
    assert settled(np.nan, np.empty(0)) and settled(0.0, np.zeros(FIRST)) and not settled(0.0, np.ones(FIRST))


def measured(seed: int) -> tuple[Comparison, int]:
    """A group of exchangeable neurons among random sets, as groups are measured, and how many of these were."""
    rng = np.random.default_rng(seed)
    values, members = rng.standard_normal((2, NEURONS)), np.arange(8)
    sets = rng.random((DRAWS, NEURONS)).argsort(1)[:, :8]
    asked = 0

    def statistic(half: int, of: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal asked
        asked += len(of)
        return {"mean": values[half][of].mean(1)}

    against = measure(Group("some", (members, members), {RANDOM: (sets, sets)}, 0.0, 0.0), statistic)["mean"].nulls
    assert isinstance(against[RANDOM], Comparison)
    return against[RANDOM], asked // 2 - 1


def test_p_is_valid_for_500_groups_that_are_no_different_and_most_need_few_draws() -> None:
    found, asked = zip(*map(measured, range(500)), strict=True)
    p = np.array([one.p_value for one in found])
    for level in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5):
        assert binomtest(int((p <= level).sum()), len(p), level, alternative="greater").pvalue > 1e-3
    # not conservative either, where draws are enough to tell
    for level in (0.05, 0.2, 0.5):
        assert binomtest(int((p <= level).sum()), len(p), level, alternative="less").pvalue > 1e-3
    assert set(asked) == {99, 199, 399, 799, 999} and np.median(asked) == FIRST


@pytest.mark.parametrize("most", [None, 199])
def test_a_null_is_the_same_beside_others_of_any_length_and_size(most: int | None) -> None:
    rng = np.random.default_rng(3)
    values, members = rng.standard_normal((2, NEURONS)), np.arange(8)
    values[:, :8] += 0.5
    shapes = {"long": (DRAWS, 8), "short": (150, 8), "few": (60, 8), "smaller": (400, 7)}
    nulls: dict[str, tuple[np.ndarray, np.ndarray] | Undefined] = {
        name: tuple(rng.random((2, count, NEURONS)).argsort(2)[:, :, :size]) for name, (count, size) in shapes.items()
    }
    nulls["near"] = tuple(np.tile(members, (DRAWS, 1)) for _ in range(2))
    nulls["none"] = Undefined("none")
    asked = dict.fromkeys([8, 7], 0)

    def statistic(half: int, of: np.ndarray) -> dict[str, np.ndarray]:
        asked[of.shape[1]] += len(of)
        drawn = values[half][of]
        return {"mean": drawn.mean(1), "largest": drawn.max(1)}

    def compared(*names: str) -> dict[str, list[Comparison | Undefined]]:
        group = Group("some", (members, members), {name: nulls[name] for name in names}, 0.0, 0.0)
        found = measure(group, statistic, most)
        return {name: [found[metric].nulls[name] for metric in ("mean", "largest")] for name in names}

    together = compared(*nulls)
    measured_together = dict(asked)
    assert together == {name: one for name in nulls for one in [compared(name)[name]]}
    # beside the group itself, which each call measures
    assert asked[7] == 2 * measured_together[7] and asked[8] - measured_together[8] == measured_together[8] + 2 * 5
    assert together["none"] == [Undefined("none")] * 2


def test_the_nulls_mean_and_deviation_are_unbiased() -> None:
    rng = np.random.default_rng(1)
    found = [comparison(2.0, row) for row in rng.standard_normal((2000, DRAWS))]
    # four standard errors
    assert abs(np.mean([one.null_mean for one in found])) < 4 / np.sqrt(2000 * FIRST)
    assert np.mean([one.null_sd**2 for one in found]) == pytest.approx(1, abs=4 * np.sqrt(2 / (FIRST - 1) / 2000))
