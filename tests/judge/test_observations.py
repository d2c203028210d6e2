"""The caution of a run that has too few steps for trajectories."""

from __future__ import annotations

import pytest

from rtdyn.judge.observations import few_sound


@pytest.mark.parametrize(
    ("steps", "left_out", "said"),
    [((4000,), (), "1 sound step,"), ((0, 1, 2), (2,), "2 sound steps,"), ((0, 1), (0, 1), "0 sound steps,")],
)
def test_it_counts_the_sound_steps(steps: tuple[int, ...], left_out: tuple[int, ...], said: str) -> None:
    assert few_sound(steps, {"steps": {}}, left_out).startswith(f"caution: {said} and trajectories")
    assert few_sound((0, 1, 2), {"steps": {}}, ()) == ""
