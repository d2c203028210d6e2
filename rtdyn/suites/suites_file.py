"""checkpoints.yaml, and files of the same form, read and checked."""

from __future__ import annotations

import fnmatch
import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from rtdyn.errors import InputError, near_matches
from rtdyn.names import HUB_SCHEME
from rtdyn.suites.suite import Defect, Shape, SuiteSpec

DEFECT_KINDS = ("duplicate", "final-weights", "missing", "discontinuous")


CORPORA = ("king-james", "king-james-held-out")


_SUITE_KEYS = {
    "for",
    "path",
    "repo",
    "revision",
    "schedule",
    "tokens_per_step",
    "family",
    "corpus",
    "frequencies",
    "note",
    "shape",
}


_DEFECT_KEYS = {"suites", "steps", "kind", "belongs_to", "whole", "note", "source"}


def _parse_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the suites file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise InputError(f"{file} is not valid YAML{line}; correct it or leave --suites out") from error
    if not isinstance(data, dict):
        raise InputError(f"{file}: the top level must be a mapping with schedules, shapes, suites and defects")
    _known_keys(file, "the top level", data, {"schedules", "shapes", "suites", "defects"})
    return data


def _known_keys(file: Path, where: str, data: Any, known: set[str]) -> None:
    if not isinstance(data, dict):
        raise InputError(f"{file}: {where} must be a mapping")
    for key in data:
        if key not in known:
            raise InputError(f"{file}: {where} has an unknown key {str(key)!r}{near_matches(str(key), known)}")


def _read_schedules(file: Path) -> dict[str, tuple[int, ...]]:
    data = _parse_yaml(file).get("schedules") or {}
    if not isinstance(data, dict):
        raise InputError(f"{file}: schedules must be a mapping of names to step lists")
    return {name: _expand(file, f"schedule {name}", text) for name, text in data.items()}


def _expand(file: Path, where: str, text: Any) -> tuple[int, ...]:
    """Numbers and inclusive ranges `a:b:c`, with no schedule to check them against."""
    if not isinstance(text, str):  # YAML reads 10:30:10 as a number in base 60
        raise InputError(f"{file}: {where}: the step list must be text; put it in quotes")
    steps: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?::([0-9]+):([1-9][0-9]*))?\s*", part)
        if match is None:
            raise InputError(f"{file}: {where} has a step list that cannot be read: {part.strip()!r}")
        start, stop, stride = match.groups()
        steps.update([int(start)] if stop is None else range(int(start), int(stop) + 1, int(stride)))
    if not steps:
        raise InputError(f"{file}: {where} holds no step")
    return tuple(sorted(steps))


def _read_shapes(file: Path) -> dict[str, Shape]:
    data = _parse_yaml(file).get("shapes") or {}
    if not isinstance(data, dict):
        raise InputError(f"{file}: shapes must be a mapping of names to settings of a config.json")
    for name, settings in data.items():
        if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
            raise InputError(
                f"{file}: shape {name} must be a mapping of a config.json's settings, model_type among them"
            )
        for key, value in settings.items():
            if not isinstance(value, int | str) or (isinstance(value, int) and value < 0):
                raise InputError(f"{file}: shape {name}: {key} must be a whole number or text")
    return {name: tuple(settings.items()) for name, settings in data.items()}


def _read_file(
    file: Path, base: Path, schedules: dict[str, tuple[int, ...]], shapes: dict[str, Shape]
) -> dict[str, SuiteSpec]:
    data = _parse_yaml(file)
    schedules, shapes = {**schedules, **_read_schedules(file)}, {**shapes, **_read_shapes(file)}
    entries = data.get("suites") or {}
    if not isinstance(entries, dict):
        raise InputError(f"{file}: suites must be a mapping of names to entries")
    listed = data.get("defects") or []
    if not isinstance(listed, list):
        raise InputError(f"{file}: defects must be a list")
    defects = [_read_defect(file, i, entry) for i, entry in enumerate(listed, start=1)]
    suites: dict[str, SuiteSpec] = {}
    for pattern, entry in entries.items():
        if not isinstance(pattern, str):
            raise InputError(f"{file}: the suite name {pattern!r} must be text; put it in quotes")
        _known_keys(file, f"suite {pattern}", entry, _SUITE_KEYS)
        for key in ("path", "repo", "revision", "schedule", "family", "corpus", "frequencies", "note", "shape"):
            if not isinstance(entry.get(key, ""), str):
                raise InputError(f"{file}: suite {pattern}: {key} must be text")
        for values in _placeholders(file, pattern, entry.get("for")):
            suite = _read_suite(file, base, schedules, shapes, pattern, entry, values, defects)
            suites[suite.name] = suite
    for patterns, _ in defects:
        for wanted in patterns:
            if not fnmatch.filter(suites, wanted):
                raise InputError(
                    f"{file}: a defect names the suite {wanted!r}, which matches none{near_matches(wanted, suites)}"
                )
    return suites


