"""`rtdyn workspace`: the report's panels over training as a saved workspace and a report in W&B."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.blame import passes
from rtdyn.errors import InputError
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import ClaimRow
from rtdyn.undefined import Undefined
from rtdyn.views.report.opening import opening
from rtdyn.views.report.page import claims_of
from rtdyn.views.report.panels import THEMES
from rtdyn.views.report.plots.style import COLOURS
from rtdyn.views.report.run_tables import RunTables, labels, show
from rtdyn.views.wandb.charts import Chart, charts
from rtdyn.views.wandb.client import NO_KEY, client, fault, project
from rtdyn.views.wandb.overlay import LOG2_STEP
from rtdyn.views.wandb.rows import scalars
from rtdyn.views.wandb.summary import claim_summary

PANEL_WIDTH, PANEL_HEIGHT, PANELS_A_ROW = 8, 6, 3
"""Of a report's grid, which is 24 columns wide."""
LONGEST = 128
"""Characters of a title that W&B takes."""
Claims = Sequence[ClaimRow] | Undefined
"""A run's scorecard, or why it has none."""


@dataclass(frozen=True)
class _Shared:
    """What workspace and report have in common."""

    runs: Sequence[RunTables]
    entity: str
    title: str
    charts: Mapping[str, Sequence[Chart]]
    filters: Any
    """Which runs of the project are shown."""

    @property
    def ids(self) -> list[str]:
        return [str(tables.run.manifest.wandb_id) for tables in self.runs]


def save_workspace(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Saves a workspace and a report of these runs, and says where they are.

    Raises InputError without wandb-workspaces or an API key, for a run that W&B does not have, and for what the server
    does not take.
    """
    wandb = client()
    try:
        workspaces = importlib.import_module("wandb_workspaces.workspaces")
        reports = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError:
        raise InputError(
            "`rtdyn workspace` needs wandb-workspaces; install it with `pip install wandb-workspaces`"
        ) from None
    runs = [read_judged(path) for path in paths]
    shown = [show(run, label) for run, label in zip(runs, labels(runs), strict=True)]
    claims = [claims_of(tables) for tables in shown]
    try:
        entity = _entity_with(wandb, shown)
        shared = _Shared(
            shown,
            entity,
            f"rtdyn: {', '.join(tables.label for tables in shown)}"[:LONGEST],
            charts({name for tables in shown for name in _names(tables)}),
            workspaces.And(workspaces.Metric("ID").isin([str(run.manifest.wandb_id) for run in runs])),
        )
        workspace = _workspace(workspaces, reports, shared, claims).save()
        say(f"workspace: {workspace.url}")
        report = _report(reports, shared, claims).save()
        say(f"report: {report.url}")
    except Exception as error:  # of many types, as the client raises them
        if passes(error) or isinstance(error, InputError):
            raise
        raise InputError(f"W&B did not save it: {fault(error).rstrip('.')}") from error


def _workspace(workspaces: Any, reports: Any, shared: _Shared, claims: Sequence[Claims]) -> Any:
    """A section for each theme, and the verdicts as columns of the runs' table."""
    sections = [
        workspaces.Section(name=THEMES[theme].capitalize(), panels=_plots(reports, of_theme, shared.ids), is_open=True)
        for theme, of_theme in shared.charts.items()
    ]
    return workspaces.Workspace(
        entity=shared.entity,
        project=project(),
        name=shared.title,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=LOG2_STEP),
        runset_settings=workspaces.RunsetSettings(filters=shared.filters, pinned_columns=_verdicts(claims)),
    )


def _report(reports: Any, shared: _Shared, claims: Sequence[Claims]) -> Any:
    """What the page says of each run in words, and a grid for each theme."""
    blocks = []
    for tables, of_run in zip(shared.runs, claims, strict=True):
        blocks.append(reports.H2(text=tables.label))
        said = opening(tables, of_run)[:-1]  # the last line speaks of a list that the page alone has
        blocks += [reports.MarkdownBlock(text=f"**{name}.** {text}") for name, text in said]
    runset = reports.Runset(entity=shared.entity, project=project(), filters=shared.filters)
    for theme, of_theme in shared.charts.items():
        blocks.append(reports.H2(text=f"{THEMES[theme].capitalize()} over training"))
        blocks.append(reports.PanelGrid(runsets=[runset], panels=_plots(reports, of_theme, shared.ids)))
    return reports.Report(entity=shared.entity, project=project(), title=shared.title, blocks=blocks)


def _entity_with(wandb: Any, shown: Sequence[RunTables]) -> str:
    """Who owns the runs. Raises InputError without a key, and for a run that is not there."""
    if not wandb.login(prompt=False, verify=False):
        raise InputError(NO_KEY)
    api = wandb.Api()
    entity = os.environ.get("WANDB_ENTITY") or str(api.default_entity)
    for tables in shown:
        try:
            api.run(f"{entity}/{project()}/{tables.run.manifest.wandb_id}")
        except wandb.errors.CommError as error:
            if not isinstance(error.exc, ValueError):  # the client's word for a run that the server does not know
                raise
            path = tables.run.path
            raise InputError(
                f"{path} is not in W&B's project {entity}/{project()}; `rtdyn sync {path}` sends it"
            ) from error
    return entity


def _names(tables: RunTables) -> set[str]:
    """The keys of the rows that W&B has of a run."""
    return {name for step in tables.steps for name in scalars(tables.metrics.filter(pl.col("step") == step))}


def _plots(reports: Any, of_theme: Sequence[Chart], ids: Sequence[str]) -> list[Any]:
    """A line plot for each chart, from left to right."""
    return [_plot(reports, chart, place, ids) for place, chart in enumerate(of_theme)]


def _plot(reports: Any, chart: Chart, place: int, ids: Sequence[str]) -> Any:
    """Intervals are dotted, null bands dashed. Lines of one run have colours by meaning, of several their run's."""
    marks, colours = dict[str, str](), dict[str, str]()
    for line in chart.lines:
        for names, mark in (((line.name,), "solid"), (line.interval, "dotted"), (line.null, "dashed")):
            keys = [f"{run}:{name}" for run in ids for name in names]
            marks |= dict.fromkeys(keys, mark)
            colours |= dict.fromkeys(keys, COLOURS[line.colour])
    row, column = divmod(place, PANELS_A_ROW)
    return reports.LinePlot(
        title=chart.title,
        x=LOG2_STEP,
        y=[name for line in chart.lines for name in (line.name, *line.interval, *line.null)],
        log_y=chart.is_log,
        title_x="log2(step + 1)",
        line_marks=marks,
        line_colors=colours if len(ids) == 1 else None,
        layout=reports.Layout(x=column * PANEL_WIDTH, y=row * PANEL_HEIGHT, w=PANEL_WIDTH, h=PANEL_HEIGHT),
    )


def _verdicts(claims: Sequence[Claims]) -> list[str]:
    """The columns of the runs' table that hold verdicts."""
    of_runs = (claim_summary(of_run) for of_run in claims if not isinstance(of_run, Undefined))
    names = dict.fromkeys(name for of_run in of_runs for name in of_run)
    return [f"summary:{name}" for name in names if name.endswith("/verdict")]
