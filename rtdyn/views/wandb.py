"""The run as Weights & Biases shows it. The store is the truth: whatever fails here is said once and passed over."""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from rtdyn.errors import brief
from rtdyn.store import Run, done_steps, table_file, write_json

MODES = ("online", "offline", "disabled")
_LOGGED = "logged.json"


@dataclass
class WandbView:
    """A W&B run that mirrors the store, or nothing once something failed or it was disabled."""

    run: Run
    notice: Callable[[str], None]
    backend: Any = None
    logged: set[int] = field(default_factory=set)

    def log_step(self, step: int) -> None:
        """Sends a stored step's defined metrics, once."""
        if self.backend is None or step in self.logged:
            return
        frame = pl.read_parquet(table_file(self.run, "metrics", step)).filter(pl.col("status") == "ok")
        values: dict[str, Any] = {"step": step, "tokens_seen": frame["tokens_seen"][0]}
        values.update({metric_name(row): row["value"] for row in frame.iter_rows(named=True)})
        if self._guard(lambda: self.backend.log({k: v for k, v in values.items() if v is not None})):
            self.logged.add(step)
            write_json(self.run.path / "wandb" / _LOGGED, sorted(self.logged))

    def finish(self) -> None:
        """Flushes what was sent."""
        if self.backend is not None:
            self._guard(lambda: self.backend.finish())

    def _guard(self, call: Callable[[], Any]) -> bool:
        try:
            call()
        except Exception as error:  # the client raises many types; none may cost the run
            self.backend = None
            self.notice(f"W&B stopped: {brief(error)}. The run goes on; everything is in {self.run.path}.")
            return False
        return True


def metric_name(row: dict[str, Any]) -> str:
    """A metric's stable name: analysis/metric, then class, group, layer and head as far as it has them."""
    parts = [row["analysis"], row["metric"], row["token_class"], row["group"]]
    if row["head"] is not None:
        parts.append(f"L{row['layer']}H{row['head']}")
    return "/".join(str(p) for p in parts if p is not None)


def choose_mode(asked: str | None) -> str:
    """`--wandb` if given, else WANDB_MODE, else online if a key is at hand and offline if not."""
    if asked is not None:
        return asked
    from_environment = os.environ.get("WANDB_MODE", "")
    if from_environment in MODES:
        return from_environment
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    """Whether the client would find an API key: in the environment, or in netrc for the server it talks to."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


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
    import wandb

    manifest = view.run.manifest
    folder = view.run.path / "wandb"
    folder.mkdir(exist_ok=True)
    if (folder / _LOGGED).is_file():
        view.logged = set(json.loads((folder / _LOGGED).read_text()))
    backend = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "rtdyn"),
        name=manifest["suite"],
        group=os.environ.get("WANDB_RUN_GROUP", manifest["suite"]),
        id=manifest["wandb_id"],
        resume="allow",
        dir=str(view.run.path),
        mode=mode,  # type: ignore[arg-type]  # checked by the command line against the same names
        config={**manifest["config"], "versions": manifest["versions"]},
        settings=wandb.Settings(silent=True, console="off", init_timeout=30, x_disable_stats=True),
    )
    backend.define_metric("step", hidden=True)
    backend.define_metric("tokens_seen", step_metric="step")
    backend.define_metric("*", step_metric="step")
    view.backend = backend
