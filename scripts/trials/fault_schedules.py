"""Random faults of Hub or folder: each run ends whole, or in one sentence with a store that the next run completes.

Each schedule draws what goes wrong: refusals, cuts, stalls, wrong and missing bytes, a kill -9. Then it streams four
steps of the bundled suite, one twice and one in shards, from a Hub on loopback. The tables must equal those of a run
without faults. `--level stream` compares the bytes that reach an analysis instead of tables, which is much faster.
`--level folder` damages steps of a folder instead (local_faults.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import local_faults
from loopback.hub import Fault, LoopbackHub
from loopback.place import TINY, TOKENIZER, Machine, copy_step, workplace

from rtdyn.checkpoints.fetch_plan import Repeat
from rtdyn.store.manifest import CheckpointRecord

STEPS = "0,1,512,4000"
SHARDS = 5
TARGETS = (
    "GET step0",
    "GET step512",
    "GET step4000",
    "GET main",
    "(HEAD|GET) step4000/config.json",
    "(HEAD|GET) main/tokenizer.json",
    "GET step0/config.json",
    r"GET (cdn/)?step0/model.safetensors",
    r"GET (cdn/)?step1/model.safetensors",
    r"GET (cdn/)?step512/pytorch_model.bin",
    r"GET (cdn/)?step4000/model-00001-of-.*",
    r"GET (cdn/)?step4000/model-0000[2-5]-of-.*",
    "GET step4000/model.safetensors.index.json",
    r"GET .*",
)
KILLED = 0.1
"""Share of the schedules in which the run is killed as well."""


def make_suite(suite: Path) -> None:
    """Four steps as branches: 1 repeats 0, 512 is an old `.bin`, 4000 is in shards; the tokenizer lies in main."""
    import torch
    from safetensors.torch import load_file, save_file

    for name in TOKENIZER:
        (suite / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TINY / name, suite)
    copy_step(0, suite)
    shutil.copy(TINY / "step0" / "model.safetensors", copy_step(1, suite, weights=False))
    old = copy_step(512, suite, weights=False)
    torch.save(load_file(TINY / "step512" / "model.safetensors"), old / "pytorch_model.bin")
    sharded, weights = copy_step(4000, suite, weights=False), load_file(TINY / "step4000" / "model.safetensors")
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        shard = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[number::SHARDS]}
        save_file(part, sharded / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def draw(rng: random.Random) -> tuple[Fault, ...]:
    """One to six faults; most pass after a few requests, some stay."""
    return tuple(_fault(rng) for _ in range(rng.randint(1, 6)))


def _fault(rng: random.Random) -> Fault:
    fault = Fault(rng.choice(TARGETS), times=rng.choice((1, 1, 2, 3)))
    cut = rng.choice((0, 1, 1000, 50_000, 150_000))
    changes: dict[str, Any] = rng.choice(
        (
            {"status": rng.choice((500, 502, 503, 504))},
            {"status": 429, "retry_after": rng.choice((0, 1))},
            {"status": rng.choice((401, 403, 404)), "times": rng.choice((1, 999))},
            {"cut_after": cut},
            {"cut_after": cut, "reset": True},
            {"wrong_bytes": True, "times": rng.choice((1, 2, 3, 999))},
            {"stall": True, "pattern": fault.pattern.replace("(HEAD|GET)", "GET"), "times": 1},
            {"stall_after": cut, "pattern": fault.pattern.replace("(HEAD|GET)", "GET"), "times": 1},
            {"short_by": rng.choice((1, 1000, -1, -1000))},
        )
    )
    return dataclasses.replace(fault, **changes)


class Track:
    """Whole commands, and the tables they store."""

    def __init__(self, place: Machine) -> None:
        self.place = place

    def run(self, out: str, cache_gb: float) -> str | None:
        """One command; the sentence of its refusal, if any."""
        from click.testing import CliRunner

        from rtdyn.cli import main

        ended = CliRunner().invoke(main, self._arguments(out, cache_gb))
        if ended.exit_code == 0:
            return None
        lines = [line for line in ended.stderr.splitlines() if line.startswith("rtdyn: ")]
        if ended.exit_code != 3 or len(lines) != 1 or not isinstance(ended.exception, SystemExit):
            raise AssertionError(f"ended with {ended.exit_code} and {ended.stderr!r}: {ended.exc_info}")
        return lines[0]

    def kill(self, out: str, cache_gb: float, seconds: float) -> None:
        """The same command, killed after a while."""
        arguments = [sys.executable, "-m", "rtdyn.cli", *self._arguments(out, cache_gb)]
        _kill(arguments, self.place, seconds)

    def result(self, out: str) -> Any:
        """What it stored, comparable."""
        import polars as pl

        from rtdyn.store.run import done_steps, read_run, read_table
        from rtdyn.store.schema import TABLES

        run = read_run(self.place.folder / out)
        if list(done_steps(run)) != [0, 1, 512, 4000]:
            return list(done_steps(run))
        with pl.Config(tbl_rows=-1):
            return [read_table(run, table).write_json() for table in TABLES], done_steps(run)

    def _arguments(self, out: str, cache_gb: float) -> list[str]:
        return [*self.place.arguments(out, "faulty", STEPS), "--cache-gb", str(cache_gb)]


class Bytes:
    """The stream alone: the digests of what an analysis would read, as a store that a next run goes on with."""

    def __init__(self, place: Machine) -> None:
        self.place = place
        self.stores: dict[str, dict[int, CheckpointRecord]] = {}

    def run(self, out: str, cache_gb: float) -> str | None:
        """One sweep over what the store lacks; the sentence of its refusal, if any."""
        from rtdyn.checkpoints.stream import open_stream
        from rtdyn.errors import InputError
        from rtdyn.hub.retry import Patience
        from rtdyn.suites.find import load_suites

        suite = load_suites(self.place.folder / "suites.yaml")["faulty"]
        done = self.stores.setdefault(out, {})
        steps = [step for step in suite.steps if step not in done]
        patience = Patience(tries=8, first=0.01, longest=0.05)
        try:
            with open_stream(suite, steps, done, cache_gb, False, lambda _: None, patience) as stream:
                for of in stream.repeats.keys() - set(stream.steps):
                    done.update({r.step: _repeated(done[of], r) for r in stream.repeats[of]})
                for step in stream.steps:
                    checkpoint = stream.take(step, lambda _: None)
                    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in checkpoint.folder.iterdir()}
                    record = CheckpointRecord(
                        revision=checkpoint.revision, commit=checkpoint.commit, digests=dict(checkpoint.digests)
                    )
                    done[step] = record.replace(files=files)
                    stream.release(step)
                    done.update({r.step: _repeated(done[step], r) for r in stream.repeats.get(step, ())})
        except InputError as error:
            return f"rtdyn: {error}"
        return None

    def kill(self, out: str, cache_gb: float, seconds: float) -> None:
        """A sweep in a process of its own, killed after a while."""
        program = self.place.sweep_program("faulty", [0, 1, 512, 4000], cache_gb=cache_gb)
        _kill([sys.executable, *program], self.place, seconds)

    def result(self, out: str) -> Any:
        """By step."""
        return self.stores[out]


def _repeated(record: CheckpointRecord, repeat: Repeat) -> CheckpointRecord:
    return record.replace(revision=repeat.revision, commit=repeat.commit)


def _kill(arguments: list[str], place: Machine, seconds: float) -> None:
    process = subprocess.Popen(
        arguments, cwd=place.folder, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(seconds)
    process.kill()
    process.communicate()


def main() -> None:
    """Runs the schedules and prints how they ended; exits with 1 if one broke the rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="schedules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", choices=("track", "stream", "folder"), default="track")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.level == "folder":
            found = local_faults.schedules(folder, asked.n, asked.seed)
        else:
            make_suite(folder / "suite")
            with LoopbackHub(folder / "suite") as hub:
                found = _schedules(hub, folder, asked)
    print(json.dumps(found) if asked.json else "\n".join(f"{key}: {value}" for key, value in found.items()))
    sys.exit(1 if found["broken"] else 0)


