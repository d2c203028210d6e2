"""Every stored name has its definition, and docs/metrics.md and docs/cli.md are the ones that the code makes now."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rtdyn.names import DOMAINS, LAYERS
from rtdyn.store.definitions import COLUMNS, METRICS, define
from rtdyn.store.schema import CURVE_SCHEMA, DOMAIN_TABLES, METRIC_SCHEMA, TABLES

ROOT = Path(__file__).parents[2]
ONLY_GATED = {f"hill_alpha_{rule}_{matrix}" for rule in ("tenth", "half", "least_ks") for matrix in ("gate", "up")}
ONLY_GATED |= {f"farms_{of}_{m}" for of in ("hill_alpha_tenth", "hill_alpha_half", "ww_alpha") for m in ("gate", "up")}
ONLY_GATED |= {f"ww_{of}_{m}" for of in ("alpha", "alpha_weighted", "stable_rank", "entropy") for m in ("gate", "up")}


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / f"scripts/docs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored() -> dict[tuple[str, str], list[tuple[str | None, dict[str, Any]]]]:
    """By analysis and metric: each row's null and numbers, of all steps of the committed baseline."""
    rows = defaultdict(list)
    for step in json.loads((ROOT / "tests/baselines/tiny.json").read_text())["rows"].values():
        for name, numbers in step.items():
            row, _, null = name.partition("@")
            analysis, metric = row.split("/")[:2]
            rows[analysis, metric].append((null or None, numbers))
    return dict(rows)


def test_every_stored_metric_is_defined_with_its_nulls_and_interval(stored: dict[tuple[str, str], Any]) -> None:
    assert len(stored) > 100
    for (analysis, metric), rows in stored.items():
        definition = define(metric, METRICS[analysis])
        assert definition is not None, f"{analysis}/{metric} has no line in rtdyn/store/definitions.py"
        nulls = {null for null, _ in rows} - {None}
        assert nulls <= set(definition.nulls), f"{analysis}/{metric} is held against {nulls}"
        assert definition.interval or not any("ci_low" in numbers for _, numbers in rows), f"{analysis}/{metric}"


def test_no_definition_is_of_a_metric_that_nothing_stores(stored: dict[tuple[str, str], Any]) -> None:
    defined = {(analysis, name) for analysis, of in METRICS.items() for d in of for name in d.names}
    # of the layers, tests/tables/test_earlier_layers.py has the rows
    of_layers = {(LAYERS, name) for d in METRICS[LAYERS] for name in d.names}
    # of domains, tests/sweep/test_domains.py has them
    of_domains = {(DOMAINS, name) for d in METRICS[DOMAINS] for name in d.names}
    assert defined - set(stored) == {("heavytail", name) for name in ONLY_GATED} | of_layers | of_domains
    assert len(defined) == sum(len(d.names) for of in METRICS.values() for d in of), "a name is defined twice"


def test_every_column_of_the_tables_is_defined() -> None:
    assert set(COLUMNS) == {*TABLES, *DOMAIN_TABLES}
    for table, schema in (("metrics", METRIC_SCHEMA), ("curves", CURVE_SCHEMA)):
        assert [d.name for d in COLUMNS[table]] == list(schema)


def test_a_class_takes_its_place_in_a_column() -> None:
    assert define("delta_rare", COLUMNS["neurons"], ["rare"]) is not None
    assert define("rank", COLUMNS["neurons"]) is not None
    assert define("delta_rare", COLUMNS["neurons"], ["common"]) is None
    assert define("no_such_column", COLUMNS["neurons"], ["rare"]) is None


def test_the_metrics_page_is_current() -> None:
    module = script("write_metrics")
    assert module.PAGE.read_text() == module.page(), "run python scripts/docs/write_metrics.py"


def test_the_command_line_page_is_current() -> None:
    pinned = re.search(r"^click==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if version("click") != pinned[1]:
        pytest.skip(f"click {version('click')} may word its help otherwise than the pinned {pinned[1]}")
    module = script("write_cli")
    assert module.PAGE.read_text() == module.page(), "run python scripts/docs/write_cli.py"


@pytest.mark.slow
def test_the_page_of_the_calls_is_current() -> None:
    module = script("write_api")
    assert module.PAGE.read_text() == module.page(), "run python scripts/docs/write_api.py"
