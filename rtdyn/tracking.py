"""The main job: follow a suite through its checkpoints, step by step, into a run directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.audit.before_a_run import audit_before, joined, moved_steps
from rtdyn.checkpoints.stream import alike, open_stream
from rtdyn.cost.forecast import expected_seconds
from rtdyn.errors import IncompleteError
from rtdyn.execute.driver import Driver, earlier_tasks, open_engine
from rtdyn.execute.engine import Engine
from rtdyn.execute.ledger import read_seconds
from rtdyn.execute.serial import PassedOver, run_serial
from rtdyn.execute.task import Task, task_template
from rtdyn.judge.observations import few_sound, left_out
from rtdyn.parquet import read_parquet
from rtdyn.store.manifest import AuditRecord, CheckpointRecord
from rtdyn.store.run import (
    Run,
    done_steps,
    done_with,
    lacking,
    locked,
    open_run,
    shorter_or_longer,
    step_record,
    table_file,
    write_manifest,
)
from rtdyn.store.schema import StepTables
from rtdyn.store.settings_file import write_settings
from rtdyn.store.stage_log import StageClock, log_seconds, logged_steps, seconds_by_stage
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.sweep.manifest import new_manifest, schedule
from rtdyn.sweep.stored_weights import check_stored
from rtdyn.sweep.sweep import Sweep, device_here, prepare_sweep, reference_step
from rtdyn.text.clusters import FEW_CLUSTERS, TextClusters
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.token_classes import SURE, class_errors, rare_overlap
from rtdyn.undefined import Undefined
from rtdyn.views.terminal.progress import progress
from rtdyn.views.terminal.summary import print_summary, step_line
from rtdyn.views.wandb.mirror import choose_mode, start_wandb


def track(job: Job, console: Console, results: Console | None = None) -> Run:
    """Analyses every step of the job that its run directory lacks; returns the run.

    console: where progress is said. results: where what came out is said; the same by default. Raises InputError in one
    sentence for anything in the sources that cannot be used, and IncompleteError once all else is done for steps that
    could not be analysed.
    """
    say = partial(_say, console)
    suite, cluster = job.suite, job.cluster
    said: list[str] = []

    def say_once(text: str) -> None:
        if text not in said:
            said.append(text)
            say(text)

    here = cluster.executor == "serial"
    device = device_here(job.options.device) if here else cluster.device(job.options.device)
    job = replace(job, options=replace(job.options, device=device))
    steps, audited = audit_before(suite, job.steps, job.on_defect, say_once)
    reference = reference_step(suite, steps)
    sweep = prepare_sweep(suite, reference, job.measured_on, job.options, say)
    manifest = new_manifest(suite, sweep.evaluation, sweep.config).replace(command=job.command)
    path = job.out if job.out is not None else Path("runs") / f"{suite.name}-{manifest.config_digest[:8]}"
    if job.out is None and not path.exists() and (other := shorter_or_longer(path, manifest)):
        say(f"{other}; this is another configuration, and starts anew in {path}")
    run = open_run(path, manifest)
    if job.group is not None:
        run = Run(path, run.manifest.replace(group=job.group))
    given_up: dict[int, str] = {}
    with locked(path):
        engine = None if here else open_engine(cluster, path.resolve(), say)
        earlier_tasks(run, cluster.executor, "" if engine is None else engine.place)
        _say_setup(console, suite, sweep.evaluation, run)
        stored = done_steps(run)
        check_stored(suite, run, stored)
        if beside := [s for s in stored if s in suite.steps and s not in job.steps]:
            steps, audited = audit_before(suite, job.steps, job.on_defect, say_once, beside)
        for step in moved_steps(audited, stored):
            say(f"step {step} is another on the Hub now; its tables and verdict stay (another --out analyses it anew)")
        run = Run(path, run.manifest.replace(asked=tuple(sorted({*run.manifest.asked, *steps}))))
        run = _record_checkpoints(run, suite, audited, given_up)
        if job.settings:
            named = {"analyses": ",".join(run.manifest.config["analyses"])}
            write_settings(path, {**job.settings, **named, **({} if job.out is None else {"out": str(job.out)})})
        if few := few_sound({*steps, *stored}, audited, run.manifest.left_out):
            say(few)
        whole, missing = _left(run, steps, stored, job.options.analyses, say)
        view = start_wandb(run, choose_mode(job.wandb), say)
        try:
            if engine is None:
                given_up = _run_here(sweep, missing, whole, job.cache_gb, run, view.log_step, console)
            else:
                task = task_template(job, run, reference)
                units = alike(suite, missing, whole, sweep.weights_only)
                given_up = _run_elsewhere(engine, units, task, cluster.steps_per_task, run, view.log_step, console)
        finally:
            try:
                run = _record_checkpoints(run, suite, audited, given_up)
            finally:
                view.finish()
        if view.is_offline and not view.failed:
            say(f"W&B is offline: what it gets lies in {path / 'wandb'}; `rtdyn sync {path}` sends it")
    _say_end(console if results is None else results, run, audited)
    if given_up:
        faults = "; ".join(f"step {step}: {why.rstrip('.')}" for step, why in sorted(given_up.items()))
        raise IncompleteError(f"{len(given_up)} of {len(steps)} steps could not be analysed: {faults}", path)
    return run


def _left(
    run: Run,
    steps: Sequence[int],
    stored: Mapping[int, CheckpointRecord],
    analyses: Sequence[str],
    say: Callable[[str], None],
) -> tuple[dict[int, CheckpointRecord], list[int]]:
    """The stored steps that hold all the analyses, and those of `steps` that are to be run, whole or in part."""
    whole = done_with(run, analyses)
    left = [step for step in steps if step not in whole]
    if stored:
        say(f"{len(steps) - len(left)} of {len(steps)} steps are stored already")
    lacks = Counter(lacking(run, step, analyses) for step in left if step in stored)
    for names, count in lacks.items():
        say(f"{count} stored steps lack {', '.join(names)}: only that is added; W&B keeps what it has of them")
    return whole, left


def _say_end(console: Console, run: Run, audited: Mapping[str, Any]) -> None:
    """Which steps were left out and why, the closing table, and the time by stage."""
    for step, reason in audited["passed_over"].items():
        _say(console, f"step {step} was passed over: {reason}")
    for step, reason in run.manifest.left_out.items():
        if step in run.manifest.checkpoints:
            _say(console, f"step {step} is kept in the tables and left out of trajectories: {reason}")
    if done_steps(run):
        print_summary(run, console)
    seconds = ", ".join(f"{stage} {total:.1f} s" for stage, total in seconds_by_stage(run.path).items())
    _say(console, f"Time by stage, over all stored steps: {seconds}")


def _few_clusters(clusters: TextClusters) -> str:
    """A warning for a text whose intervals may not cover; empty for another."""
    if clusters.unit != "documents":
        return (
            f"caution: the text is of few documents, so that its {clusters.count} blocks stand for independent text; "
            "intervals say how sure a number is for this text, and may be too narrow"
        )
    if clusters.count < FEW_CLUSTERS:
        return (
            f"caution: {clusters.count} documents are under {FEW_CLUSTERS}, so that intervals may be too narrow; "
            "a corpus of more documents mends it"
        )
    return ""


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
        f"evaluation text: {evaluation.corpus_name}, {len(text.windows)} windows, {text.windows.size:,} tokens, in "
        f"{evaluation.clusters.count} independent {evaluation.clusters.unit}",
        f"frequencies: {counts}; bands end at rank {classes.end_rank:,} ({classes.end_reason})",
    ]
    few = _few_clusters(evaluation.clusters)
    if few:
        lines.append(few)
    if evaluation.counts.sampled is not None:
        errors = class_errors(evaluation.counts.sampled, classes)
        said = [
            f"{name} {error.reason if isinstance(error, Undefined) else format(error, '.2g')}"
            for name, error in errors.items()
        ]
        lines.append(f"relative standard error of a type's frequency (median): {', '.join(said)}")
        overlap = rare_overlap(evaluation.counts, classes)
        if overlap is not None:
            error = errors[classes.classes[0].name]
            about = "about" if isinstance(error, float) and error <= SURE else "at most"
            lines.append(
                f"the rare class is of sampled counts: {about} {overlap:.2f} of the types in it or in that of the "
                "whole corpus are expected in both"
            )
    counted = "targets" if run.manifest.config["class_by"] == "target" else "queries"
    for token_class, positions in zip(classes.classes, evaluation.positions.classes, strict=True):
        lines.append(
            f"class {token_class.name}: {int(token_class.types.sum()):,} types (ranks {token_class.first + 1:,} to "
            f"{token_class.last:,}), {positions.available:,} {counted}, {len(positions.measured):,} measured"
        )
    lines.append(f"run directory: {run.path}")
    for line in lines:
        _say(console, line)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _run_here(
    sweep: Sweep,
    steps: Sequence[int],
    stored: Mapping[int, CheckpointRecord],
    cache_gb: float,
    run: Run,
    log: Callable[[int], None],
    console: Console,
) -> dict[int, str]:
    """The steps one after another in this process; returns those passed over, each with the reason."""
    position = {step: number for number, step in enumerate(steps, start=1)}
    say = partial(_say, console)
    expected = expected_seconds(sweep) if console.is_terminal and steps else {}  # for its bar alone
    with (
        open_stream(sweep.suite, steps, stored, cache_gb, sweep.weights_only, say) as stream,
        progress(console, sweep.suite.name, len(steps), expected) as reporter,
    ):
        clock = StageClock(reporter.stage)
        owner = {repeat.step: of for of, repeats in stream.repeats.items() for repeat in repeats}

        passed_over = PassedOver(stream.release, stream.repeats, reporter.pass_over)

        @contextmanager
        def trying(step: int) -> Iterator[None]:
            reporter.begin(step, position[step], len(steps))
            with passed_over.trying(step):
                yield

        def done(step: int, tables: StepTables | None) -> None:
            log(step)
            if tables is None:
                reporter.end(f"the same weights as step {owner[step]}, its tables copied")
            else:
                log_seconds(run.path, step, clock.end())
                reporter.end(step_line(tables.metrics))

        run_serial(sweep, stream, run, clock, trying, done)
    return passed_over.reasons


def _run_elsewhere(
    engine: Engine,
    units: Sequence[tuple[int, ...]],
    task: Task,
    steps_per_task: int,
    run: Run,
    log: Callable[[int], None],
    console: Console,
) -> dict[int, str]:
    """The steps by a cluster's workers, in whatever order; returns those given up, each with the reason."""
    left = {step for unit in units for step in unit}
    logged, total = logged_steps(run.path) - left, len(left)
    for step, seconds in read_seconds(run.path).items():  # stored while no driver watched, or just before one died
        if step not in logged and step_record(run, step) is not None:
            log_seconds(run.path, step, seconds)
            logged.add(step)
    with progress(console, run.manifest.suite, total) as reporter:
        arrived = 0

        def on_stored(step: int, seconds: Mapping[str, float] | None) -> None:
            nonlocal arrived
            arrived += 1
            reporter.begin(step, arrived, total)
            log(step)
            if seconds is not None and step not in logged:
                log_seconds(run.path, step, dict(seconds))
            summary = step_line(read_parquet(table_file(run, "metrics", step)))
            reporter.end(summary, sum((seconds or {}).values()))

        def on_look(tasks: int, at_work: int) -> None:
            reporter.stage(f"{at_work} of {tasks} tasks at work")

        driver = Driver(engine, run, units, task, steps_per_task, on_stored, on_look, reporter.say)
        return driver.drive()


def _record_checkpoints(run: Run, suite: SuiteSpec, audited: dict[str, Any], given_up: Mapping[int, str]) -> Run:
    """The manifest with what every stored step was made from, which trajectories leave out, and which failed."""
    stored, earlier = done_steps(run), run.manifest.audit
    audit = joined(None if earlier is None else earlier.as_json(), audited, stored)
    manifest = run.manifest.replace(
        checkpoints=stored,
        audit=AuditRecord.model_validate(audit),
        schedule=schedule(suite),
        failed={step: why for step, why in {**run.manifest.failed, **given_up}.items() if step not in stored},
    )
    recorded = Run(run.path, manifest.replace(left_out=left_out(Run(run.path, manifest), stored)))
    write_manifest(recorded)
    return recorded
