"""Suites by name: `checkpoints.yaml`, a user's own file in the same form, or a folder of `step*/`.

A suite is one model's training run as a series of checkpoints. Everything here is text and numbers:
nothing is downloaded and no weights are opened.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rtdyn.errors import InputError, UsageError

PACKAGE = Path(__file__).parent
DEFECT_KINDS = ("duplicate", "final-weights", "missing", "discontinuous")
CORPORA = ("king-james", "king-james-held-out")
HUB_SCHEME = "hf://"
"""What an address of a data set on the Hub begins with."""
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
Shape = tuple[tuple[str, int | str], ...]
"""Settings of a config.json by name, with `parameters`."""
_STEP_FOLDER = re.compile(r"step(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Defect:
    """What is known to be wrong with some published steps of a suite, and who says so."""

    steps: tuple[int, ...]
    kind: str
    note: str
    source: str
    belongs_to: int | None
    whole: bool = True
    """Whether all of the weights are concerned, not single shards."""

    @property
    def same_weights(self) -> bool:
        """Whether the steps all hold the same bytes."""
        return self.whole and self.kind in ("duplicate", "final-weights")


@dataclass(frozen=True)
class SuiteSpec:
    """One training run: where its checkpoints are and what their steps mean."""

    name: str
    steps: tuple[int, ...]
    revision: str
    path: Path | None
    repo: str | None
    tokens_per_step: int | None
    family: str | None
    corpus: str
    frequencies: str
    note: str
    defects: tuple[Defect, ...]
    shape: Shape = ()
    """As the suites file gives it; empty where it does not."""

    @property
    def is_bundled(self) -> bool:
        """Whether its files lie inside the package."""
        return self.path is not None and self.path.is_relative_to(PACKAGE)

    @property
    def location(self) -> str:
        """Where the checkpoints come from, as a user would write it."""
        return self.repo if self.repo is not None else str(self.path)

    def revision_of(self, step: int) -> str:
        """The branch or folder that holds `step`."""
        return self.revision.format(step=step)

    def tokens_seen(self, step: int) -> int | None:
        """Training tokens consumed before `step`'s weights were saved, if the suite says."""
        return None if self.tokens_per_step is None else step * self.tokens_per_step


