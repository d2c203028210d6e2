"""Runs with the real W&B client: the command in a home of its own, servers that are down, files that it wrote."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import wandb
from loopback.wandb import serving
from support.hang import HANG
from support.processes import run_python
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # generated

from rtdyn.store.metric_names import metric_name
from rtdyn.store.run import Run, table_file

KEY = "0123456789abcdef0123456789abcdefdeadbeef"
STEPS, LATER = (0, 4000), 1
LAST, LIGHT = STEPS[1:], ("--analyses", "ablation", "--tokens", "4096")
"""What is tracked beside a server that is down, and without the client."""
OUTAGES = ("refused", "errors", "silent")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtdyn"
CHEAP = (
    "--rare",
    "0.5:0.9",
    "--tokens",
    "8192",
    "--positions-per-rare",
    "1",
    "--tolerance",
    "1",
    "--analyses",
    "ablation,regimes",
)
WITHOUT_CLIENT = "import sys; sys.modules['wandb'] = None; from rtdyn.cli import main; main()"
HANGING = """
import pathlib, sys
from rtdyn.store.run import read_run
from rtdyn.views.wandb.mirror import start_wandb
start_wandb(read_run(pathlib.Path(sys.argv[1])), "offline", sys.exit)
print("sent", flush=True)
sys.stdin.read()
"""
OUTAGE = """
import pathlib, sys
import rtdyn.views.wandb.mirror as view_module
from rtdyn.store.run import done_steps, read_run
view_module.SLOW = 1.0
run = read_run(pathlib.Path(sys.argv[1]))
view = view_module.start_wandb(run, "online", lambda text: print(text, flush=True))
print("begun", flush=True)
sys.stdin.readline()
view.log_step(list(done_steps(run))[-1])
view.finish()
print("ended", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Outcome:
    """What one `rtdyn track` left behind."""

    out: Path
    cwd: Path
    code: int
    text: str
    seconds: float

    @property
    def mentions(self) -> list[str]:
        """The lines on either stream that speak of W&B."""
        return [line for line in self.text.splitlines() if "w&b" in line.lower() or "wandb" in line.lower()]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's environment with another home and nothing of W&B but `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "XDG", "NETRC"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **variables}


class Workspace:
    """A run directory with a home and a working directory of its own, and the command run there."""

    def __init__(self, folder: Path) -> None:
        self.out, self.home, self.cwd = folder / "out", folder / "home", folder / "cwd"
        (self.home / ".cache").mkdir(parents=True)
        (self.home / ".cache" / "rtdyn").symlink_to(CACHE)  # what is compiled is kept as for any other command
        self.cwd.mkdir()

    def track(self, *options: str, steps: tuple[int, ...] = STEPS, client: bool = True, **env: str) -> Outcome:
        program = ("-m", "rtdyn.cli") if client else ("-c", WITHOUT_CLIENT)
        chosen = ("--steps", ",".join(map(str, steps)), "--out", str(self.out))
        began = time.monotonic()
        command = [*program, "track", "--model", "tiny", *CHEAP, *chosen, *options]
        done = run_python(command, cwd=self.cwd, env=environment(self.home, **env), merged=True, timeout=HANG)
        return Outcome(self.out, self.cwd, done.returncode, done.stdout, time.monotonic() - began)


@contextmanager
def outage(kind: str) -> Iterator[str]:
    """The address of a server that is down in the given way."""
    if kind in ("refused", "silent"):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            if kind == "silent":
                bound.listen(64)  # connections are made by the system, and nobody ever reads them
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    else:
        with serving(**{kind: True}) as server:
            yield server.url


def records(file: Path) -> Iterator[Record]:
    """The records of a `.wandb` file, which is a LevelDB log under a header of 7 bytes."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + part) == checksum
        at += 7 + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            yield Record.FromString(whole)


def sessions(out: Path) -> list[list[Record]]:
    """The records of each time the run was begun or resumed, in order."""
    wandb.teardown()  # what this process had is written by then at the latest, as it is when a command ends
    files = out.glob("wandb/*run-2*/*.wandb")
    return [list(records(file)) for file in sorted(files, key=lambda file: file.parent.name.partition("run-")[2])]


def values(items: Any) -> dict[str, Any]:
    pairs = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
    assert len(pairs) == len(items)
    return pairs


def rows(session: list[Record]) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in session if record.HasField("history")]


def logged_steps(session: list[Record]) -> list[int]:
    return [row["step"] for row in rows(session)]


def stored_row(run: Run, step: int) -> dict[str, Any]:
    """What a step's row must hold, by its table: lines, bands, and the keys of tables."""
    frame = pl.read_parquet(table_file(run, "metrics", step)).filter(pl.col("value").is_not_null())
    final = frame["layer"].max()
    row: dict[str, Any] = {"step": step, "log2_step": math.log2(step + 1), "tokens_seen": frame["tokens_seen"][0]}
    for metric in frame.filter(pl.col("head").is_null()).iter_rows(named=True):
        name = metric_name(metric, final)
        row[name] = metric["value"]
        own = f"band/{name}/{metric['null']}" if metric["null"] else f"band/{name}"
        mean, sd = metric["null_mean"], metric["null_sd"]
        band = {f"band/{name}/{side}": metric[side] for side in ("ci_low", "ci_high")}
        band |= {f"{own}/mean": mean, f"{own}/p": metric["p_value"]}
        if sd is not None:
            band |= {f"{own}/low": mean - 1.959963984540054 * sd, f"{own}/high": mean + 1.959963984540054 * sd}
        row |= {key: value for key, value in band.items() if value is not None}
    return row


def without_own(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the keys that the client adds, and without its tables."""
    return {key: value for key, value in row.items() if not key.startswith(("_", "top_neurons", "overlay/"))}
