"""The serial run that the clusters' must equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback.sweeps import TINY, Sweep
from support.hang import HANG
from support.processes import run_python


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    out = tmp_path_factory.mktemp("serial") / "run"
    ended = run_python(Sweep(out, TINY, {}).program, timeout=HANG)
    assert ended.returncode == 0, ended.stderr
    return out
