"""Settings of W&B that its client refuses: the variable, its value and what is wrong with it are said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.hang import HANG
from support.processes import run_python

from rtdyn.cli import main

TRACK = ("track", "--model", "tiny", "--steps", "4000", "--analyses", "heavytail")


@pytest.fixture(scope="module")
def stored(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that W&B has not seen."""
    out = tmp_path_factory.mktemp("stored") / "run"
    assert CliRunner().invoke(main, [*TRACK, "--wandb", "disabled", "--out", str(out)]).exit_code == 0
    return out


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
    stored: Path, home: Path, tmp_path: Path, variable: str, value: str, words: str
) -> None:
    out = shutil.copytree(stored, tmp_path / "run")
    environment = {**os.environ, "WANDB_MODE": "offline", variable: value}
    ended = run_python(["-m", "rtdyn.cli", *TRACK, "--out", out], env=environment, timeout=HANG)
    assert ended.returncode == 0, ended.stderr
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("W&B stopped")]
    assert words in said and "validation error" not in said
