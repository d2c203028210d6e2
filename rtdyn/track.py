"""The main job: follow a suite through its checkpoints, step by step, into a run directory."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn import __version__
from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.checkpoints.stream import check_stored, fetch
from rtdyn.errors import InputError
from rtdyn.evaluation import Evaluation, EvaluationOptions, prepare
from rtdyn.execute.serial import run_serial
from rtdyn.registry import SuiteSpec
from rtdyn.step import StepOptions, analyse_step
from rtdyn.store import (
    SCHEMA_VERSION,
    Run,
    StepTables,
    config_digest,
    done_steps,
    locked,
    open_run,
    write_json,
    write_step,
)
from rtdyn.timing import StageClock, log_seconds, seconds_by_stage
from rtdyn.trajectories import steps_left_out
from rtdyn.views.progress import progress
from rtdyn.views.summary import print_summary, step_line
from rtdyn.views.wandb import choose_mode, start_wandb


def track(
    suite: SuiteSpec,
    steps: Sequence[int],
    measured_on: EvaluationOptions,
    options: StepOptions,
    out: Path | None,
    wandb: str | None,
    console: Console,
    command: str | None = None,
) -> Run:
    """Analyses every step of `steps` that the run directory lacks; returns the run.

    command: the command line, which the manifest of a new run keeps.

    Raises InputError in one sentence for anything in the sources that cannot be used.
    """
    options = replace(options, device=_device(options.device))
    evaluation = prepare(suite, steps[-1], measured_on)
    config = _config(suite, evaluation, measured_on, options)
    manifest = {**_manifest(suite, evaluation, config), "command": command}
    path = out if out is not None else Path("runs") / f"{suite.name}-{manifest['config_digest'][:8]}"
    run = open_run(path, manifest)
    with locked(path):
        _say_setup(console, suite, evaluation, run)
        stored = done_steps(run)
        check_stored(suite, run, stored)
        missing = [s for s in steps if s not in stored]
        if stored:
            _say(console, f"{len(steps) - len(missing)} of {len(steps)} steps are stored already")
        view = start_wandb(run, choose_mode(wandb), lambda text: _say(console, text))
        try:
            _sweep(suite, missing, evaluation, options, run, view.log_step, console)
        finally:
            try:
                run = _record_checkpoints(run, suite)
            finally:
                view.finish()
    for step, reason in run.manifest["left_out"].items():
        _say(console, f"step {step} is kept in the tables and left out of trajectories: {reason}")
    print_summary(run, console)
    seconds = ", ".join(f"{stage} {total:.1f} s" for stage, total in seconds_by_stage(run.path).items())
    _say(console, f"Time by stage, over all stored steps: {seconds}")
    return run


def _device(asked: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise InputError("--device cuda: this machine or this PyTorch build has no CUDA device; use --device cpu")
    return ("cuda" if available else "cpu") if asked == "auto" else asked


def _config(
    suite: SuiteSpec, evaluation: Evaluation, measured_on: EvaluationOptions, options: StepOptions
) -> dict[str, Any]:
    """Everything the tables depend on, by the names of the command line where they have one."""
    return {
        "suite": suite.name,
        "location": suite.name if suite.is_bundled else suite.location,
        "rtdyn": __version__,
        "analyses": list(options.analyses),
        "corpus": evaluation.corpus_sha256,
        "frequencies": evaluation.counts.sha256,
        "evaluation_set": evaluation.text.sha256,
        "rare": list(measured_on.bands),
        "window": measured_on.window,
        "bos": measured_on.bos,
        "class_by": measured_on.class_by,
        "mean_over": options.mean_over,
        "rank_by": options.rank_by,
        "min_targets": measured_on.min_targets,
        "positions_per_rare": measured_on.positions_per_rare,
        "tolerance": options.tolerance,
        "device": options.device,
        "seed": measured_on.seed,
    }


def _manifest(suite: SuiteSpec, evaluation: Evaluation, config: dict[str, Any]) -> dict[str, Any]:
    digest = config_digest(config)
    positions = {c.name: c for c in evaluation.positions.classes}
    packages = ("torch", "transformers", "tokenizers", "numpy", "polars", "safetensors")
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": suite.name,
        "location": suite.location,
        "config": config,
        "config_digest": digest,
        "wandb_id": f"{re.sub('[^A-Za-z0-9._-]', '-', suite.name)}-{digest[:12]}",
        "evaluation": {
            "corpus": evaluation.corpus_name,
            "corpus_sha256": evaluation.corpus_sha256,
            "windows": len(evaluation.text.windows),
            "tokens": int(evaluation.text.windows.size),
            "kept_positions": int(evaluation.text.kept.sum()),
            "sha256": evaluation.text.sha256,
        },
        "frequencies": {
            "source": evaluation.counts.source,
            "sha256": evaluation.counts.sha256,
            "types": len(evaluation.counts.counts),
            "logits": evaluation.n_logits,
            "bands_end_at_rank": evaluation.classes.end_rank,
            "bands_end_reason": evaluation.classes.end_reason,
        },
        "classes": {
            c.name: {
                "band": c.band,
                "ranks": [c.first + 1, c.last],
                "types": int(c.types.sum()),
                "positions": positions[c.name].available,
                "measured": len(positions[c.name].measured),
            }
            for c in evaluation.classes.classes
        },
        "versions": {"rtdyn": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "checkpoints": {},
        "left_out": {},
    }


def _say_setup(console: Console, suite: SuiteSpec, evaluation: Evaluation, run: Run) -> None:
    text, classes = evaluation.text, evaluation.classes
    counts = evaluation.counts.source
    if counts == evaluation.corpus_name:
        counts += " (the evaluation text itself; --frequencies gives the training corpus's own counts)"
    lines = [
        f"{suite.name}: {suite.location}",
        f"evaluation text: {evaluation.corpus_name}, {len(text.windows)} windows, {text.windows.size:,} tokens",
        f"frequencies: {counts}; bands end at rank {classes.end_rank:,} ({classes.end_reason})",
    ]
    for token_class, positions in zip(classes.classes, evaluation.positions.classes, strict=True):
        lines.append(
            f"class {token_class.name}: {int(token_class.types.sum()):,} types (ranks {token_class.first + 1:,} to "
            f"{token_class.last:,}), {positions.available:,} targets, {len(positions.measured):,} measured"
        )
    lines.append(f"run directory: {run.path}")
    for line in lines:
        _say(console, line)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _sweep(
    suite: SuiteSpec,
    steps: Sequence[int],
    evaluation: Evaluation,
    options: StepOptions,
    run: Run,
    log: Callable[[int], None],
    console: Console,
) -> None:
    with progress(console, suite.name, len(steps)) as reporter:
        clock = StageClock(reporter.stage)

        def checkpoints() -> Iterator[Checkpoint]:
            for number, step in enumerate(steps, start=1):
                reporter.begin(step, number, len(steps))
                clock.begin("fetch")
                yield fetch(suite, step)

        def analyse(checkpoint: Checkpoint) -> StepTables:
            seen = suite.tokens_seen(checkpoint.step)
            return analyse_step(checkpoint, seen, evaluation, options, clock.begin)

        def done(checkpoint: Checkpoint, tables: StepTables) -> None:
            clock.begin("store")
            write_step(run, checkpoint.step, checkpoint, tables)
            log(checkpoint.step)
            log_seconds(run.path, checkpoint.step, clock.end())
            reporter.end(step_line(tables.metrics))

        run_serial(checkpoints(), analyse, done)


def _record_checkpoints(run: Run, suite: SuiteSpec) -> Run:
    """The manifest with what every stored step was made from, and which of them trajectories leave out."""
    stored = done_steps(run)
    manifest = {
        **run.manifest,
        "checkpoints": {str(step): record for step, record in stored.items()},
        "left_out": {str(s): why for s, why in steps_left_out(stored, suite.steps[-1], suite.defects).items()},
    }
    write_json(run.path / "manifest.json", manifest)
    return Run(run.path, manifest)
