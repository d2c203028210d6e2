"""`python -m rtdyn`."""

from __future__ import annotations

import runpy
import sys

import pytest

from rtdyn.version import __version__


def test_the_package_runs_as_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["some/place/__main__.py", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("rtdyn", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == f"rtdyn, version {__version__}\n"
