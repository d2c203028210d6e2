"""Loops are compiled ahead, all of them, and a step that needs one earlier waits without numba's lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import threading
import numba
from numba.core import event

compiled, takers = [], set()
class Compiles(event.Listener):
    def on_start(self, one): compiled.append(one.data["dispatcher"].py_func.__name__)
    def on_end(self, one): pass
class Takes(event.Listener):
    def on_start(self, one): takers.add(threading.current_thread().name)
    def on_end(self, one): pass
event.register("numba:compile", Compiles())

import torch
torch.set_num_threads(1)  # so that loops run in the thread that calls them
from rtdyn.analyses.options import StepOptions
from rtdyn.checkpoints.local import fetch_local
from rtdyn.names import ANALYSES
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.sweep.sweep import prepare_sweep
from rtdyn.text.options import EvaluationOptions

suite = find_suite("tiny", load_suites())
text = EvaluationOptions(None, "text", None, 1, ("paper-text",), 13312, 256, "prepend", "target", 40, 2.0, 0)
options = StepOptions(tuple(ANALYSES), "kept", "mean_abs", 1e-5, 1.0, "never", "cpu", 0)
event.register("numba:compiler_lock", Takes())
prepare_sweep(suite, 4000, text, options).analyse(fetch_local(suite, 4000), lambda stage: None)
assert len(compiled) > 8 and takers == {"compile-ahead"}, (compiled, takers)
"""


@pytest.mark.slow
def test_a_step_compiles_nothing_itself(tmp_path: Path) -> None:
    nothing_kept = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    program = [sys.executable, "-c", STEP]
    run = subprocess.run(program, capture_output=True, text=True, check=False, timeout=900, env=nothing_kept)
    assert run.returncode == 0, run.stderr
