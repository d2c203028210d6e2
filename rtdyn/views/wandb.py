"""The run as Weights & Biases shows it. The store is the truth: whatever fails here is said once and passed over."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rtdyn.errors import brief
from rtdyn.store import Run, done_steps, table_file, write_json

TIMEOUTS = {"init_timeout": 20.0, "finish_timeout": 30.0}
"""Seconds that the client waits for its server to answer at the start, and to take what is left at the end.

Its own default for the end is to wait without limit. WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT come first.
"""
HELD = 20.0
"""Seconds for which the client may have a row in memory only: it writes and uploads every 15."""
_LOGGED = "logged.json"


@dataclass
class WandbView:
    """A W&B run that mirrors the store, or nothing once something failed or it was disabled."""

    run: Run
    notice: Callable[[str], None]
    backend: Any = None
    sent: dict[int, float] = field(default_factory=dict)
    """When each step was given to the client; those of `logged.json` long ago."""

    def log_step(self, step: int) -> None:
        """Sends a stored step's defined metrics, once."""
        if self.backend is not None and step not in self.sent:
            self._guard(lambda: self._send(step))

    def finish(self) -> None:
        """Flushes what was sent."""
        if self.backend is not None:
            self._guard(self._finish)

    def _send(self, step: int) -> None:
        rows = pl.read_parquet(table_file(self.run, "metrics", step)).filter(pl.col("status") == "ok")
        values: dict[str, Any] = {"step": step}
        for row in rows.iter_rows(named=True):
            values[metric_name(row)] = row["value"]
            if row["tokens_seen"] is not None:
                values["tokens_seen"] = row["tokens_seen"]
        # an offline run counts its rows from 0 again when it is resumed, and rows of one run must differ in number
        self.backend.log(values, step=max(len(self.sent), self.backend.step), commit=True)
        self.sent[step] = time.monotonic()
        self._record(HELD)

    def _finish(self) -> None:
        try:
            self.backend.finish()
        except TimeoutError:  # of the upload: on disk it is complete, and `wandb sync` sends it
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
        except Exception as error:  # the client raises many types; none may cost the run
            hint = "" if self.backend is None else f"; `wandb sync {self.backend.sync_dir}` sends W&B what it lacks"
            self.backend = None
            what = brief(error).rstrip(".")
            self.notice(f"W&B stopped: {what}. The run goes on; everything is in {self.run.path}{hint}.")


def metric_name(row: dict[str, Any]) -> str:
    """A metric's stable name: analysis/metric, then class and group, and layer and head where it has several."""
    parts = [row["analysis"], row["metric"], row["token_class"], row["group"]]
    if row["head"] is not None:
        parts.append(f"L{row['layer']}H{row['head']}")
    elif row["analysis"] == "routing":
        parts.append(f"L{row['layer']}")
    return "/".join(str(p) for p in parts if p is not None)


def choose_mode(asked: str | None) -> str:
    """`--wandb` if given, else the mode of WANDB_MODE or the client's settings, else offline if it has no key."""
    if asked is not None:
        return asked
    try:
        wandb = _client()
        mode = wandb.setup().settings.mode
        if mode == "disabled":
            return "disabled"
        if mode in ("offline", "dryrun"):
            return "offline"
        if os.environ.get("WANDB_MODE") or wandb.login(prompt=False, verify=False):
            return "online"
        return "offline"
    except Exception:  # what is wrong here, such as a malformed key, is wrong again in wandb.init, and said there
        return "online"


def _client() -> Any:
    """The wandb module, set up before its import to print nothing and to report no errors of its own.

    Its error reports go to the server too, and hold up the end of a run by ten seconds where that does not answer.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def start_wandb(run: Run, mode: str, notice: Callable[[str], None]) -> WandbView:
    """Begins or resumes the store's W&B run and sends the steps it lacks."""
    view = WandbView(run, notice)
    if mode == "disabled":
        return view
    view._guard(lambda: _begin(view, mode))
    for step in done_steps(run):
        view.log_step(step)
    return view


def _begin(view: WandbView, mode: str) -> None:
    wandb = _client()
    manifest = view.run.manifest
    folder = view.run.path / "wandb"
    folder.mkdir(exist_ok=True)
    if (folder / _LOGGED).is_file():
        view.sent = dict.fromkeys(json.loads((folder / _LOGGED).read_text()), -math.inf)
    wandb.setup(wandb.Settings(mode=mode))  # over WANDB_MODE, with which the client would look for no key
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise wandb.errors.UsageError("there is no API key; `wandb login` stores one")  # init would ask, unseen
    backend = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "rtdyn"),
        name=manifest["suite"],
        group=os.environ.get("WANDB_RUN_GROUP", manifest["suite"]),
        id=manifest["wandb_id"],
        resume="allow",
        reinit="create_new",  # by default a run that the process has open would be returned, and finished by this one
        dir=str(view.run.path),
        mode=mode,
        config={**manifest["config"], "versions": manifest["versions"]},
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            finish_timeout_raises=True,
            **{name: seconds for name, seconds in TIMEOUTS.items() if f"WANDB_{name.upper()}" not in os.environ},
        ),
    )
    view.backend = backend
    backend.define_metric("step", hidden=True)
    backend.define_metric("tokens_seen", step_metric="step")
    backend.define_metric("*", step_metric="step")