def _placeholders(file: Path, pattern: str, values: Any) -> list[dict[str, str]]:
    values = values or {}
    if not isinstance(values, dict) or not all(isinstance(v, list) and v for v in values.values()):
        raise InputError(f"{file}: suite {pattern}: `for` must map each placeholder to a list of values")
    wanted = set(re.findall(r"{(\w+)}", pattern))
    if wanted != set(values):
        raise InputError(f"{file}: suite {pattern}: the placeholders of its name and of `for` differ")
    combinations = itertools.product(*values.values())
    return [dict(zip(values, map(str, combination), strict=True)) for combination in combinations]


def _read_suite(
    file: Path,
    base: Path,
    schedules: dict[str, tuple[int, ...]],
    shapes: dict[str, Shape],
    pattern: str,
    entry: dict[str, Any],
    values: dict[str, str],
    defects: list[tuple[list[str], Defect]],
) -> SuiteSpec:
    name = _fill(file, pattern, pattern, values)
    where = f"suite {name}"
    if ("path" in entry) == ("repo" in entry):
        raise InputError(f"{file}: {where} must have either a path or a repo")
    for key in ("revision", "schedule"):
        if not isinstance(entry.get(key), str):
            raise InputError(f"{file}: {where} lacks {key}")
    if re.findall(r"{.*?}", entry["revision"]) != ["{step}"]:
        raise InputError(f"{file}: {where}: revision must contain {{step}} once and no other placeholder")
    if entry["schedule"] not in schedules:
        raise InputError(
            f"{file}: {where} names an unknown schedule {entry['schedule']!r}"
            f"{near_matches(entry['schedule'], schedules)}"
        )
    shape = _fill(file, pattern, entry["shape"], values) if "shape" in entry else None
    if shape is not None and shape not in shapes:
        raise InputError(f"{file}: {where} names an unknown shape {shape!r}{near_matches(shape, shapes)}")
    per_step = entry.get("tokens_per_step")
    if per_step is not None and (not isinstance(per_step, int) or per_step < 1):
        raise InputError(f"{file}: {where}: tokens_per_step must be a positive whole number")
    corpus = str(entry.get("corpus", "king-james"))
    if corpus not in CORPORA and not corpus.startswith(HUB_SCHEME):
        raise InputError(f"{file}: {where}: unknown corpus {corpus!r}{near_matches(corpus, CORPORA)}")
    return SuiteSpec(
        name=name,
        steps=schedules[entry["schedule"]],
        revision=entry["revision"],
        path=base / entry["path"] if "path" in entry else None,
        repo=_fill(file, pattern, entry["repo"], values) if "repo" in entry else None,
        tokens_per_step=per_step,
        family=entry.get("family"),
        corpus=corpus,
        frequencies=str(entry.get("frequencies", "corpus")),
        note=str(entry.get("note", "")),
        defects=tuple(d for patterns, d in defects if any(fnmatch.fnmatchcase(name, p) for p in patterns)),
        shape=shapes[shape] if shape is not None else (),
    )


def _fill(file: Path, pattern: str, template: str, values: dict[str, str]) -> str:
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError):
        raise InputError(f"{file}: suite {pattern}: {template!r} has a placeholder that `for` does not fill") from None


def _read_defect(file: Path, number: int, entry: Any) -> tuple[list[str], Defect]:
    where = f"defect {number}"
    _known_keys(file, where, entry, _DEFECT_KEYS)
    missing = sorted(_DEFECT_KEYS - {"belongs_to", "whole"} - set(entry))
    if missing:
        raise InputError(f"{file}: {where} lacks {', '.join(missing)}")
    if entry["kind"] not in DEFECT_KINDS:
        raise InputError(
            f"{file}: {where}: unknown kind {entry['kind']!r}{near_matches(str(entry['kind']), DEFECT_KINDS)}"
        )
    patterns = entry["suites"]
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise InputError(f"{file}: {where}: suites must be a list of names")
    whole = entry.get("whole", True)
    if not isinstance(whole, bool):
        raise InputError(f"{file}: {where}: whole must be true or false")
    steps, note, source = _expand(file, where, entry["steps"]), str(entry["note"]), str(entry["source"])
    return patterns, Defect(steps, entry["kind"], note, source, entry.get("belongs_to"), whole)