def _schedules(hub: LoopbackHub, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    place = workplace(folder, hub.url)
    timeouts = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    # the client reads its settings when it is imported, which comes later
    ours = place.environment(**timeouts)
    os.environ.clear()
    os.environ.update(ours)
    level: Track | Bytes = Track(place) if asked.level == "track" else Bytes(place)
    if refusal := level.run("reference", 20.0):
        raise SystemExit(refusal)
    reference = level.result("reference")
    found: dict[str, Any] = {"schedules": asked.n, "whole at once": 0, "refused, then whole": 0, "killed": 0}
    found |= {"faults met": 0, "refusals": {}, "broken": []}
    for number in range(asked.n):
        rng = random.Random(f"{asked.seed}/{number}")
        shutil.rmtree(folder / "hf", ignore_errors=True)
        faults, out = draw(rng), f"run-{number}"
        cache_gb, hub.cdn = rng.choice((20.0, 0.003, 0.0)), rng.random() < 0.5
        hub.misbehave(*faults)
        began = time.monotonic()
        try:
            if rng.random() < KILLED:
                found["killed"] += 1
                level.kill(out, cache_gb, rng.uniform(2, 8))
            refusal = level.run(out, cache_gb)
            found["faults met"] += hub.faults_met
            if refusal is not None:
                hub.misbehave()
                found["refusals"][number] = refusal
                again = level.run(out, cache_gb)
                assert again is None, f"refused without a fault: {again}"
            assert level.result(out) == reference, "other results than without faults"
            found["whole at once" if refusal is None else "refused, then whole"] += 1
        except Exception as error:
            found["broken"].append(f"schedule {number} ({faults}, --cache-gb {cache_gb}): {error!r}")
        print(f"{number}: {time.monotonic() - began:.1f} s, {refusal or 'whole'}", file=sys.stderr)
        shutil.rmtree(folder / out, ignore_errors=True)
    return found


if __name__ == "__main__":
    main()