def near_matches(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?` for the names most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def load_suites(extra: Path | None = None) -> dict[str, SuiteSpec]:
    """Every suite of the shipped file, and those of a user's file, which may replace them.

    Raises InputError that names the file and the entry when either is malformed.
    """
    shipped = next(p for p in (PACKAGE / "checkpoints.yaml", PACKAGE.parent / "checkpoints.yaml") if p.is_file())
    suites = _read_file(shipped, PACKAGE, {}, {})
    if extra is not None:
        suites.update(_read_file(extra, extra.parent, _read_schedules(shipped), _read_shapes(shipped)))
    return suites


def find_suite(model: str, suites: Mapping[str, SuiteSpec]) -> SuiteSpec:
    """The suite called `model`: a registered name, its Hub repository, or a folder of `step*/` folders."""
    for suite in suites.values():
        if model in (suite.name, suite.repo):
            return suite
    folder = Path(model)
    if folder.is_dir():
        return _folder_suite(folder)
    known = [*suites, *(s.repo for s in suites.values() if s.repo)]
    raise UsageError(
        f"no suite or folder is called {model!r}{near_matches(model, known)} (`rtdyn models` lists the suites)"
    )


def find_suites(models: Sequence[str], suites: Mapping[str, SuiteSpec]) -> tuple[tuple[SuiteSpec, ...], bool]:
    """The suites that `models` name, each once in the order given, and whether several were asked for.

    Beside what `find_suite` takes, a pattern of `*`, `?` and `[...]` means every registered suite whose name or
    repository it matches, or, matched against paths, every folder that holds `step*/` folders. Several were asked for
    where there are several, and by any pattern, whatever it matches today. Raises UsageError for a pattern that
    matches nothing.
    """
    found: dict[SuiteSpec, None] = {}
    patterns = [m for m in models if glob.has_magic(m) and not Path(m).is_dir()]
    for model in models:
        found.update(dict.fromkeys(_matching(model, suites) if model in patterns else [find_suite(model, suites)]))
    return tuple(found), len(found) > 1 or bool(patterns)


def _matching(pattern: str, suites: Mapping[str, SuiteSpec]) -> list[SuiteSpec]:
    named = [s for s in suites.values() if any(fnmatch.fnmatchcase(n, pattern) for n in (s.name, s.repo) if n)]
    if named:
        return named
    paths = sorted(glob.glob(pattern))  # noqa: PTH207 -- Path.glob takes no absolute pattern
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    holding = [_folder_suite(folder) for folder in folders if _steps_in(folder)]
    if folders and not holding:
        raise UsageError(
            f"none of the {len(folders)} folders that match {pattern!r} holds step*/ folders; "
            "a pattern names the folders of suites, not those of their steps"
        )
    if not holding:
        known = [*suites, *(s.repo for s in suites.values() if s.repo)]
        raise UsageError(
            f"no suite or folder matches {pattern!r}{near_matches(pattern, known)} (`rtdyn models` lists the suites)"
        )
    return holding


def parse_steps(spec: str, schedule: tuple[int, ...], whose: str = "") -> tuple[int, ...]:
    """Steps named by `spec`, ascending: `all`, `log`, `last`, numbers, ranges `a:b[:c]`, and mixes.

    A range means the schedule's steps from a to b inclusive, every c-th step counted from a if c is
    given. `log` means the scheduled step nearest to zero and to each power of two, and the last.
    Raises UsageError for a step the schedule lacks, which begins with `whose`.
    """
    chosen: set[int] = set()
    for part in (p.strip() for p in spec.split(",")):
        if part == "all":
            chosen.update(schedule)
        elif part == "last":
            chosen.add(schedule[-1])
        elif part == "log":
            chosen.update(_log_steps(schedule))
        elif re.fullmatch(r"[0-9]+", part):
            if int(part) not in schedule:
                nearest = sorted(schedule, key=lambda s: abs(s - int(part)))[:2]
                raise UsageError(
                    f"{whose}step {part} is not in the suite's schedule; the nearest are "
                    f"{' and '.join(map(str, sorted(nearest)))} (`rtdyn steps` lists them)"
                )
            chosen.add(int(part))
        elif match := re.fullmatch(r"([0-9]+):([0-9]+)(?::([0-9]+))?", part):
            start, stop = int(match[1]), int(match[2])
            hits = [s for s in schedule if start <= s <= stop]
            if match[3] is not None:
                hits = [s for s in hits if _on_stride(s, start, int(match[3]))]
            if not hits:
                raise UsageError(f"{whose}the range {part!r} holds no step of the suite's schedule")
            chosen.update(hits)
        else:
            raise UsageError(
                f"cannot read {part!r} in --steps; use all, log, last, numbers, or ranges such as 1000:143000:1000"
            )
    return tuple(sorted(chosen))


def _on_stride(step: int, start: int, stride: int) -> bool:
    if stride < 1:
        raise UsageError("the stride of a step range must be at least 1")
    return (step - start) % stride == 0


def _log_steps(schedule: tuple[int, ...]) -> set[int]:
    last = schedule[-1]
    powers = [0, *(2**k for k in range(last.bit_length()))]
    return {min(schedule, key=lambda s: abs(s - p)) for p in powers} | {last}


def _steps_in(folder: Path) -> list[int]:
    names = [child.name for child in folder.iterdir() if child.is_dir()]
    return sorted(int(match.group(1)) for name in names if (match := _STEP_FOLDER.fullmatch(name)))


def _folder_suite(folder: Path) -> SuiteSpec:
    steps = _steps_in(folder)
    if not steps:
        raise InputError(
            f"{folder} holds no step*/ folders; a suite is a folder of step<N>/ folders, "
            "each with config.json and weights"
        )
    counts = next((n for n in ("token_counts.npy", "token_counts.parquet") if (folder / n).is_file()), "corpus")
    return SuiteSpec(
        name=folder.resolve().name,
        steps=tuple(steps),
        revision="step{step}",
        path=folder.resolve(),
        repo=None,
        tokens_per_step=None,
        family=None,
        corpus="king-james",
        frequencies=counts,
        note="a folder of checkpoints",
        defects=(),
    )


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
