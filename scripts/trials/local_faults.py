"""Random faults of a folder: `fault_schedules.py --level folder`.

Each schedule damages up to three of six steps, before a run or in the middle of it. The sound steps' tables must equal
those of a run without faults, and every other step must be stored or named. Then the folder is mended, and the same
command must come to whole tables. Where a step was stored from what is no longer there, it must refuse instead.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopback.place import TINY, TOKENIZER, Machine, copy_step

STEPS = (0, 16, 128, 512, 2000, 4000)
SHARDED = 128
KINDS = ("cut", "cut config", "swapped", "exchanged", "pointer", "two saves", "unreadable", "vanishing")
STORED_WRONG = ("swapped", "exchanged", "two saves")
"""A run may store what such a step holds; the sound save that comes later is another."""
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{:064x}\nsize 1800000\n"
NO_DISK = Path("/proc/self/mem")
"""Reading it is an input/output error."""


@dataclass(frozen=True)
class Fault:
    """What happens to one step's folder."""

    kind: str
    step: int
    share: float
    """Of the file that stays, where it is cut; of a run's time that passes, where the folder vanishes."""


def make_folder(suite: Path) -> None:
    """Six bundled steps, one of them in shards."""
    from safetensors.torch import load_file, save_file

    suite.mkdir()
    for name in (*TOKENIZER, "token_counts.npy"):
        shutil.copy(TINY / name, suite)
    for step in STEPS:
        copy_step(step, suite)
    sharded = suite / f"step{SHARDED}"
    weights = load_file(sharded / "model.safetensors")
    weight_map: dict[str, str] = {}
    for number in range(2):
        shard = f"model-{number + 1:05d}-of-00002.safetensors"
        part = {name: weights[name] for name in sorted(weights)[number::2]}
        save_file(part, sharded / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (sharded / "model.safetensors").unlink()
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def draw(rng: random.Random) -> list[Fault]:
    """One to three faults at as many steps; an exchange takes two, and two saves are those of the sharded one."""
    steps = rng.sample(STEPS, rng.randint(1, 3))
    faults = [Fault(rng.choice(KINDS), step, rng.random()) for step in steps]
    return [Fault("two saves", SHARDED, 0.0) if f.kind == "two saves" and SHARDED not in steps else f for f in faults]


def damage(suite: Path, clean: Path, fault: Fault) -> set[int]:
    """Does a fault that is there before the run begins; the steps that are no longer sound."""
    from safetensors.torch import load_file, save_file

    folder = suite / f"step{fault.step}"
    weights = sorted(folder.glob("*.safetensors"))[0]
    other = next(s for s in reversed(STEPS) if s not in (fault.step, SHARDED))
    if fault.kind.startswith("cut"):
        file = folder / "config.json" if fault.kind == "cut config" else weights
        os.truncate(file, int(fault.share * file.stat().st_size))
    elif fault.kind == "pointer":
        weights.write_text(POINTER.format(fault.step))
    elif fault.kind == "unreadable":
        weights.unlink()
        weights.symlink_to(NO_DISK)
    elif fault.kind == "two saves":
        shard = sorted((suite / f"step{SHARDED}").glob("*.safetensors"))[0]
        newer, names = load_file(clean / f"step{other}" / "model.safetensors"), load_file(shard)
        save_file({name: newer[name] for name in names}, shard, metadata={"format": "pt"})
        return {SHARDED}
    elif fault.kind in ("swapped", "exchanged"):
        here, there = clean / folder.name, clean / f"step{other}"
        shutil.rmtree(folder)
        shutil.copytree(there, folder)
        if fault.kind == "exchanged":
            shutil.rmtree(suite / f"step{other}")
            shutil.copytree(here, suite / f"step{other}")
            return {fault.step, other}
    return {fault.step}


def schedules(folder: Path, number: int, seed: int) -> dict[str, Any]:
    """Runs the schedules; what came of them, with those that broke the rule under `broken`."""
    from loopback.place import workplace

    clean, place = folder / "clean", workplace(folder, "http://127.0.0.1:9")
    make_folder(clean)
    began = time.monotonic()
    code, said, _ = _run(place, clean, "reference")
    if code:
        raise SystemExit(said)
    seconds, reference = time.monotonic() - began, _tables(folder / "reference")
    found: dict[str, Any] = {"schedules": number, "faults": Counter(), "ended": Counter(), "broken": []}
    for n in range(number):
        faults, suite, out = draw(random.Random(f"{seed}/{n}")), folder / f"suite-{n}", f"run-{n}"
        try:
            found["ended"][_schedule(place, suite, clean, out, faults, seconds, reference)] += 1
            found["faults"].update(fault.kind for fault in faults)
        except Exception as error:
            found["broken"].append(f"schedule {n} ({faults}): {error!r}")
        print(f"{n}: {[(f.kind, f.step) for f in faults]}", file=sys.stderr)
        shutil.rmtree(suite, ignore_errors=True)
        shutil.rmtree(folder / out, ignore_errors=True)
    return found


def _schedule(
    place: Machine,
    suite: Path,
    clean: Path,
    out: str,
    faults: list[Fault],
    seconds: float,
    reference: dict[int, Any],
) -> str:
    """How one schedule ended. Raises AssertionError if it broke the rule."""
    shutil.copytree(clean, suite)
    bad = {f.step for f in faults if f.kind == "vanishing"}
    for fault in faults:
        if fault.kind != "vanishing":
            bad |= damage(suite, clean, fault)
    timers = [
        threading.Timer(f.share * seconds, shutil.rmtree, (suite / f"step{f.step}", True))
        for f in faults
        if f.kind == "vanishing"
    ]
    for timer in timers:
        timer.start()
    code, sentence, printed = _run(place, suite, out)
    for timer in timers:
        timer.join()
    stored = _tables(place.folder / out) if (place.folder / out).exists() else {}
    named = {int(step) for step in re.findall(r"step (\d+)(?: was passed over)?: ", sentence + printed)}
    sound = set(STEPS) - bad
    assert sound <= stored.keys(), f"sound steps are not stored: {code}, {sentence}"
    assert all(stored[step] == reference[step] for step in sound), "sound steps have other tables"
    assert set(STEPS) - stored.keys() <= named, f"not stored and not named: {sentence}"
    assert code in (0, 3) and (code == 3) == ("could not be analysed" in sentence), sentence
    wrong = {step for step, tables in stored.items() if tables != reference[step]}
    assert wrong <= {s for s in bad if any(f.kind in STORED_WRONG for f in faults)}, f"wrong numbers: {wrong}"
    shutil.rmtree(suite)
    shutil.copytree(clean, suite)
    code, sentence, _ = _run(place, suite, out)
    if wrong:
        assert code == 3 and "give another --out" in sentence, f"went on over other weights: {sentence}"
        return "stored what it held, then refused"
    assert code == 0, f"mended and refused: {sentence}"
    assert _tables(place.folder / out) == reference, "other results once mended"
    return "passed over, then whole" if set(STEPS) - stored.keys() else "whole at once"


def _run(place: Machine, suite: Path, out: str) -> tuple[int, str, str]:
    """A command's exit code, the sentence of its refusal and what it printed. Raises AssertionError for a traceback."""
    from click.testing import CliRunner

    from rtdyn.cli import main

    arguments = ["track", "--model", str(suite), *place.settings(place.folder / out)]
    ended = CliRunner().invoke(main, arguments)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("rtdyn: ")]  # progress stands before it
    if isinstance(ended.exception, Exception) or len(lines) > 1:
        raise AssertionError(f"ended with {ended.exit_code} and {ended.stderr!r}: {ended.exc_info}")
    return ended.exit_code, "".join(lines), ended.stdout


def _tables(out: Path) -> dict[int, Any]:
    """What each stored step holds, comparable."""
    import polars as pl

    from rtdyn.parquet import read_parquet
    from rtdyn.store.run import done_steps, read_run, table_file
    from rtdyn.store.schema import TABLES

    run = read_run(out)
    with pl.Config(tbl_rows=-1):
        return {s: [read_parquet(table_file(run, t, s)).write_json() for t in TABLES] for s in done_steps(run)}
