"""A baseline: a run's numbers in a file that is committed, with the rule that each of them is held to.

A number is one column of one row of metrics/. Its rule is the first of the file's `tolerances` whose `metric` (a
shell pattern over the row's name) and `columns` match; one of kind `interval` is passed over where the baseline has
no interval. Rules are data, for a maintainer to edit: updating a baseline keeps them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from rtdyn.errors import InputError
from rtdyn.files import replace_file
from rtdyn.store.metric_names import final_layer, metric_name
from rtdyn.store.run import Run, read_table

SCHEMA_VERSION = 1
COLUMNS = ("value", "null_mean", "null_sd", "p_value", "ci_low", "ci_high", "n")
Kind = Literal["exact", "close", "bounds", "interval", "ignore"]
"""`exact`: the same number. `close`: at most max(relative · |baseline|, absolute) away. `bounds`: from `low` to
`high`, wherever the baseline lies. `interval`: within the baseline's own ci_low and ci_high; for values only.
`ignore`: defined where the baseline is, and nothing more."""


@dataclass(frozen=True)
class Rule:
    """What a number is held to."""

    metric: str
    """Shell pattern over row names, such as `regimes/kappa/*`."""
    kind: Kind
    columns: tuple[str, ...] = COLUMNS
    relative: float = 0.0
    absolute: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    why: str = ""

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
            return -math.inf, math.inf
        room = max(self.relative * abs(number), self.absolute) if self.kind == "close" else 0.0
        return number - room, number + room


Rows = dict[int, dict[str, dict[str, Any]]]
"""By step, then by name: the columns that a row has numbers in, and the `reason` of one that has no value."""


@dataclass(frozen=True)
class Baseline:
    """What is held against a run."""

    suite: str
    config: dict[str, Any]
    versions: dict[str, str]
    weights: dict[int, str]
    """By step: a digest over the digests of the checkpoint's weight files."""
    rules: tuple[Rule, ...]
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
    named = {}
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
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no baseline {file}; `--update` writes one from the run") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a baseline; mend it, or delete it and write it anew") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{file} has baseline schema {version}; this rtdyn reads schema {SCHEMA_VERSION}")
    try:
        return Baseline(
            suite=data["suite"],
            config=dict(data["config"]),
            versions=dict(data["versions"]),
            weights={int(step): str(digest) for step, digest in data["weights"].items()},
            rules=tuple(_rule(entry, number, file) for number, entry in enumerate(data["tolerances"], start=1)),
            rows={int(step): {name: _row(row) for name, row in rows.items()} for step, rows in data["rows"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is not a baseline: {error!r}; mend it, or delete it and write it anew") from error


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: float(number) for key, number in row.items() if key != "reason"}
    if not set(numbers) <= set(COLUMNS) or not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"a row has finite numbers for some of {', '.join(COLUMNS)}, not {dict(row)}")
    return numbers | ({"reason": str(row["reason"])} if "reason" in row else {})


def _rule(entry: Mapping[str, Any], number: int, file: Path) -> Rule:
    """Raises InputError unless the entry says what to match and a kind with the settings that kind takes."""

    def refuse(what: str) -> InputError:
        return InputError(f"{file}, tolerance {number}: {what}")

    settings: dict[str, set[str]] = {"close": {"relative", "absolute"}, "bounds": {"low", "high"}}
    kind: Kind = entry.get("kind", "")
    if kind not in get_args(Kind) or not isinstance(entry.get("metric"), str):
        raise refuse(f"give `metric`, a pattern of names, and `kind`, one of {', '.join(get_args(Kind))}")
    own = settings.get(kind, set())
    unknown = set(entry) - {"metric", "kind", "columns", "why"} - own
    if unknown:
        raise refuse(f"{sorted(unknown)[0]!r} is no setting of kind {kind}")
    if own and not own & set(entry):
        raise refuse(f"kind {kind} needs {' or '.join(sorted(own))}")
    numbers = {key: entry[key] for key in own & set(entry)}
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in numbers.values()):
        raise refuse(f"{' and '.join(sorted(numbers))} must be finite numbers")
    rule = Rule(
        metric=entry["metric"],
        kind=kind,
        columns=tuple(entry.get("columns", ("value",) if kind == "interval" else COLUMNS)),
        why=str(entry.get("why", "")),
        **numbers,
    )
    if set(rule.columns) - set(COLUMNS) or not rule.columns:
        raise refuse(f"`columns` lists some of {', '.join(COLUMNS)}")
    if min(rule.relative, rule.absolute) < 0 or rule.low > rule.high:
        raise refuse("a tolerance is not negative, and low is not above high")
    return rule


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
