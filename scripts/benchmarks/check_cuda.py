"""Compares the analyses of the bundled suite between CPU and CUDA, then measures a step at 1.4b on the GPU; JSON.

Exits with 1 and names the numbers where they differ by more than the tolerances of `device_checks.py`. Exits with 2
where there is no CUDA device. Needs no network, no tokenizer and no corpus: token ids are drawn from the suite's
counts.

    python scripts/benchmarks/check_cuda.py
    python scripts/benchmarks/check_cuda.py --devices cpu,cpu --shape mini --tokens 9216    (a trial without a GPU)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

SHOWN = 20
"""Differences of one analysis that are printed."""


def machine(devices: tuple[str, str]) -> dict[str, Any]:
    """What the numbers were made on."""
    import numpy
    import torch
    import transformers

    return {
        "devices": devices,
        "gpu": torch.cuda.get_device_name() if "cuda" in devices else None,
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, numpy)},
    }


def compared(step: int, tokens: int, devices: tuple[str, str]) -> tuple[list[dict[str, Any]], bool]:
    """Each analysis's differences, and whether there are none."""
    from device_checks import checks

    results, same = [], True
    for check in checks(step, tokens, devices):
        same = same and not check.differences
        found = [asdict(one) for one in check.differences]
        result = {
            "analysis": check.name,
            "seconds": dict(zip(("first", "second"), (round(s, 3) for s in check.seconds), strict=True)),
            "different": len(found),
            "differences": found[:SHOWN],
            "notes": dict(check.notes),
        }
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
    return results, same


def whole_step(step: int, tokens: int, devices: tuple[str, str]) -> dict[str, Any]:
    """How many rows of a whole step, each device choosing its own groups, lie apart; not a test, as choices may tip."""
    from device_checks import step_rows, whole_steps_apart

    here, there = (step_rows(step, tokens, device) for device in devices)
    found = whole_steps_apart(here, there)
    by_analysis: dict[str, int] = {}
    for one in found:
        analysis = one.name.split("/")[0]
        by_analysis[analysis] = by_analysis.get(analysis, 0) + 1
    return {"rows": len(here), "different": by_analysis, "first": [asdict(one) for one in found[:SHOWN]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu,cuda", help="the two that are compared")
    parser.add_argument("--step", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=13312, help="of the comparison")
    parser.add_argument("--shape", default="1.4b", help="of the measured step; `none` for no measurement")
    parser.add_argument("--cost-tokens", type=int, default=17408)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a stage of the measured step may take")
    arguments = parser.parse_args()
    import torch

    first, second = arguments.devices.split(",")
    devices = (first, second)
    if "cuda" in devices and not torch.cuda.is_available():
        print("there is no CUDA device here; for a trial without one give --devices cpu,cpu", file=sys.stderr)
        raise SystemExit(2)
    began = time.perf_counter()
    results, same = compared(arguments.step, arguments.tokens, devices)
    report: dict[str, Any] = {"machine": machine(devices), "same": same, "compared": results}
    report["whole_step"] = whole_step(arguments.step, arguments.tokens, devices)
    report["comparison_seconds"] = time.perf_counter() - began
    if arguments.shape != "none":
        report["cost"] = measured(arguments.shape, second, arguments.cost_tokens, arguments.limit)
    print(json.dumps(report, indent=1))
    if not same:
        wrong = [r["analysis"] for r in results if r["different"]]
        print(f"the devices differ beyond the tolerances in: {', '.join(wrong)}", file=sys.stderr)
        raise SystemExit(1)


def measured(shape: str, device: str, tokens: int, limit: float) -> Any:
    """The costs of a step, as `suite_cost.py` gives them."""
    from suite_cost import costs_of, parser

    options = ["--shape", shape, "--device", device, "--tokens", str(tokens), "--limit", str(limit)]
    return costs_of(parser().parse_args(options), options)


if __name__ == "__main__":
    main()
