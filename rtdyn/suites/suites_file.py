"""checkpoints.yaml, and files of the same form, read into suites."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rtdyn.errors import InputError, UsageError, near_matches
from rtdyn.git_lfs import refuse_pointer
from rtdyn.suites.forms import revision_pattern
from rtdyn.suites.records import DefectEntry, SuiteEntry, SuitesFile, TextEntry
from rtdyn.suites.suite import REFS, REPOSITORIES, STEP, Defect, KnownText, SuiteSpec

T = TypeVar("T")


def read_suites_file(file: Path) -> SuitesFile:
    """The records of a suites file. Raises InputError that names the file and the entry if it is malformed."""
    try:
        refuse_pointer(file)
        return SuitesFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read the suites file {file}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{file}: {_sentence(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also bytes that are no text, and numbers too long
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise InputError(f"{file} is not valid YAML{line}; correct it or leave --suites out") from error


def _sentence(error: ValidationError) -> str:
    """The first mistake; an unknown key comes before others, since it may be a missing one misspelt."""
    unknown = ("extra_forbidden", "invalid_key")
    mistake, *further = sorted(error.errors(), key=lambda e: e["type"] not in unknown)
    kind, place, value = mistake["type"], mistake["loc"], mistake["input"]
    section, entry, name = (*map(str, place), "", "", "")[:3]
    where = f"{section[:-1]} {int(entry) + 1 if section == 'defects' else entry}" if entry else "the top level"
    entries: dict[str, type[BaseModel]] = {"suites": SuiteEntry, "texts": TextEntry}
    record = entries.get(section, DefectEntry) if name else SuitesFile
    fields = {field.alias or key: field for key, field in record.model_fields.items()}
    if kind in unknown:
        return f"{where} has an unknown key {str(place[-1])!r}{near_matches(str(place[-1]), fields)}"
    if kind == "missing":
        lacking = {name, *(str(e["loc"][2]) for e in further if e["type"] == kind and e["loc"][:2] == place[:2])}
        return f"{where} lacks {', '.join(sorted(lacking))}"
    if kind == "value_error":
        return f"{where}{mistake['ctx']['error']}"
    if name == "[key]":
        return f"the {section[:-1]} name {entry} must be text; put it in quotes"
    if not name:
        must = "be a mapping" if section else "be a mapping with schedules, shapes, texts, suites and defects"
        return f"{where} must {must}" if entry or not section else f"{section} must {fields[section].description}"
    field = fields[name]
    if field.examples and kind != "string_type":
        return f"{where}: unknown {name} {value!r}{near_matches(str(value), field.examples)}"
    wanted = "be text" if kind == "string_type" and len(place) == 3 else field.description
    return f"{where}: {field.title or name} must {wanted}"


def suites_of(records: SuitesFile, file: Path, base: Path) -> dict[str, SuiteSpec]:
    """The suites of a file by name; their paths begin at `base`.

    Raises InputError for a name in the records that stands for nothing.
    """
    suites: dict[str, SuiteSpec] = {}
    for pattern, entry in records.suites.items():
        choices = entry.placeholders or {}
        if set(re.findall(r"{(\w+)}", pattern)) != set(choices):
            raise InputError(f"{file}: suite {pattern}: the placeholders of its name and of `for` differ")
        for combination in itertools.product(*choices.values()):
            suite = _suite(records, file, base, pattern, dict(zip(choices, map(str, combination), strict=True)))
            suites[suite.name] = suite
    defects: dict[str, list[Defect]] = {name: [] for name in suites}
    for d in records.defects:
        defect = Defect(d.steps, d.kind, d.note, d.source, d.belongs_to, d.whole)
        for name in _concerned(d.suites, suites, file):
            defects[name].append(defect)
    return {name: replace(suite, defects=tuple(defects[name])) for name, suite in suites.items()}


def _concerned(patterns: Iterable[str], suites: Iterable[str], file: Path) -> list[str]:
    """The names that `patterns` mean, each once; a pattern that is the very name of one means that one alone."""
    names, concerned = list(suites), set()
    for pattern in patterns:
        found = [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"{file}: a defect names the suite {pattern!r}, which matches none{near_matches(pattern, names)}"
            )
        concerned.update(found)
    return [name for name in names if name in concerned]


def _suite(records: SuitesFile, file: Path, base: Path, pattern: str, values: Mapping[str, str]) -> SuiteSpec:
    def filled(template: str) -> str:
        try:
            return template.format(step=STEP, **values)
        except (KeyError, IndexError, ValueError):
            lack = f"{template!r} has a placeholder that `for` does not fill"
            raise InputError(f"{file}: suite {pattern}: {lack}") from None

    def named(kind: str, wanted: str, known: Mapping[str, T]) -> T:
        if wanted not in known:
            raise InputError(f"{file}: suite {name} names an unknown {kind} {wanted!r}{near_matches(wanted, known)}")
        return known[wanted]

    entry, name = records.suites[pattern], filled(pattern)
    if ("path" in entry.model_fields_set) == ("repo" in entry.model_fields_set):
        raise InputError(f"{file}: suite {name} must have either a path or a repo")
    repo = filled(entry.repo) if "repo" in entry.model_fields_set else None
    apart = repo is not None and STEP in repo  # each step is a repository
    _check_steps(entry, apart, f"{file}: suite {name}")
    rates = entry.tokens_per_step if isinstance(entry.tokens_per_step, dict) else {}
    texts = tuple(KnownText(**named("text", text, records.texts).model_dump()) for text in entry.texts)
    corpus = texts[0].corpus if texts and "corpus" not in entry.model_fields_set else entry.corpus
    return SuiteSpec(
        name=name,
        steps=named("schedule", entry.schedule, records.schedules) if entry.schedule else (),
        revision=repo if repo is not None and apart else entry.revision,
        path=base / entry.path if "path" in entry.model_fields_set else None,
        repo=repo,
        tokens_per_step=None if isinstance(entry.tokens_per_step, dict) else entry.tokens_per_step,
        rates=tuple(rates.items()),
        among=REPOSITORIES if apart else REFS,
        pattern=entry.pattern,
        tokenizer=filled(entry.tokenizer),
        family=entry.family or None,
        defects=(),
        corpus=corpus,
        texts=texts,
        shape=tuple(named("shape", filled(entry.shape), records.shapes).items()) if entry.shape else (),
        **entry.model_dump(include={"tokens_before", "frequencies", "note"}),
    )


def _check_steps(entry: SuiteEntry, apart: bool, what: str) -> None:
    """Raises InputError unless the entry says by a schedule or by a pattern which steps there are, and by one alone."""
    if not entry.pattern:
        wanted = {"schedule": entry.schedule, "revision": entry.revision or apart}
        if lacking := [key for key, given in wanted.items() if not given]:
            raise InputError(f"{what} lacks {', '.join(sorted(lacking))}")
        return
    if entry.schedule or entry.revision or not entry.repo or apart:
        raise InputError(f"{what} has a pattern, so it needs a repo, and neither a schedule nor a revision")
    try:
        revision_pattern(entry.pattern)
    except UsageError as error:
        raise InputError(f"{what}: {error}") from None
