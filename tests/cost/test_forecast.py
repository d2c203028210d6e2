"""The time that is left: by the plan first, corrected by the stages that have ended, then by the steps themselves."""

from __future__ import annotations

from rtdyn.cost.forecast import Forecast


def test_before_any_stage_the_plan_is_all_there_is() -> None:
    assert Forecast({"load": 1.0, "ablation": 9.0}).left(18, 0.0) == 180.0
    assert Forecast().left(18, 3.0) is None


def test_the_stages_that_ended_correct_those_that_did_not() -> None:
    forecast = Forecast({"load": 2.0, "ablation": 8.0}, {"load": 14.0, "fetch": 50.0})
    assert forecast.left(10, 5.0) == (14 + 10) / (2 + 10) * 10.0 * 10 - 5.0
    assert forecast.left(10, 500.0) == 500.0 * 10 - 500.0
    first_load = Forecast({"load": 0.001, "ablation": 9.999}, {"load": 10.0})
    left = first_load.left(10, 0.0)
    assert left is not None and 190 < left < 210  # not ten thousand times as long


def test_steps_that_are_stored_say_how_long_the_others_take() -> None:
    forecast = Forecast({"load": 1000.0}, steps=4, seconds=20.0)
    assert forecast.left(3, 1.0) == 14.0 and forecast.left(1, 60.0) == 0.0
