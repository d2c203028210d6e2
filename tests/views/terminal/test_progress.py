"""What a sweep shows while it runs: a line a step, in a file and above a terminal's bar, and the time left."""

from __future__ import annotations

import re
import time
from io import StringIO

import pytest
from rich.console import Console

from rtdyn.views.terminal.progress import in_words, progress


def sweep(console: Console, expected: dict[str, float]) -> list[float | None]:
    """Two of three steps stored and one passed over; the time left before any, and after each."""
    left = []
    with progress(console, "pythia-160m-deduped", 3, expected) as reporter:
        for number, step in enumerate((0, 512, 143000), start=1):
            reporter.begin(step, number, 3)
            reporter.stage("downloading step 143000: 12,345.6 of 98,765.4 MB")
            left.append(reporter.left())
            time.sleep(0.02)
            reporter.stage("ablation")
            if reporter.bar is not None:
                reporter.bar.refresh()
            if step == 512:
                reporter.pass_over(step, "its weights are truncated")
            else:
                reporter.end("loss 3.4")
        left.append(reporter.left())
    return left


@pytest.mark.parametrize("terminal", [False, True])
def test_each_step_has_its_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal has no bar
    text = StringIO()
    left = sweep(Console(file=text, width=80, force_terminal=terminal, color_system=None), {"load": 50, "ablation": 50})
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", text.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("[") or "passed over" in line]
    assert [re.sub(r"[0-9.]+ s", "T", line) for line in said] == [
        "[1/3] step 0: loss 3.4 (T, T left)",
        "step 512 is passed over: its weights are truncated",
        "[3/3] step 143000: loss 3.4 (T)",
    ]
    bars = [line for line in lines if line.startswith("pythia-160m-deduped step")]
    assert bool(bars) == terminal and all(len(line) <= 80 for line in bars)
    assert not terminal or any("5 min left" in line and "0/3" in line for line in bars), bars
    assert left[0] is not None and 250 < left[0] <= 300
    assert left[1] is not None and left[1] < 5 and left[3] == 0


def test_nothing_is_foretold_of_what_is_not_known() -> None:
    assert sweep(Console(file=StringIO()), {})[0] is None


def test_durations_are_said_as_one_says_them() -> None:
    assert [in_words(s) for s in (0.2, 59, 100, 3599, 7800)] == ["0 s", "59 s", "2 min", "1 h 0 min", "2 h 10 min"]
