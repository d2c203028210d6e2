"""The main job: follow a suite through its checkpoints, step by step, into a run directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.audit.before_a_run import audit_before, joined, moved_steps
from rtdyn.checkpoints.stream import Stream, alike, open_stream
from rtdyn.cost.forecast import expected_seconds
from rtdyn.counted import counted
from rtdyn.errors import IncompleteError
from rtdyn.execute.driver import Driver, earlier_tasks, open_engine
from rtdyn.execute.engine import Engine
from rtdyn.execute.ledger import read_seconds
from rtdyn.execute.serial import PassedOver, run_serial
from rtdyn.execute.task import Task, task_template
from rtdyn.hub.datasets import is_hub
from rtdyn.judge.observations import few_sound, left_out
from rtdyn.names import KING_JAMES, position_by
from rtdyn.parquet import read_parquet
from rtdyn.say_plain import say_plain
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
from rtdyn.sweep.paper import OWN
from rtdyn.sweep.stored_weights import check_stored
from rtdyn.sweep.sweep import Sweep, device_here, prepare_sweep, reference_step
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.token_classes import SURE, class_errors, rare_overlap
from rtdyn.undefined import Undefined
from rtdyn.views.terminal.cautions import cautions
from rtdyn.views.terminal.domains import domain_lines
from rtdyn.views.terminal.progress import progress
from rtdyn.views.terminal.summary import print_summary, step_line
from rtdyn.views.tracker import check_tracker, start_tracker


def track(job: Job, console: Console, results: Console | None = None) -> Run:
    """Analyses every step of the job that its run directory lacks; returns the run.

    console: where progress is said. results: where what came out is said; the same by default. Raises InputError in one
    sentence for anything in the sources that cannot be used. Raises IncompleteError, once all else is done, for steps
    that could not be analysed.
    """
    say = partial(say_plain, console)
    suite, cluster = job.suite, job.cluster
    said: list[str] = []

    def say_once(text: str) -> None:
        if text not in said:
            said.append(text)
            say(text)

    check_tracker(job)
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
    named = {name: value for name in ("group", "design") if (value := getattr(job, name))}
    if named:
        run = Run(path, run.manifest.replace(**named))
    given_up: dict[int, str] = {}
    with locked(path):
        engine = None if here else open_engine(cluster, path.resolve(), say)
        earlier_tasks(run, cluster.executor, "" if engine is None else engine.place)
        say_setup(console, suite, sweep.evaluation, run, job.measured_on.corpus)
        stored = done_steps(run)
        check_stored(suite, run, stored)
        if beside := [s for s in stored if s in suite.steps and s not in job.steps]:
            steps, audited = audit_before(suite, job.steps, job.on_defect, say_once, beside)
        for step in moved_steps(audited, stored):
            say(f"step {step} is another on the Hub now; its tables and verdict stay (another --out analyses it anew)")
        run = Run(path, run.manifest.replace(asked=tuple(sorted({*run.manifest.asked, *steps}))))
        run = record_checkpoints(run, suite, audited, given_up)
        keep_settings(job, run)
        if few := few_sound({*steps, *stored}, audited, run.manifest.left_out):
            say(few)
        whole, missing = _left(run, steps, stored, job.options.analyses, say)
        view = start_tracker(run, job, say)
        try:
            if engine is None:
                # the papers' design comes next, over the same checkpoints
                keep = job.design == OWN
                opened = open_stream(suite, missing, whole, job.cache_gb, sweep.weights_only, say, keep=keep)
                given_up = run_here(sweep, opened, missing, run, view.log_step, console)
            else:
                task = task_template(job, run, reference)
                units = alike(suite, missing, whole, sweep.weights_only)
                given_up = _run_elsewhere(engine, units, task, cluster.steps_per_task, run, view.log_step, console)
        finally:
            try:
                run = record_checkpoints(run, suite, audited, given_up)
            finally:
                view.finish()
        if where := view.lies():
            say(where)
    told = console if results is None else results
    for step, reason in audited["passed_over"].items():
        say_plain(told, f"step {step} was passed over: {reason}")
    say_end(told, run)
    raise_given_up(given_up, len(steps), run)
    return run


def keep_settings(job: Job, run: Run) -> None:
    """Writes the options that the job came to into the run directory, as --config reads them."""
    if job.settings:
        named: dict[str, Any] = {"analyses": ",".join(run.manifest.config["analyses"])}
        if _stood_in(job, run):
            given = job.settings.get("corpus", [])
            named["corpus"] = [KING_JAMES, *(given if isinstance(given, list) else [])]  # a list holds domains alone
        write_settings(run.path, {**job.settings, **named, **({} if job.out is None else {"out": str(job.out)})})


def _stood_in(job: Job, run: Run) -> bool:
    """Whether the King James Bible was measured in place of the suite's default text."""
    text = run.manifest.evaluation
    is_default = job.measured_on.corpus is None and is_hub(job.suite.corpus)
    return is_default and text is not None and text.corpus.startswith(KING_JAMES)


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
        who = "1 stored step lacks" if count == 1 else f"{count} stored steps lack"
        say(f"{who} {', '.join(names)}: only that is added, and W&B keeps what it has")
    return whole, left


