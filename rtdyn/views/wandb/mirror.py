"""The run as Weights & Biases shows it. The store is the truth: whatever fails here is said once and passed over."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from rich.console import Console

from rtdyn.blame import passes
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.files import write_json
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.parquet import read_parquet
from rtdyn.store.run import MANIFEST, Run, done_steps, locked, read_run, table_file, tables_of
from rtdyn.store.schema import METRIC_SCHEMA
from rtdyn.views.wandb.client import NO_KEY, client, fault, project
from rtdyn.views.wandb.overlay import LOG2_STEP, log2_step, overlays
from rtdyn.views.wandb.rows import BAND, CONSTANTS, grouping, heads, prefixes, scalars, settings_of, top_neurons
from rtdyn.views.wandb.summary import claim_summary, extremes

TIMEOUTS = {"init_timeout": 20.0, "finish_timeout": 30.0}
"""Seconds that the client waits for its server to answer at the start, and to take what is left at the end.

Its own default for the end is to wait without limit. WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT come first.
"""
SYNC_SECONDS = 600.0
"""The same for the end of `rtdyn sync`, which nothing waits for but the upload itself."""
SLOW = 8.0
"""Seconds that sending a step may take before W&B is given up: a server that is gone costs each step a request."""
HELD = 20.0
"""Seconds for which the client may have a row in memory only: it writes and uploads every 15."""
ROWS_READ = 100_000
"""Rows of a run's history that are asked for: more than any run has, so that the server samples none away."""
READ_ATTEMPTS, READ_PAUSE = 5, 2.0
"""How often, and after how many seconds, a server is asked again whose history lags behind its own count of rows."""
_LOGGED = "logged.json"
REPORT = "report"
"""What the keys of figures and page begin with."""
DRAWN = f"{REPORT}/steps"
"""The number of steps that the report was drawn of."""


