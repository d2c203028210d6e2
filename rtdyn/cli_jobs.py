"""From the options of a command line to what they ask of each suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rtdyn.analyses.options import StepOptions
from rtdyn.cli_presets import option_name
from rtdyn.errors import InputError, UsageError
from rtdyn.hub.suite_on_hub import suite_on_hub
from rtdyn.names import ANALYSES, SWEEP, WEIGHTS_ONLY
from rtdyn.suites.find import find_suite, find_suites, load_suites
from rtdyn.suites.forms import RevisionPattern
from rtdyn.suites.steps import parse_steps, steps_so_far
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.cluster_options import ClusterOptions
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job
from rtdyn.sweep.paper import OWN, PAPER, paper_notes, paper_suite
from rtdyn.text.options import EvaluationOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console

    from rtdyn.store.run import Run

    T = TypeVar("T", bound=DataclassInstance)


def jobs_of(
    models: Sequence[str],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[tuple[Job, ...], bool]:
    """A job for each suite that `models` name, and whether several were asked for.

    pattern: of --revision-pattern. options: by the names of the dataclasses' fields; a field with a default may be
    lacking. Where `paper` among them is not None, each suite has two jobs, ours and one of the papers' design with
    these changes. say: told where steps were found that no suites file lists. Raises UsageError and InputError for
    models and steps that do not exist, before anything large is imported.
    """
    known = load_suites(suites)
    found, several = find_suites(models, known, suite_on_hub, pattern)
    for suite in (s for s in found if s.names):
        say(f"{suite.name}: {suite.note}")
    chosen = {
        suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "", suite.unsound) for suite in found
    }

    def jobs(suite: SuiteSpec, own: tuple[int, ...]) -> Iterator[Job]:
        kept = {**options.get("settings", {}), **({"model": _as_given(suite, known)} if several else {})}
        asked = {**options, "settings": kept}
        if (paper := options.get("paper")) is None:
            yield job_of(suite, own, asked)
            return
        for note in paper_notes(suite, evaluation_options(options).corpus, known):
            say(note)
        yield job_of(suite, own, {**asked, "design": OWN})
        yield _by_the_papers(suite, own, asked, paper)

    made = tuple(job for suite, own in chosen.items() for job in jobs(suite, own))
    return made, several


def _by_the_papers(
    suite: SuiteSpec, steps: tuple[int, ...], options: Mapping[str, Any], paper: Mapping[str, Any]
) -> Job:
    """The job of the papers' design. paper: what it changes of the options.

    Its text is as long as the design says, whatever number of rare targets ours is to hold, and has no domains beside
    it. Raises UsageError where no text is read, so that both designs are the same. Raises it too for conditions on
    the rows of a text that is not of both.
    """
    if set(options.get("analyses", ANALYSES)) <= set(WEIGHTS_ONLY):
        raise UsageError("--preset paper is of a text, and these analyses read none; leave it out, or add ablation")
    by_paper, given = paper_suite(suite), evaluation_options(options)
    sources = {
        name: theirs
        for name, theirs, ours in (
            ("corpus", by_paper.corpus, suite.corpus),
            ("frequencies", by_paper.frequencies, suite.frequencies),
        )
        if getattr(given, name) is None and theirs != ours
    }
    if given.text_where and "corpus" in sources:
        raise UsageError(
            "--preset paper measures C4 too, whose rows lack such fields as --text-where names; give a --corpus for "
            "both designs, or leave one of them out"
        )
    main = () if given.corpus is None else (given.corpus,)
    written = {option_name(n): list(v) if isinstance(v, tuple) else v for n, v in {**sources, **paper}.items()}
    kept = {n: v for n, v in options["settings"].items() if n not in ("rare-targets", "domains", "corpus")}
    kept |= {**({"corpus": list(main)} if main else {}), **written}
    theirs = {**paper, "rare_targets": None, "corpora": main, "domains": None}
    return job_of(by_paper, steps, {**options, **theirs, "settings": kept, "design": PAPER})


def job_of(suite: SuiteSpec, steps: tuple[int, ...], options: Mapping[str, Any]) -> Job:
    """The job that options, as `jobs_of` takes them, make of these steps of a suite."""
    settings = {
        "measured_on": evaluation_options(options),
        "options": filled(StepOptions, options),
        "cluster": filled(ClusterOptions, options),
    }
    return filled(Job, {**options, **settings, "suite": suite, "steps": steps})


def evaluation_options(options: Mapping[str, Any]) -> EvaluationOptions:
    """The settings of the evaluation set: `sweep` means its bands, and texts with a name are domains."""
    bands = options.get("bands", EvaluationOptions.bands)
    texts = options.get("corpora", ())
    unnamed = [text for text in texts if isinstance(text, str)]
    meant = {
        "bands": tuple(own for band in bands for own in (SWEEP if band == "sweep" else (band,))),
        "named_texts": tuple(text for text in texts if not isinstance(text, str)),
        **({"corpus": unnamed[0]} if unnamed else {}),
    }
    return filled(EvaluationOptions, {**options, **meant})


def _as_given(suite: SuiteSpec, known: Mapping[str, SuiteSpec]) -> str:
    """What --model calls one suite of several."""
    return suite.name if known.get(suite.name) == suite else suite.location


def followed(
    models: Sequence[str],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    options: Mapping[str, Any],
    console: Console,
    results: Console,
) -> Run:
    """Follows the one suite that `models` name while it trains; returns the run. Here `out` is one of the options.

    Raises as `jobs_of`, and UsageError for what cannot be followed.
    """
    if len(models) != 1:
        raise UsageError("--follow takes one model; give one --model")
    steps_so_far(steps, ())
    known = load_suites(suites)

    def find(pass_over: Callable[[str], None] | None = None) -> SuiteSpec:
        # what a name is wrong in refuses the command, and later only that name
        names = pattern if pattern.regex is None else replace(pattern, pass_over=pass_over)
        return find_suite(models[0], known, suite_on_hub, names)

    try:
        suite = find()
    except InputError:
        if not Path(models[0]).is_dir():
            raise
        suite = None  # its folder holds no step yet

    def job(now: SuiteSpec) -> Job:
        return job_of(now, (), options)

    how = filled(FollowOptions, options)
    if suite is not None and suite.path is None:
        from rtdyn.following.hub import follow_hub

        return follow_hub(find, steps, job, how, console, results)
    from rtdyn.following.folder import follow_folder

    folder = suite.path if suite is not None and suite.path is not None else Path(models[0])
    return follow_folder(folder, find, steps, job, how, options["out"], console, results)


def filled(kind: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass made of the options that have its fields' names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