def raise_given_up(given_up: Mapping[int, str], steps: int, run: Run) -> None:
    """Raises IncompleteError that names the steps, of so many, that could not be analysed, if any."""
    if given_up:
        faults = "; ".join(f"step {step}: {why.rstrip('.')}" for step, why in sorted(given_up.items()))
        raise IncompleteError(f"{len(given_up)} of {counted(steps, 'step')} could not be analysed: {faults}", run.path)


def say_end(console: Console, run: Run) -> None:
    """Which steps were left out and why, the closing table, and the time by stage."""
    for step, reason in run.manifest.left_out.items():
        if step in run.manifest.checkpoints:
            say_plain(console, f"step {step} is kept in the tables and left out of trajectories: {reason}")
    if done_steps(run):
        print_summary(run, console)
    seconds = ", ".join(f"{stage} {total:.1f} s" for stage, total in seconds_by_stage(run.path).items())
    say_plain(console, f"Time by stage, over all stored steps: {seconds}")


def say_setup(console: Console, suite: SuiteSpec, evaluation: Evaluation | None, run: Run, corpus: str | None) -> None:
    """What the run measures on, and where it lies. corpus: as the command line gave it, None for the suite's own."""
    if evaluation is None:
        say_plain(console, f"{suite.name}: {suite.location}")
        say_plain(console, "weights of the final layer alone, no evaluation text")
        say_plain(console, f"run directory: {run.path}")
        return
    text, classes = evaluation.text, evaluation.classes
    piece = f"independent {evaluation.clusters.unit.removesuffix('s')}"
    counts = evaluation.counts.source
    if counts == evaluation.corpus_name:
        counts += " (the evaluation text itself; --frequencies gives the training corpus's own counts)"
    lines = [
        f"{suite.name}: {suite.location}",
        f"evaluation text: {evaluation.corpus_name}, {counted(len(text.windows), 'window')}, {text.windows.size:,} "
        f"tokens, in {counted(evaluation.clusters.count, piece)}; held out from training: "
        f"{'not checked' if evaluation.known_text is None else evaluation.known_text.held_out}",
        f"frequencies: {counts}; bands end at rank {classes.end_rank:,} ({classes.end_reason})",
    ]
    lines += cautions(suite, evaluation, corpus)
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
    position = position_by(run.manifest.config["class_by"])
    for token_class, positions in zip(classes.classes, evaluation.positions.classes, strict=True):
        types = counted(int(token_class.types.sum()), "type")
        lines.append(
            f"class {token_class.name}: {types} (ranks {token_class.first + 1:,} to "
            f"{token_class.last:,}), {counted(positions.available, position)}, {len(positions.measured):,} measured"
        )
    lines += domain_lines(evaluation)
    lines.append(f"run directory: {run.path}")
    for line in lines:
        say_plain(console, line)


def run_here(
    sweep: Sweep,
    opened: AbstractContextManager[Stream],
    steps: Sequence[int] | None,
    run: Run,
    log: Callable[[int], None],
    console: Console,
) -> dict[int, str]:
    """The stream's steps one after another in this process; returns those passed over, each with the reason.

    steps: those that are to come, None where nobody knows.
    """
    position = {step: number for number, step in enumerate(steps or (), start=1)}
    total = None if steps is None else len(steps)
    expected = expected_seconds(sweep) if console.is_terminal and steps else {}  # for its bar alone
    with opened as stream, progress(console, sweep.suite.name, total, expected) as reporter:
        clock = StageClock(reporter.stage)
        owner = {repeat.step: of for of, repeats in stream.repeats.items() for repeat in repeats}

        passed_over = PassedOver(stream.release, stream.repeats, reporter.pass_over)

        @contextmanager
        def trying(step: int) -> Iterator[None]:
            reporter.begin(step, position.setdefault(step, len(position) + 1), total)
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
            reporter.stage(f"{at_work} of {counted(tasks, 'task')} at work")

        driver = Driver(engine, run, units, task, steps_per_task, on_stored, on_look, reporter.say)
        return driver.drive()


def record_checkpoints(run: Run, suite: SuiteSpec, audited: dict[str, Any], given_up: Mapping[int, str]) -> Run:
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
