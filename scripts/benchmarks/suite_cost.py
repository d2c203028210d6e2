"""What one step costs at a true model's width, MLP and vocabulary, stage by stage, beside capture and ablation.

The checkpoint is synthetic and structured (`synthetic_step.py` says how). Correlation graphs are dense and groups are
large, as trained models have them. The share of edges |r| ≥ 0.3 and the largest group are printed. The step is rtdyn's
own, `analyse_step`, in a process of its own that has analysed a small step before, so that no compilation counts. A
stage that takes longer than `--limit` is ended and said to be over. The analyses after it run in a new process, which
repeats what they need. Needs no network, no tokenizer and no text.

    python scripts/benchmarks/suite_cost.py --shape 1.4b
    python scripts/benchmarks/suite_cost.py --shape 12b --device cuda --limit 120 --json
"""

from __future__ import annotations

import argparse
import json
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from stage_costs import StageCost, StageCosts

ANALYSES = ("regimes", "dimensionality", "modularity", "routing", "heavytail", "mediation")
"""Beside ablation, which all need."""
NEEDED = ("load", "capture", "ablation", "groups")
"""Stages that others start from: where one of them is over, nothing after it is known."""
STRUCTURE = "(structure)"
"""The stage in which this script looks at the graph and the groups."""
WARM_UP = "mini"
WARM_UP_TOKENS = 9216
DEADLINE_POLL = 0.2


def run_step(arguments: argparse.Namespace, analyses: tuple[str, ...]) -> None:
    """Analyses one step in this process and prints a JSON line as each stage begins and as it ends."""
    import torch
    from synthetic_step import SHAPES, drawn_evaluation, make_checkpoint, model_config, token_counts

    from rtdyn.analyses.options import StepOptions
    from rtdyn.sweep import step
    from rtdyn.sweep.sweep import device_here
    from rtdyn.undefined import Undefined

    device = device_here(arguments.device)

    def say(**line: object) -> None:
        print(json.dumps(line), flush=True)

    def tell(stage: str, cost: StageCost | None) -> None:
        say(**({"begin": stage} if cost is None else {"end": stage, "cost": asdict(cost)}))

    def analyse(shape: str, layers: int, tokens: int, least: int, costs: StageCosts) -> None:
        counts = token_counts(SHAPES[shape][2])
        evaluation = drawn_evaluation(
            counts,
            model_config(shape, layers),
            tokens,
            positions_per_rare=arguments.positions_per_rare,
            min_targets=least,
        )
        members = evaluation.pseudo_classes
        say(
            positions=len(evaluation.positions.flat),
            pseudo_classes=members.reason if isinstance(members, Undefined) else len(members),
        )
        options = StepOptions(
            ("ablation", *analyses), "kept", "mean_abs", 1e-5, arguments.memory_gib, "never", device, 0
        )
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = make_checkpoint(Path(scratch) / "step0", shape, layers, counts)
            step.analyse_step(checkpoint, None, evaluation, options, costs.begin)
        costs.end()

    say(begin="warm-up")
    analyse(WARM_UP, 2, WARM_UP_TOKENS, 10, StageCosts(device, lambda stage, cost: None))
    say(end="warm-up")
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    say(machine={"device": device, "name": name, "threads": threads, "torch": torch.__version__})
    costs = StageCosts(device, tell)
    _note_structure(step, costs, lambda **found: say(structure=found))
    analyse(arguments.shape, arguments.layers, arguments.tokens, 20, costs)


def _note_structure(step: Any, costs: StageCosts, say: Callable[..., None]) -> None:
    """Has the step say how dense the graph of its activations is, and how large its groups are, as it comes to them.

    That is no part of the step, and a stage of its own.
    """
    from rtdyn.analyses.groups.correlations import correlation
    from rtdyn.analyses.groups.graph import THRESHOLD
    from rtdyn.undefined import Undefined

    made, split = step.capture, step.split_groups
    seen: list[Any] = []

    def capture(*args: Any, **kwargs: Any) -> Any:
        seen.append(made(*args, **kwargs))
        return seen[-1]

    def split_groups(*args: Any, **kwargs: Any) -> Any:
        groups = split(*args, **kwargs)
        costs.begin(STRUCTURE)
        r = correlation(seen[-1].activations)
        joined = int((r.abs() >= THRESHOLD).sum()) - len(r)
        sizes = {
            name: g.reason if isinstance(g, Undefined) else [len(m) for m in g.members] for name, g in groups.items()
        }
        largest = max((max(size) for size in sizes.values() if not isinstance(size, str)), default=0)
        say(edge_density=joined / (len(r) * (len(r) - 1)), largest_group=largest, groups=sizes)
        return groups

    step.capture, step.split_groups = capture, split_groups