@dataclass
class WandbView:
    """A W&B run that mirrors the store, or nothing once something failed or it was disabled."""

    run: Run
    notice: Callable[[str], None]
    backend: Any = None
    sent: dict[int, float] = field(default_factory=dict)
    """When each step was given to the client; long ago those that the server, or `logged.json` if offline, has."""
    failed: bool = False
    is_offline: bool = False
    """Whether what is sent goes to files in the run's directory."""
    takes_files: bool = True
    """Whether tables and artifacts are sent; not to a server that has none."""
    report: bool = True
    """Whether the report is drawn at the end, for a server; `rtdyn sync` draws that of an offline run."""

    def log_step(self, step: int) -> None:
        """Sends a stored step, once."""
        if self.backend is not None and step not in self.sent:
            self._guard(lambda: self._send(step))

    def finish(self) -> None:
        """Sends what is said of the whole run, the report and the store's files, and flushes what was sent."""
        for part in (self._summarise, self._log_report, self._log_files):
            if self.backend is not None and self.sent:
                self._guard(part)
        if self.backend is not None:
            self._guard(self._finish)

    def lies(self) -> str:
        """Where an offline run's files are, and what sends them."""
        if not self.is_offline or self.failed:
            return ""
        path = self.run.path
        return f"W&B is offline: what it gets lies in {path / 'wandb'}; `rtdyn sync {path}` sends it"

    def _send(self, step: int) -> None:
        metrics = read_parquet(table_file(self.run, "metrics", step))
        began = time.monotonic()
        refused = self._log(scalars(metrics), self._tables(step, metrics))
        self.sent[step] = time.monotonic()
        self._record(HELD)
        if self.sent[step] - began > SLOW:
            raise TimeoutError(f"sending step {step} took {counted(round(self.sent[step] - began), 'second')}")
        if refused is not None:  # by a server that answers: one that is gone took its time
            self.takes_files = False
            what = fault(refused).rstrip(".")
            self.notice(f"W&B gets the run's lines and none of its tables and files: {what}.")

    def _log(self, lines: Mapping[str, float], tables: Mapping[str, Any]) -> Exception | None:
        """One row of the history: without its tables where the server refuses them, which is returned."""
        number, refused = self._next_row(), None
        if self.takes_files:
            try:
                self.backend.log({**lines, **tables}, step=number, commit=True)
                return None
            except Exception as error:  # of many types; those of a server that is gone come again below
                if passes(error):
                    raise
                refused = error
        self.backend.log(dict(lines), step=number, commit=True)
        return refused

    def _next_row(self) -> int:
        # an offline run counts its rows from 0 again when it is resumed, and rows of one run must differ in number
        return int(max(len(self.sent), self.backend.starting_step, self.backend.step))

    def _tables(self, step: int, metrics: pl.DataFrame) -> dict[str, Any]:
        """The step's tables; of the last step that a run lacks, also charts over all of them."""
        wandb = client()
        neurons = read_parquet(table_file(self.run, "neurons", step))
        frames = {"top_neurons": top_neurons(neurons), "attention_heads": heads(metrics)}
        tables = {
            key: wandb.Table(columns=frame.columns, data=[list(r) for r in frame.iter_rows()])
            for key, frame in frames.items()
            if len(frame)
        }
        stored = set(done_steps(self.run))
        if set(self.run.manifest.asked) <= stored and stored - set(self.sent) == {step}:
            for key, chart in overlays(_sound_rows(read_judged(self.run.path))).items():
                xs, ys = zip(*chart.lines.values(), strict=True)
                tables[key] = wandb.plot.line_series(
                    list(xs), list(ys), keys=list(chart.lines), title=chart.title, xname="log2(step + 1)"
                )
        return tables

    def _summarise(self) -> None:
        """Extremes, verdicts and emergence steps, into the run's summary; no claim of fewer than three sound steps."""
        run = read_judged(self.run.path)
        self.backend.summary.update(extremes(_sound_rows(run)))
        try:
            claims = scorecard(run)
        except InputError:
            return
        self.backend.summary.update(claim_summary(claims))

    def _log_report(self) -> None:
        """The report's figures and page in a row of their own, unless the server has those of as many steps."""
        steps = list(done_steps(self.run))
        wanted = self.report and self.takes_files and not self.is_offline
        if not wanted or self.backend.summary.get(DRAWN) == len(steps):
            return
        # with matplotlib, for which only a run that is sent is to wait
        from rtdyn.views.report.report import PAGE, Drawn
        from rtdyn.views.report.report import report as draw

        wandb, row = client(), {"step": steps[-1], LOG2_STEP: log2_step(steps[-1]), DRAWN: len(steps)}
        with TemporaryDirectory() as name:
            folder = Path(name)
            draw([self.run.path], folder, None, False, Console(quiet=True), Drawn(formats=("png",)))
            images = {f"{REPORT}/{file.stem}": wandb.Image(str(file)) for file in sorted(folder.glob("*.png"))}
            page = wandb.Html((folder / PAGE).read_text(encoding="utf-8"), inject=False)
            self.backend.log({**row, **images, f"{REPORT}/page": page}, step=self._next_row(), commit=True)

    def _log_files(self) -> None:
        """All that `read_run` needs as one artifact; W&B makes no new version of it while their content is the same."""
        if not self.takes_files:
            return
        artifact = client().Artifact(f"{self.run.manifest.wandb_id}-store", type="rtdyn-run")
        for step in done_steps(self.run):
            for table in tables_of(self.run):
                file = table_file(self.run, table, step)
                artifact.add_file(str(file), f"{table}/{file.name}", policy="immutable", skip_cache=True)
        artifact.add_file(str(self.run.path / MANIFEST), skip_cache=True)
        self.backend.log_artifact(artifact)

    def _finish(self) -> None:
        try:
            self.backend.finish()
        except TimeoutError:  # of the upload: on disk it is complete
            self._record(0.0)
            raise
        self._record(0.0)

    def _record(self, held: float) -> None:
        """Notes the steps that were sent `held` seconds ago; a killed run sends the later ones again."""
        before = time.monotonic() - held
        logged = sorted(step for step, at in self.sent.items() if at <= before)
        write_json(self.run.path / "wandb" / _LOGGED, logged)

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # the client raises many types; none of its own may cost the run
            if passes(error):
                raise
            self.backend, self.failed = None, True
            what = fault(error).rstrip(".")
            self.notice(
                f"W&B stopped: {what}. Everything is in {self.run.path}; "
                f"`rtdyn sync {self.run.path}` sends W&B what it lacks."
            )


def _sound_rows(run: Run) -> pl.DataFrame:
    """The metrics of all stored steps but those that trajectories leave out."""
    sound = [step for step in done_steps(run) if step not in run.manifest.left_out]
    rows = (read_parquet(table_file(run, "metrics", step)) for step in sound)
    return pl.concat([pl.DataFrame(schema=METRIC_SCHEMA), *rows])


def choose_mode(asked: str | None) -> str:
    """`--wandb` if given, else the mode of WANDB_MODE or the client's settings, else offline if it has no key."""
    if asked is not None:
        return asked
    try:
        wandb = client()
        mode = wandb.setup().settings.mode
        if mode == "disabled":
            return "disabled"
        if mode in ("offline", "dryrun"):
            return "offline"
        if os.environ.get("WANDB_MODE") or wandb.login(prompt=False, verify=False):
            return "online"
        return "offline"
    except Exception as error:  # what is wrong here, such as a malformed key, is wrong again in wandb.init
        if passes(error):
            raise
        return "online"


