"""A baseline: a run's numbers in a file that is committed, with the rule that each of them is held to.

A number is one column of one row of metrics/. Its rule is the first of the file's `tolerances` whose `metric` (a shell
pattern over the row's name) and `columns` match. One of kind `interval` is passed over where the baseline has no
interval. Rules are data, for a maintainer to edit: updating a baseline keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import polars as pl
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from rtdyn.blame import reading
from rtdyn.errors import InputError, first_fault
from rtdyn.files import replace_file
from rtdyn.git_lfs import refuse_pointer
from rtdyn.store.metric_names import final_layer, metric_name
from rtdyn.store.run import Run, read_table

SCHEMA_VERSION = 1
Column = Literal["value", "null_mean", "null_sd", "p_value", "ci_low", "ci_high", "n"]
COLUMNS: tuple[Column, ...] = get_args(Column)
Kind = Literal["exact", "close", "bounds", "interval", "ignore"]
"""`exact`: the same number. `close`: at most max(relative · |baseline|, absolute) away. `bounds`: from `low` to
`high`, wherever the baseline lies. `interval`: within the baseline's own ci_low and ci_high; for values only.
`ignore`: defined where the baseline is, and nothing more."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A setting as a file may give it."""


@dataclass(frozen=True)
class Rule:
    """What a number is held to."""

    metric: str
    """Shell pattern over row names, such as `regimes/kappa/*`."""
    kind: Kind
    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = COLUMNS
    relative: Number = 0.0
    absolute: Number = 0.0
    low: Number = -inf
    high: Number = inf
    why: str = ""

    def __post_init__(self) -> None:
        if min(self.relative, self.absolute) < 0 or self.low > self.high:
            raise ValueError("a tolerance is not negative, and low is not above high")

    def covers(self, name: str, column: str, row: Mapping[str, Any]) -> bool:
        """Whether the rule speaks of a column of the baseline's row `name`."""
        if column not in self.columns or not fnmatchcase(name, self.metric):
            return False
        return self.kind != "interval" or (column == "value" and None not in (row.get("ci_low"), row.get("ci_high")))

    def range(self, number: float, row: Mapping[str, Any]) -> tuple[float, float]:
        """The lowest and highest value that a number of the baseline's row may take."""
        if self.kind == "bounds":
            return self.low, self.high
        if self.kind == "interval":
            return row["ci_low"], row["ci_high"]
        if self.kind == "ignore":
            return -inf, inf
        room = max(self.relative * abs(number), self.absolute) if self.kind == "close" else 0.0
        return number - room, number + room


_SETTINGS = {"exact": (), "close": ("absolute", "relative"), "bounds": ("high", "low"), "interval": (), "ignore": ()}
_KINDS = ", ".join(_SETTINGS)
_ASKED = {
    **dict.fromkeys(("metric", "kind"), f"give `metric`, a pattern of names, and `kind`, one of {_KINDS}"),
    **{name: f"{name} must be finite numbers" for name in ("relative", "absolute", "low", "high")},
    "columns": f"`columns` lists some of {', '.join(COLUMNS)}",
}
"""What is said of a rule in a file, by the setting that is wrong."""


def _of_a_kind(entry: Any) -> Any:
    """A rule of a file: it has settings of its kind alone, at least one if there are any, and the kind's columns."""
    settings = _SETTINGS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if settings is None:
        return entry
    if unknown := sorted(entry.keys() - {"metric", "kind", "columns", "why", *settings}):
        raise ValueError(f"{unknown[0]!r} is no setting of kind {entry['kind']}")
    if settings and not entry.keys() & set(settings):
        raise ValueError(f"kind {entry['kind']} needs {' or '.join(settings)}")
    return {"columns": ("value",) if entry["kind"] == "interval" else COLUMNS, **entry}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    numbers = [number for key, number in row.items() if key != "reason"]
    if not row.keys() <= {*COLUMNS, "reason"} or not all(isinstance(n, float | int) and isfinite(n) for n in numbers):
        raise ValueError(f"a row has finite numbers for some of {', '.join(COLUMNS)}, not {row}")
    return row


Rows = dict[int, dict[str, Annotated[dict[str, Any], AfterValidator(_finite)]]]
"""By step, then by name: the columns that a row has numbers in, and the `reason` of one that has no value."""


