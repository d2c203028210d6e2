"""Seconds by stage, written beside the tables and read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtdyn.store import stage_log
from rtdyn.store.stage_log import LOG, StageClock, log_seconds, seconds_by_stage


def test_stages_are_passed_on_and_their_seconds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 10.0, 15.0])
    monkeypatch.setattr(stage_log.time, "perf_counter", lambda: next(now))
    told: list[str] = []
    clock = StageClock(told.append)
    for stage in ("load", "ablation", "load"):
        clock.begin(stage)
    assert clock.end() == {"load": 1.0 + 4.0, "ablation": 2.0}
    clock.begin("load")
    assert clock.end() == {"load": 5.0}, "a step's seconds are its own"
    assert told == ["load", "ablation", "load", "load"]


def test_a_line_cut_short_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    assert seconds_by_stage(tmp_path) == {}
    log_seconds(tmp_path, 0, {"load": 1.0})
    log_seconds(tmp_path, 1, {"load": 2.0, "ablation": 0.5})
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 2, "sec')
    log_seconds(tmp_path, 2, {"load": 4.0})
    assert seconds_by_stage(tmp_path) == {"load": 7.0, "ablation": 0.5}