def start_wandb(
    run: Run, mode: str, notice: Callable[[str], None], report: bool = True, finish_seconds: float | None = None
) -> WandbView:
    """Begins or resumes the store's W&B run and sends the steps it lacks.

    report: whether figures and page are drawn at the end, and sent. finish_seconds: how long the upload may take at the
    end; that of TIMEOUTS if not given.
    """
    view = WandbView(run, notice, report=report)
    if mode == "disabled":
        return view
    limits = TIMEOUTS if finish_seconds is None else {**TIMEOUTS, "finish_timeout": finish_seconds}
    view._guard(lambda: _begin(view, mode, limits))
    for step in done_steps(run):
        view.log_step(step)
    return view


def _begin(view: WandbView, mode: str, limits: Mapping[str, float]) -> None:
    wandb = client()
    manifest = view.run.manifest
    folder = view.run.path / "wandb"
    folder.mkdir(exist_ok=True)
    wandb.setup(wandb.Settings(mode=mode))  # over WANDB_MODE, with which the client would look for no key
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise wandb.errors.UsageError(NO_KEY)  # init would ask, unseen
    stands = grouping(manifest)
    chosen = {"WANDB_RUN_GROUP": ("group", stands.group), "WANDB_TAGS": ("tags", stands.tags)}
    backend = wandb.init(
        project=project(),
        name=stands.name,
        job_type=os.environ.get("WANDB_JOB_TYPE", "track"),
        id=manifest.wandb_id,
        resume="allow",
        reinit="create_new",  # by default a run that the process has open would be returned, and finished by this one
        dir=str(view.run.path),
        mode=mode,
        config=settings_of(manifest),
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            finish_timeout_raises=True,
            **{name: seconds for name, seconds in limits.items() if f"WANDB_{name.upper()}" not in os.environ},
        ),
        **{name: value for variable, (name, value) in chosen.items() if variable not in os.environ},
    )
    view.backend, view.is_offline = backend, mode == "offline"
    backend.define_metric("step", hidden=True)
    backend.define_metric("tokens_seen", step_metric="step")
    backend.define_metric(LOG2_STEP, hidden=True)
    for prefix in prefixes(manifest.config):
        backend.define_metric(f"{prefix}/*", step_metric="step")
    backend.define_metric(f"{BAND}/*", step_metric="step", hidden=True)
    for name in (*CONSTANTS, DRAWN):
        backend.define_metric(name, step_metric="step", hidden=True)
    view.sent = dict.fromkeys(_steps_on_server(backend) if mode == "online" else _noted(folder / _LOGGED), -math.inf)


def _noted(file: Path) -> list[int]:
    """The steps that files of the client hold which were written offline, or online before."""
    return list(json.loads(file.read_text())) if file.is_file() else []


def _steps_on_server(backend: Any) -> list[int]:
    """The steps that the run has on the server, whoever sent them. Raises RuntimeError while it shows fewer rows."""
    if backend.starting_step == 0:
        return []
    run = client().Api(timeout=int(TIMEOUTS["init_timeout"])).run(f"{backend.entity}/{backend.project}/{backend.id}")
    for attempt in range(READ_ATTEMPTS):
        if attempt:
            time.sleep(READ_PAUSE)
        rows = run.history(samples=ROWS_READ, keys=["step"], pandas=False)
        if max((row["_step"] for row in rows), default=-1) + 1 >= backend.starting_step:
            return sorted({int(row["step"]) for row in rows})
    raise RuntimeError(
        f"the server counts {counted(backend.starting_step, 'row')} and shows {len(rows)}; try again in a minute"
    )


def sync(path: Path, notice: Callable[[str], None], report: bool = True) -> None:
    """`rtdyn sync`: brings the W&B run of the store at `path` up to it, however much W&B has of it already.

    report: whether figures and page are drawn, and sent.
    Raises InputError if there is no finished step, another process writes to the store, or W&B did not take it all.
    """
    run = read_run(path)
    steps = done_steps(run)
    if not steps:
        raise InputError(f"{path} holds no finished step yet; nothing to send")
    said: list[str] = []
    with locked(path):
        view = start_wandb(run, "online", said.append, report, SYNC_SECONDS)
        had = sum(at == -math.inf for at in view.sent.values())
        url = getattr(view.backend, "url", None)
        view.finish()
    if view.failed:
        raise InputError(said[-1])
    notice(f"{len(view.sent) - had} of {counted(len(steps), 'step')} sent, {had} were there already: {url}")
