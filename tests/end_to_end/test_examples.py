"""The notebooks of examples/ that need no long run, cell by cell as a notebook runs them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def code_of(file: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cells(file: Path, folder: Path) -> dict[str, Any]:
    """What the names of a notebook stand for once its cells have run in `folder`."""
    names: dict[str, Any] = {}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with contextlib.chdir(folder), mpl.rc_context({"backend": "agg"}):
        for cell in code_of(file):
            if cell.startswith("!"):
                subprocess.run(cell[1:], shell=True, check=True, env={**os.environ, "PATH": path})
            else:
                exec(cell, names)
    return names


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_one_and_holds_no_output(file: Path) -> None:
    notebook = json.loads(file.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and all(isinstance(line, str) for line in cell["source"])
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.slow
def test_a_training_of_ones_own_is_followed_by_the_callback(tmp_path: Path) -> None:
    names = run_cells(EXAMPLES / "own_training.ipynb", tmp_path)
    assert names["run"].steps == (20, 40, 60)
    loss = names["losses"].filter(token_class="all")["value"]
    assert loss.is_sorted(descending=True) and loss[-1] < 7
    # what the callback stored and what was added are one run
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["own"]


@pytest.mark.slow
def test_the_papers_figures_are_reproduced_by_both_designs(tmp_path: Path) -> None:
    names = run_cells(EXAMPLES / "reproduce_paper.ipynb", tmp_path)
    assert names["own"].steps == names["paper"].steps == (0, 512, 4000)
    fixed = names["fixed"]
    assert fixed.height == 3 * 2 * 2 and fixed["paper"].null_count() == fixed["own"].null_count() == 0
    verdicts = names["verdicts"]
    assert {"three-regimes-rare", "attention-alike"} <= set(verdicts["claim"]) and verdicts["own"].null_count() == 0
    assert verdicts["turns"].sum() == (verdicts["paper"] != verdicts["own"]).sum() and verdicts.height >= 14
