"""A number and its noun."""

from __future__ import annotations

from rtdyn.counted import counted


def test_one_is_singular_and_all_else_plural() -> None:
    assert [counted(n, "step") for n in (0, 1, 2, 2048)] == ["0 steps", "1 step", "2 steps", "2,048 steps"]
    assert [counted(n, "rare query") for n in (1, 2)] == ["1 rare query", "2 rare queries"]
    assert counted(2, "day") == "2 days"
