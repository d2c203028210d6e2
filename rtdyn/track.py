"""The main job: follow a suite through its checkpoints, step by step, into a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.analyses import WEIGHTS_ONLY
from rtdyn.checkpoints.checkpoint import Checkpoint, read_config
from rtdyn.checkpoints.stream import Stream, check_stored, find_config, open_stream
from rtdyn.errors import InputError
from rtdyn.evaluation import Evaluation, EvaluationOptions, prepare
from rtdyn.execute.serial import run_serial
from rtdyn.frequency import class_errors
from rtdyn.manifest import new_manifest, run_config, schedule
from rtdyn.registry import SuiteSpec
from rtdyn.soundness import audit_before, joined, left_out, moved_steps
from rtdyn.step import StepOptions, analyse_step
from rtdyn.store import (
    Run,
    StepTables,
    done_steps,
    locked,
    open_run,
    write_copy,
    write_json,
    write_step,
)
from rtdyn.timing import StageClock, log_seconds, seconds_by_stage
from rtdyn.views.progress import progress
from rtdyn.views.summary import print_summary, step_line
from rtdyn.views.wandb import choose_mode, start_wandb
from rtdyn.weights_step import analyse_weights


def track(
    suite: SuiteSpec,
    steps: Sequence[int],
    measured_on: EvaluationOptions,
    options: StepOptions,
    out: Path | None,
    wandb: str | None,
    on_defect: str,
    cache_gb: float,
    console: Console,
    command: str | None = None,
) -> Run:
    """Analyses every step of `steps` that the run directory lacks; returns the run.

    on_defect: of `ON_DEFECT`, what becomes of steps that the audit finds unsound. cache_gb: disk for checkpoints from
    the Hub that wait for their analysis. Raises InputError in one sentence for anything in the sources that cannot be
    used. command: the command line, which the manifest of a new run keeps.
    """
    say = partial(_say, console)
    options = replace(options, device=_device(options.device))
    asked = steps
    said: list[str] = []

    def say_once(text: str) -> None:
        if text not in said:
            said.append(text)
            say(text)

    steps, audited = audit_before(suite, asked, on_defect, say_once)
    weights_only = set(options.analyses) <= set(WEIGHTS_ONLY)
    evaluation = None if weights_only else prepare(suite, steps[-1], measured_on, say)
    model_config = read_config(find_config(suite, steps[-1])) if evaluation is None else evaluation.model_config
    config = run_config(suite, evaluation, measured_on, options)
    manifest = {**new_manifest(suite, evaluation, config), "command": command}

    def analyse(checkpoint: Checkpoint, stage: Callable[[str], None]) -> StepTables:
        seen = suite.tokens_seen(checkpoint.step)
        if evaluation is None:
            return analyse_weights(checkpoint, seen, model_config, stage)
        return analyse_step(checkpoint, seen, evaluation, options, stage)

    path = out if out is not None else Path("runs") / f"{suite.name}-{manifest['config_digest'][:8]}"
    run = open_run(path, manifest)
    with locked(path):
        _say_setup(console, suite, evaluation, run)
        stored = done_steps(run)
        check_stored(suite, run, stored)
        if beside := [s for s in stored if s in suite.steps and s not in asked]:
            steps, audited = audit_before(suite, asked, on_defect, say_once, beside)
        for step in moved_steps(audited, stored):
            say(f"step {step} is another on the Hub now; its tables and verdict stay (another --out analyses it anew)")
        run = _record_checkpoints(run, suite, audited)
        missing = [s for s in steps if s not in stored]
        if stored:
            say(f"{len(steps) - len(missing)} of {len(steps)} steps are stored already")
        view = start_wandb(run, choose_mode(wandb), say)
        try:
            with open_stream(suite, missing, stored, cache_gb, weights_only, say) as stream:
                _sweep(suite, missing, stream, analyse, run, view.log_step, console)
        finally:
            try:
                run = _record_checkpoints(run, suite, audited)
            finally:
                view.finish()
    for step, reason in audited["passed_over"].items():
        say(f"step {step} was passed over: {reason}")
    for step, reason in run.manifest["left_out"].items():
        if step in run.manifest["checkpoints"]:
            say(f"step {step} is kept in the tables and left out of trajectories: {reason}")
    print_summary(run, console)
    seconds = ", ".join(f"{stage} {total:.1f} s" for stage, total in seconds_by_stage(run.path).items())
    say(f"Time by stage, over all stored steps: {seconds}")
    return run


def _device(asked: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise InputError("--device cuda: this machine or this PyTorch build has no CUDA device; use --device cpu")
    return ("cuda" if available else "cpu") if asked == "auto" else asked


def _say_setup(console: Console, suite: SuiteSpec, evaluation: Evaluation | None, run: Run) -> None:
    if evaluation is None:
        _say(console, f"{suite.name}: {suite.location}")
        _say(console, "weights of the final layer alone, no evaluation text")
        _say(console, f"run directory: {run.path}")
        return
    text, classes = evaluation.text, evaluation.classes
    counts = evaluation.counts.source
    if counts == evaluation.corpus_name:
        counts += " (the evaluation text itself; --frequencies gives the training corpus's own counts)"
    lines = [
        f"{suite.name}: {suite.location}",
        f"evaluation text: {evaluation.corpus_name}, {len(text.windows)} windows, {text.windows.size:,} tokens",
        f"frequencies: {counts}; bands end at rank {classes.end_rank:,} ({classes.end_reason})",
    ]
    if evaluation.counts.sampled is not None:
        errors = class_errors(evaluation.counts.sampled, classes)
        said = [
            f"{name} {reason}" if value is None else f"{name} {value:.2g}" for name, (value, reason) in errors.items()
        ]
        lines.append(f"relative standard error of a type's frequency (median): {', '.join(said)}")
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
    stream: Stream,
    analyse: Callable[[Checkpoint, Callable[[str], None]], StepTables],
    run: Run,
    log: Callable[[int], None],
    console: Console,
) -> None:
    position = {step: number for number, step in enumerate(steps, start=1)}
    with progress(console, suite.name, len(steps)) as reporter:
        clock = StageClock(reporter.stage)

        def checkpoints() -> Iterator[Checkpoint]:
            for step in stream.steps:
                reporter.begin(step, position[step], len(steps))
                clock.begin("fetch")
                yield stream.take(step, reporter.stage)

        def done(checkpoint: Checkpoint, tables: StepTables) -> None:
            clock.begin("store")
            write_step(run, checkpoint.step, checkpoint, tables)
            log(checkpoint.step)
            log_seconds(run.path, checkpoint.step, clock.end())
            reporter.end(step_line(tables.metrics))
            stream.release(checkpoint.step)
            copy_to_repeats(checkpoint.step)

        def copy_to_repeats(of: int) -> None:
            for repeat in stream.repeats.get(of, ()):
                reporter.begin(repeat.step, position[repeat.step], len(steps))
                write_copy(run, of, repeat.step, suite.tokens_seen(repeat.step), repeat.revision, repeat.commit)
                log(repeat.step)
                reporter.end(f"the same weights as step {of}, its tables copied")

        for step in sorted(stream.repeats.keys() - set(stream.steps)):
            copy_to_repeats(step)
        run_serial(checkpoints(), lambda checkpoint: analyse(checkpoint, clock.begin), done)


def _record_checkpoints(run: Run, suite: SuiteSpec, audited: dict[str, Any]) -> Run:
    """The manifest with what every stored step was made from, and which of them trajectories leave out."""
    stored = done_steps(run)
    manifest = {
        **run.manifest,
        "checkpoints": {str(step): record for step, record in stored.items()},
        "audit": joined(run.manifest.get("audit"), audited, stored),
        "schedule": schedule(suite),
    }
    manifest["left_out"] = left_out(Run(run.path, manifest), stored)
    write_json(run.path / "manifest.json", manifest)
    return Run(run.path, manifest)
