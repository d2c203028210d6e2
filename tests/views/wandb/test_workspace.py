"""`rtdyn workspace` with the real clients: what is saved on the server, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from click.testing import CliRunner, Result
from loopback.wandb import Server
from support.refusal import refusal
from support.synthetic import synthetic_run

from rtdyn.cli import main
from rtdyn.views.report.panels import THEMES
from rtdyn.views.wandb.mirror import sync


def workspace(*runs: Path) -> Result:
    result = CliRunner().invoke(main, ["workspace", *map(str, runs)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def plotted(panels: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The names of the lines, by title."""
    return {panel["config"]["chartTitle"]: panel["config"]["metrics"] for panel in panels}


@pytest.mark.slow
def test_the_panels_that_have_a_line_are_saved_in_the_reports_order(online: Server, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    runs = [synthetic_run(tmp_path / name, 4, 60, suite=name) for name in ("one", "other")]
    for run in runs:
        sync(run, print, report=False)
    wandb.teardown()
    ended = workspace(*runs)
    assert ended.exit_code == 0, ended.output
    assert [line.partition(": ")[0] for line in ended.stdout.splitlines()] == ["workspace", "report"]
    of_workspace, of_report = online.views
    assert (of_workspace["type"], of_report["type"]) == ("project-view", "runs")
    section = of_workspace["spec"]["section"]
    sections = section["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == [what.capitalize() for what in THEMES.values()]
    sent = {name for row in online.rows.values() for name in row}
    names = [name for s in sections for lines in plotted(s["panels"]).values() for name in lines]
    assert set(names) <= sent and len(names) == len(set(names))
    shown = plotted([panel for s in sections for panel in s["panels"]])
    ends = [f"band/capture/loss/rare/ci_{end}" for end in ("low", "high")]
    assert shown["Loss, nats"][:3] == ["capture/loss/rare", *ends]
    band = [f"band/modularity/q_excess/rare/top/selected/{end}" for end in ("low", "high")]
    assert shown["Modularity at equal edges, Q"] == ["modularity/q_excess/rare/top", *band]
    assert "routing/profile_r_plain/rare/L-2" in shown["Attention profiles, Pearson r"]
    marks = sections[0]["panels"][0]["config"]["overrideMarks"]
    assert {marks[f"{run}-0:{ends[0]}"] for run in ("one", "other")} == {"dotted"}
    (chosen,) = section["runSets"][0]["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["value"]) == ("name", ["one-0", "other-0"])
    grids = [block["metadata"] for block in of_report["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert [plotted(grid["panelBankSectionConfig"]["panels"]) for grid in grids] == [
        plotted(s["panels"]) for s in sections
    ]
    said = [block["content"] for block in of_report["spec"]["blocks"] if block["type"] == "markdown-block"]
    assert len(said) == 8 and said[3].startswith("**What came out.** Of ")


@pytest.mark.slow
def test_what_cannot_be_saved_is_refused(online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    run = synthetic_run(tmp_path / "run", 4, 60)
    ended = workspace(run)
    assert ended.exit_code == 3
    assert f"is not in W&B's project someone/rtdyn; `rtdyn sync {run}` sends it" in refusal(ended.stderr)
    online.errors = True
    assert "W&B did not save it" in refusal(workspace(run).stderr)
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    assert "no API key" in refusal(workspace(run).stderr)
    assert online.views == []


def test_without_the_package_it_is_said_how_to_install_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"wandb_workspaces", *(name for name in sys.modules if name.startswith("wandb_workspaces."))}:
        monkeypatch.setitem(sys.modules, name, None)
    ended = workspace(synthetic_run(tmp_path / "run", 4, 60))
    assert ended.exit_code == 3 and "pip install wandb-workspaces" in refusal(ended.stderr)
