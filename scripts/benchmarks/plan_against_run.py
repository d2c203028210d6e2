"""Holds `rtdyn plan` against a run: seconds of each stage as planned, as measured, and their ratio.

Both with one thread, and the run by the processor's clock (as `stage_seconds.py`), so that other work on the
machine counts little. The calibration itself is by the wall's clock; its best repetition counts.

    python scripts/benchmarks/plan_against_run.py --model tiny --steps all --analyses all
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from stage_seconds import ONE_THREAD, TRACK

NOT_PLANNED = ("fetch", "tables", "store")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", default="all")
    parser.add_argument("--analyses", default="all")
    asked = parser.parse_args()
    options = ["--model", asked.model, "--steps", asked.steps, "--analyses", asked.analyses]
    command = [sys.executable, "-m", "rtdyn.cli", "plan", *options, "--json"]
    plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ONE_THREAD).stdout)["suites"][0]
    measured: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, "-c", TRACK, "track", *options, "--out", str(run), "--wandb", "disabled"]
        subprocess.run(command, check=True, stdout=sys.stderr, env=ONE_THREAD)
        for line in (run / "log.jsonl").read_text().splitlines():
            for stage, seconds in json.loads(line)["seconds"].items():
                measured[stage] += seconds
        run_bytes = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    planned = {stage: plan["analysed"] * seconds for stage, seconds in plan["seconds_per_step"].items()}
    stages = {
        stage: {"planned": planned.get(stage), "measured": seconds}
        for stage, seconds in measured.items()
        if stage not in NOT_PLANNED
    }
    total = {"planned": sum(planned.values()), "measured": sum(measured.values())}
    ratio = total["planned"] / total["measured"]
    disk = {"planned": plan["run_bytes"], "measured": run_bytes}
    print(json.dumps({"stages": stages, "total": total, "ratio": ratio, "run_bytes": disk}, indent=1))


if __name__ == "__main__":
    main()