@dataclass(frozen=True)
class Baseline:
    """What is held against a run."""

    suite: str
    config: dict[str, Any]
    versions: dict[str, str]
    weights: dict[int, str]
    """By step: a digest over the digests of the checkpoint's weight files."""
    rules: Annotated[tuple[Annotated[Rule, BeforeValidator(_of_a_kind)], ...], Field(alias="tolerances")]
    rows: Rows


def baseline_of(run: Run, rules: tuple[Rule, ...]) -> Baseline:
    """A run's stored numbers as a baseline. Raises InputError if no step is stored."""
    manifest = run.manifest
    weights = {
        step: sha256(json.dumps(record.digests, sort_keys=True).encode()).hexdigest()
        for step, record in manifest.checkpoints.items()
    }
    return Baseline(manifest.suite, manifest.config, manifest.versions, weights, rules, stored_rows(run))


def stored_rows(run: Run) -> Rows:
    """The numbers of every stored step. Raises InputError if there is none."""
    rows: Rows = {}
    for (step,), frame in read_table(run, "metrics").group_by("step", maintain_order=True):
        rows[int(str(step))] = _named(frame)
    return rows


def _named(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    records = frame.to_dicts()
    final = final_layer(records)
    named: dict[str, dict[str, Any]] = {}
    for record in records:
        name = metric_name(record, final) + ("" if record["null"] is None else f"@{record['null']}")
        if name in named:
            raise InputError(f"step {record['step']} holds two rows called {name}; a baseline cannot tell them apart")
        named[name] = {column: record[column] for column in COLUMNS if record[column] is not None}
        if record["value"] is None:
            named[name]["reason"] = record["reason"]
    return named


def read_baseline(file: Path) -> Baseline:
    """The baseline in `file`. Raises InputError that names what is wrong with it."""
    if not file.exists():
        raise InputError(f"there is no baseline {file}; `--update` writes one from the run")
    try:
        with reading(str(file)):
            refuse_pointer(file)
            data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as a baseline; mend it, or delete it and write it anew") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{file} has baseline schema {version}; this rtdyn reads schema {SCHEMA_VERSION}")
    try:
        return TypeAdapter(Baseline).validate_python(data)
    except ValidationError as error:
        raise InputError(_refusal(file, error)) from error


def _refusal(file: Path, error: ValidationError) -> str:
    match error.errors()[0]:
        case {"loc": ("tolerances", int(index), str(setting), *_)}:
            what = _ASKED[setting]
        case {"loc": ("tolerances", int(index)), "ctx": {"error": what}}:
            pass
        case _:
            return f"{file} is not a baseline: {first_fault(error)}; mend it, or delete it and write it anew"
    return f"{file}, tolerance {index + 1}: {what}"


def write_baseline(file: Path, baseline: Baseline) -> None:
    """Replaces `file`, one row of the store a line. Raises InputError if it cannot be written."""
    if not file.parent.is_dir():
        raise InputError(f"there is no folder {file.parent} to write the baseline to; make it first")
    head = {
        "schema_version": SCHEMA_VERSION,
        "suite": baseline.suite,
        "config": baseline.config,
        "versions": baseline.versions,
        "weights": baseline.weights,
    }
    steps = [
        f'  "{step}": {{\n'
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        + "\n  }"
        for step, rows in baseline.rows.items()
    ]
    rules = ",\n".join(f"  {json.dumps(_entry(rule))}" for rule in baseline.rules)
    opening = json.dumps(head, indent=1).removesuffix("\n}")
    text = f'{opening},\n "tolerances": [\n{rules}\n ],\n "rows": {{\n' + ",\n".join(steps) + "\n }\n}\n"
    replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def _entry(rule: Rule) -> dict[str, Any]:
    """A rule as it is written: without the settings that are left at their defaults."""
    plain = asdict(Rule("", rule.kind, columns=("value",) if rule.kind == "interval" else COLUMNS))
    kept = {key: value for key, value in asdict(rule).items() if key in ("metric", "kind") or value != plain[key]}
    if rule.kind == "close" and not {"relative", "absolute"} & set(kept):
        kept["absolute"] = 0.0
    return kept