def watched(command: list[str], limit: float) -> tuple[list[dict[str, Any]], str | None]:
    """The lines of the command, and the stage that took longer than `limit` seconds, for which it was ended.

    Raises SystemExit if the command fails otherwise.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True)
    reader.start()
    found: list[dict[str, Any]] = []
    stage, began = None, time.monotonic()
    while True:
        try:
            line = lines.get(timeout=DEADLINE_POLL)
        except queue.Empty:
            if stage not in (None, "warm-up") and time.monotonic() - began > limit:
                process.kill()
                process.wait()
                return found, stage
            continue
        if line is None:
            break
        found.append(json.loads(line))
        if "begin" in found[-1] or "end" in found[-1]:
            stage, began = found[-1].get("begin"), time.monotonic()
            print(f"{found[-1]}", file=sys.stderr, flush=True)
    if process.wait() != 0:
        raise SystemExit(f"the step failed in the stage {stage} (exit code {process.returncode})")
    return found, None


def _pass_on(stream: Any, lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def costs_of(arguments: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Every stage's cost, or that it is over the limit, with what was measured; `words` are what was parsed."""
    left = [name for name in ANALYSES if name in arguments.analyses]
    result: dict[str, Any] = {
        **{name: getattr(arguments, name) for name in ("shape", "layers", "tokens", "memory_gib", "limit")},
        "stages": {},
        "not_run": {},
    }
    while True:
        command = [sys.executable, __file__, *words, "--run-analyses", ",".join(left) or "none"]
        found, over = watched(command, arguments.limit)
        for line in found:
            if "end" in line and "cost" in line:
                result["stages"].setdefault(line["end"], line["cost"])
            result |= {k: v for k, v in line.items() if k in ("positions", "pseudo_classes")}
            for key in ("machine", "structure"):
                result[key] = line.get(key, result.get(key))
        if over is None:
            break
        result["stages"][over] = {"over_seconds": arguments.limit}
        if over not in left:
            unknown = [stage for stage in (*NEEDED, *left) if stage not in result["stages"]]
            result["not_run"] |= dict.fromkeys(unknown, f"{over} was over its limit before")
            break
        left = [name for name in left if name not in result["stages"]]
        if not left:
            break
    both = [result["stages"].get(stage, {}).get("seconds") for stage in ("capture", "ablation")]
    for cost in result["stages"].values():
        if all(both) and "seconds" in cost:
            cost["of_capture_and_ablation"] = cost["seconds"] / sum(both)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as lines to read."""
    machine, structure = result.get("machine") or {}, result.get("structure") or {}
    lines = [
        f"{result['shape']}, {result['layers']} layers, {result['tokens']:,} tokens, "
        f"{result.get('positions')} positions",
        f"{machine.get('name')} ({machine.get('device')}, {machine.get('threads')} threads)",
        f"edges |r| >= 0.3: {structure.get('edge_density', float('nan')):.3f}; largest group: "
        f"{structure.get('largest_group')} ({structure.get('groups')})",
        f"{'stage':16}{'wall s':>9}{'cpu s':>9}{'host GiB':>10}{'device GiB':>12}{'x (capture + ablation)':>24}",
    ]
    for stage, cost in result["stages"].items():
        if "seconds" not in cost:
            lines.append(f"{stage:16}over {cost['over_seconds']} s")
            continue
        device = "-" if cost["device_peak_gib"] is None else f"{cost['device_peak_gib']:.2f}"
        share = cost.get("of_capture_and_ablation")
        lines.append(
            f"{stage:16}{cost['seconds']:9.2f}{cost['processor_seconds']:9.2f}{cost['host_peak_gib']:10.2f}"
            f"{device:>12}{'-' if share is None else f'{share:.2f}':>24}"
        )
    return "\n".join([*lines, *(f"{stage:16}not run: {why}" for stage, why in result["not_run"].items())])


def parser() -> argparse.ArgumentParser:
    from synthetic_step import SHAPES

    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shape", choices=list(SHAPES), default="1.4b")
    made.add_argument("--layers", type=int, default=2)
    made.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    made.add_argument("--analyses", type=lambda text: text.split(","), default=list(ANALYSES))
    made.add_argument("--tokens", type=int, default=17408)
    made.add_argument("--positions-per-rare", type=float, default=10.0)
    made.add_argument("--memory-gib", type=float, default=2.0)
    made.add_argument("--limit", type=float, default=900.0, help="seconds a stage may take; over it, it is ended")
    made.add_argument("--json", action="store_true")
    made.add_argument("--run-analyses", help=argparse.SUPPRESS)
    return made


def main() -> None:
    arguments = parser().parse_args()
    unknown = set(arguments.analyses) - {*ANALYSES, "ablation"}
    if unknown:
        raise SystemExit(f"no analysis is called {sorted(unknown)[0]!r}; there are {', '.join(ANALYSES)}")
    if arguments.run_analyses is not None:
        run_step(arguments, tuple(name for name in ANALYSES if name in arguments.run_analyses.split(",")))
        return
    result = costs_of(arguments, sys.argv[1:])
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
