"""Settings of W&B that its client refuses: the variable, its value and what is wrong with it are said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from end_to_end.test_track import command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("WANDB_MODE", "sometimes", "WANDB_MODE is 'sometimes': Input should be 'online', 'offline'"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT is 'soon': Input should be a valid number"),
        ("WANDB_BASE_URL", "somewhere", "WANDB_BASE_URL is 'somewhere': "),
        ("WANDB_TAGS", "x" * 200, "WANDB_TAGS is "),
    ],
)
def test_a_variable_that_the_client_refuses_is_named(
    home: Path, tmp_path: Path, variable: str, value: str, words: str
) -> None:
    arguments = ("track", "--model", "tiny", "--steps", "4000", "--analyses", "heavytail", "--out", tmp_path / "run")
    environment = {**os.environ, "WANDB_MODE": "offline", variable: value}
    ended = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("W&B stopped")]
    assert words in said and "validation error" not in said
