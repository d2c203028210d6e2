"""A plan for readers and for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from rtdyn.cost.plan import SECONDS_AN_HOUR, Assumptions, SuitePlan
from rtdyn.counted import counted
from rtdyn.say_plain import say_plain
from rtdyn.views.terminal.fitted import print_fitted

_GIB = 2**30


def plan_record(plans: Sequence[SuitePlan], assumptions: Assumptions) -> dict[str, Any]:
    """The plans as JSON holds them; seconds without a calibration are null."""
    return {
        "suites": [_record(plan) for plan in plans],
        "total": {
            "download_bytes": sum(p.traffic.bytes for p in plans),
            "run_bytes": sum(p.run_bytes for p in plans),
            "download_seconds": sum(p.download_seconds for p in plans),
            "compute_seconds": _total(plans, lambda p: p.compute_seconds),
            "seconds": _total(plans, lambda p: p.total_seconds),
            "gpu_seconds": _total(plans, lambda p: p.gpu_seconds),
            "gpu_total_seconds": _total(plans, lambda p: p.gpu_total_seconds),
        },
        "assumptions": {
            "link_mbit": assumptions.link_mbit,
            "gpu_tflops": None if assumptions.gpu_tflops is None else list(assumptions.gpu_tflops),
            "available_bytes": assumptions.available_bytes,
            "threads": assumptions.threads,
        },
    }


def _record(plan: SuitePlan) -> dict[str, Any]:
    sample = plan.sample
    return {
        "model": plan.suite.name,
        **({"design": plan.design} if plan.design else {}),
        "location": plan.suite.location,
        "shape": {**vars(plan.shape), "source": plan.shape_source},
        "sample": None if sample is None else vars(sample),
        "steps": plan.traffic.steps,
        "analysed": plan.traffic.analysed,
        "download_bytes": plan.traffic.bytes,
        "download_source": plan.traffic.source,
        "largest_step_bytes": plan.traffic.largest,
        "flops_per_step": {stage: operations.flops for stage, operations in plan.stages.items() if operations.flops},
        "memory_bytes": None if plan.memory is None else {**vars(plan.memory), "total": plan.memory.total},
        "layer_by_layer": plan.layered,
        "cache_bytes": plan.cache_bytes,
        "run_bytes": plan.run_bytes,
        "seconds_per_step": {**(plan.stage_seconds or dict.fromkeys(plan.stages)), **plan.further_seconds},
        "download_seconds": plan.download_seconds,
        "compute_seconds": plan.compute_seconds,
        "seconds": plan.total_seconds,
        "gpu_seconds_per_step": plan.gpu_stage_seconds,
        "gpu_seconds": plan.gpu_seconds,
        "gpu_total_seconds": plan.gpu_total_seconds,
        "notes": list(plan.notes),
    }


def print_plan(plans: Sequence[SuitePlan], assumptions: Assumptions, console: Console) -> None:
    """A row a suite and one of all, and what the numbers rest on."""
    headers = ["suite", "steps", "download GB", "forward TFLOP", "ablation TFLOP", "memory GiB", "disk GB"]
    headers += ["download h", "compute h", "in all h"]
    if assumptions.gpu_tflops is not None:
        headers += ["GPU compute h", "in all on GPU h"]
    cells = [[plan.name, *_cells(plan, assumptions)] for plan in plans]
    if len(plans) > 1:
        cells.append(["all", *_total_cells(plans, assumptions)])
    rows = [dict(zip(headers, row, strict=True)) for row in cells]
    print_fitted("What it costs", rows, console, last=len(plans) > 1)
    for text in _said(plans, assumptions):
        say_plain(console, text)


def _cells(plan: SuitePlan, assumptions: Assumptions) -> list[str]:
    fetched = plan.traffic
    flops = {stage: f"{operations.flops / 1e12:.3g}" for stage, operations in plan.stages.items()}
    held = "—" if plan.memory is None else f"{plan.memory.total / _GIB:.3g}{'*' if plan.layered else ''}"
    cells = [
        str(fetched.steps) if fetched.steps == fetched.analysed else f"{fetched.steps} ({fetched.analysed})",
        f"{_gb(fetched.bytes)}{'~' if 'estimated' in fetched.source else ''}",
        flops.get("capture", "—"),
        flops.get("ablation", "—"),
        held,
        _gb(plan.cache_bytes + plan.run_bytes),
        _hours(plan.download_seconds),
        _hours(plan.compute_seconds),
        _hours(plan.total_seconds),
    ]
    if assumptions.gpu_tflops is not None:
        cells += [_hours(plan.gpu_seconds), _hours(plan.gpu_total_seconds)]
    return cells


def _total_cells(plans: Sequence[SuitePlan], assumptions: Assumptions) -> list[str]:
    cells = [
        str(sum(p.traffic.steps for p in plans)),
        _gb(sum(p.traffic.bytes for p in plans)),
        "",
        "",
        "",
        # one suite after another: the largest cache, and every run directory
        _gb(max(p.cache_bytes for p in plans) + sum(p.run_bytes for p in plans)),
        _hours(sum(p.download_seconds for p in plans)),
        _hours(_total(plans, lambda p: p.compute_seconds)),
        _hours(_total(plans, lambda p: p.total_seconds)),
    ]
    if assumptions.gpu_tflops is not None:
        cells += [_hours(_total(plans, lambda p: p.gpu_seconds)), _hours(_total(plans, lambda p: p.gpu_total_seconds))]
    return cells


def _said(plans: Sequence[SuitePlan], assumptions: Assumptions) -> list[str]:
    said = [
        f"Downloads at {assumptions.link_mbit:g} Mbit/s, assumed (--link-mbit); they overlap with the analyses, so the "
        "longer of both counts."
    ]
    if any(p.design for p in plans):
        said.append(
            "Two designs are two runs: each analyses every checkpoint, and fetches it unless the first run left it in "
            "half of --cache-gb."
        )
    if any("estimated" in p.traffic.source for p in plans):
        said.append("~ estimated by the number of parameters and what such files hold, not from the Hub's metadata.")
    if any(p.traffic.source == "metadata" for p in plans):
        said.append("Downloads by the Hub's metadata; what your own Hugging Face cache holds is not taken off.")
    if any(p.traffic.steps != p.traffic.analysed for p in plans):
        said.append("Steps in brackets have weights of their own; the others are fetched and analysed once.")
    if any(p.layered for p in plans):
        said.append(
            "* layer by layer (--stream-layers): by default where the model does not fit into the memory free here."
        )
    samples = {(p.sample.tokens, p.sample.positions, p.sample.assumed) for p in plans if p.sample is not None}
    for tokens, positions, assumed in sorted(samples, key=str):
        why = f"assumed, as {assumed}" if assumed else "counted"
        said.append(f"A step is measured on {counted(tokens, 'token')} and {counted(positions, 'position')} ({why}).")
    if any(p.memory is not None for p in plans):
        said.append("Memory is at most so much beside the program itself, --memory-gib whole.")
    if all(p.compute_seconds is None for p in plans):
        said.append("Compute hours are left out with --no-calibration.")
    else:
        said.append(
            "Compute hours: the operations of load, capture, ablation, domains, layers and mediation at this machine's "
            "rates as calibrated now. Further analyses are by seconds measured on one core of another machine, shared "
            f"among {counted(assumptions.threads, 'thread')} as far as they were seen to share it."
        )
    if assumptions.gpu_tflops is not None:
        single, double = assumptions.gpu_tflops
        said.append(
            f"GPU: products alone, at the given {single:g} TFLOP/s in float32 and {double:g} in float64, so at least "
            "that; the further analyses as on this processor."
        )
        said += [f"GPU hours of {p.suite.name} by stage: {_by_stage(p)}." for p in plans]
    return [*said, *dict.fromkeys(f"{p.suite.name}: {note}" for p in plans for note in p.notes)]


def _by_stage(plan: SuitePlan) -> str:
    """Each stage's hours on a GPU, the longest first."""
    seconds = sorted((plan.gpu_stage_seconds or {}).items(), key=lambda stage: -stage[1])
    return ", ".join(f"{stage} {_hours(plan.traffic.analysed * of_step)}" for stage, of_step in seconds)


def _total(plans: Sequence[SuitePlan], of: Callable[[SuitePlan], float | None]) -> float | None:
    values = [of(plan) for plan in plans]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _gb(count: float) -> str:
    return f"{count / 1e9:,.3g}" if count < 1e11 else f"{count / 1e9:,.0f}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    return (
        f"{seconds / SECONDS_AN_HOUR:,.2g}" if seconds < 10 * SECONDS_AN_HOUR else f"{seconds / SECONDS_AN_HOUR:,.0f}"
    )
