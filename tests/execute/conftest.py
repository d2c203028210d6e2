"""The serial run that the clusters' must equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback.sweeps import TINY, Sweep


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must equal."""
    out = tmp_path_factory.mktemp("serial") / "run"
    ended = Sweep(out, TINY, {}).run()
    assert ended.returncode == 0, ended.stderr
    return out
