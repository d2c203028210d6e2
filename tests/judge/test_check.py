"""`rtdyn check`: what it finds, refuses and writes, on the bundled suite's own baseline and a small store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from click.testing import CliRunner, Result

from rtdyn.cli import main
from rtdyn.errors import InputError
from rtdyn.judge.baseline import COLUMNS, Baseline, Rule, baseline_of, read_baseline, write_baseline
from rtdyn.judge.check import Comparison, compare
from rtdyn.judge.tolerances import DEFAULT_RULES
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import Run, config_digest, open_run, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.views.terminal.findings import github_annotations, write_junit

TINY = read_baseline(Path(__file__).parents[1] / "baselines" / "tiny.json")
HELD_WIDER = (
    "ablation/error_bound_max/", "ablation/refined_share", "regimes/shape_p_value/", "mediation/mediation/"
)  # fmt: skip


def changed(baseline: Baseline, step: int, name: str, **columns: float | None) -> Baseline:
    """The baseline with columns of one row replaced, or removed where None."""
    row = {**baseline.rows[step][name], **columns}
    row = {key: value for key, value in row.items() if value is not None}
    return replace(baseline, rows={**baseline.rows, step: {**baseline.rows[step], name: row}})


def every_number(*columns: str) -> list[tuple[int, str, str, float]]:
    return [
        (step, name, column, row[column])
        for step, rows in TINY.rows.items()
        for name, row in rows.items()
        for column in columns
        if column in row
    ]


def planted(step: int, name: str, column: str, value: float) -> Comparison:
    """One row of TINY against the same row with one column changed."""
    row = replace(TINY, rows={step: {name: TINY.rows[step][name]}})
    return compare(row, changed(row, step, name, **{column: value}))


def test_a_run_equals_itself() -> None:
    same = compare(TINY, TINY)
    assert same.findings == () and same.notes == ()
    assert len(same.rows) == sum(len(rows) for rows in TINY.rows.values())
    assert sum(same.held.values()) == len(every_number(*COLUMNS))


def test_one_percent_more_or_less_of_any_tracked_value_is_found() -> None:
    tracked = [n for n in every_number("value") if not n[1].startswith(HELD_WIDER)]
    for step, name, column, number in tracked:
        for factor in (0.99, 1.01):
            value = number * factor if number else 0.01
            (found,) = planted(step, name, column, value).findings
            assert (found.change, found.step, found.metric, found.column) == ("moved", step, name, column)
            assert (found.baseline, found.value) == (number, value)
    assert len({name for _, name, _, _ in tracked}) == 558


def test_one_percent_of_a_null_an_interval_or_a_count_is_found() -> None:
    numbers = [n for n in every_number("null_mean", "null_sd", "ci_low", "ci_high", "n") if n[3] and not of_ties(*n)]
    assert len(numbers) > 2000
    for step, name, column, number in numbers[::3]:
        (found,) = planted(step, name, column, number * 1.01).findings
        assert found.column == column


def of_ties(step: int, name: str, column: str, number: float) -> bool:
    """Whether the number moves with the processor, since neurons whose influences nearly tie change places."""
    nulls_of_mediation = name.startswith("mediation/mediation/") and column.startswith("null")
    return nulls_of_mediation or (name.endswith("@selected") and column == "null_sd")


def test_a_tenth_of_a_null_of_sets_that_nearly_tie_is_found_and_a_fiftieth_is_not() -> None:
    numbers = [n for n in every_number("null_sd") if n[1].endswith("@selected") and not n[1].startswith(HELD_WIDER)]
    numbers = [n for n in numbers if n[3]]
    assert len(numbers) > 100
    for step, name, column, number in numbers[::3]:
        assert len(planted(step, name, column, number * 1.1).findings) == 1
        assert planted(step, name, column, number * 1.02).findings == ()


@pytest.mark.parametrize(("p", "findings"), [(0.32, 0), (0.34, 1)])
def test_a_p_of_both_tails_may_move_by_one_rank_of_99(p: float, findings: int) -> None:
    name = "modularity/correlation_within/rare/boost@selected"
    one = replace(TINY, rows={512: {name: {"p_value": 0.3}}})
    assert len(compare(one, changed(one, 512, name, p_value=p)).findings) == findings


def test_what_the_default_tolerances_do_not_hold_to_one_percent_is_counted_and_named() -> None:
    held = compare(TINY, TINY).held
    wider = [n for n in every_number("value") if n[1].startswith(HELD_WIDER)]
    assert set(held) == {"tight", "close"} and held["close"] <= len(wider) + len(every_number("p_value")) + sum(
        of_ties(*n) for n in every_number("null_mean", "null_sd")
    )
    assert all(rule.why for rule in DEFAULT_RULES)
    assert TINY.rules == DEFAULT_RULES, "write tests/baselines/tiny.json anew, with the default tolerances"


@pytest.mark.parametrize("name", ["regimes/shape_p_value/rare@shape", "layers/shape_p_value/rare/L-2@shape"])
def test_a_rank_among_999_draws_may_move_by_one_in_every_layer(name: str) -> None:
    one = replace(TINY, rows={0: {name: {"value": 0.1}}})
    for value, findings in ((0.101, 0), (0.103, 1)):
        assert len(compare(one, changed(one, 0, name, value=value)).findings) == findings


def test_rows_and_steps_that_come_or_go_are_findings() -> None:
    name = "capture/loss/all"
    fewer = {n: row for n, row in TINY.rows[512].items() if n != name}
    without = replace(TINY, rows={**TINY.rows, 512: fewer})
    assert [(f.change, f.metric) for f in compare(TINY, without).findings] == [("missing", name)]
    assert [(f.change, f.metric) for f in compare(without, TINY).findings] == [("new", name)]
    shorter = replace(TINY, rows={s: rows for s, rows in TINY.rows.items() if s != 512})
    assert [(f.change, f.step) for f in compare(TINY, shorter).findings] == [("missing step", 512)]
    assert [(f.change, f.step) for f in compare(shorter, TINY).findings] == [("new step", 512)]


def test_what_becomes_undefined_or_defined_is_a_finding_with_the_reason() -> None:
    name, why = "ablation/boosting_neurons/rare", "too few positions"
    without = changed(TINY, 0, name, value=None)
    without.rows[0][name]["reason"] = why
    (lost,) = compare(TINY, without).findings
    assert lost.change == "undefined" and why in lost.why and lost.value is None
    (won,) = compare(without, TINY).findings
    assert won.change == "defined" and why in won.why and won.baseline is None


@pytest.mark.parametrize(
    ("rule", "passes", "fails"),
    [
        (Rule("*", "exact"), (2.0,), (2.0 + 1e-15, 1.9)),
        (Rule("*", "close", absolute=0.5), (1.5, 2.5), (1.4, 2.6, float("nan"))),
        (Rule("*", "close", relative=0.25), (1.5, 2.5), (1.4, 2.6)),
        (Rule("*", "close", relative=0.01, absolute=0.5), (1.5, 2.5), (1.4, 2.6)),
        (Rule("*", "bounds", low=0.0), (0.0, 100.0), (-0.1,)),
        (Rule("*", "bounds", low=0.0, high=5.0), (0.0, 5.0), (-0.1, 5.1)),
        (Rule("*", "interval", ("value",)), (1.0, 4.0), (0.9, 4.1)),
        (Rule("*", "ignore"), (-1e9, 1e9), ()),
    ],
)
def test_each_kind_of_tolerance_holds_what_it_says(
    rule: Rule, passes: tuple[float, ...], fails: tuple[float, ...]
) -> None:
    row = {"value": 2.0, "ci_low": 1.0, "ci_high": 4.0}
    one = replace(TINY, rules=(rule, Rule("*", "ignore")), rows={0: {"a/b": row}})
    for value in (*passes, *fails):
        findings = compare(one, changed(one, 0, "a/b", value=value)).findings
        assert len(findings) == (value in fails or value != value), (value, findings)


def test_the_first_tolerance_that_applies_decides() -> None:
    rules = (Rule("*", "interval"), Rule("a/*", "close", absolute=1.0), Rule("*", "exact"))
    one = replace(TINY, rules=rules, rows={0: {"a/b": {"value": 2.0}, "c/d": {"value": 2.0}}})
    assert compare(one, changed(one, 0, "a/b", value=3.0)).findings == ()
    assert len(compare(one, changed(one, 0, "c/d", value=3.0)).findings) == 1


def test_a_number_without_a_tolerance_is_a_finding() -> None:
    one = replace(TINY, rules=(Rule("other/*", "exact"),), rows={0: {"a/b": {"value": 2.0}}})
    (found,) = compare(one, one).findings
    assert found.change == "no rule" and "add one" in found.why


def test_other_settings_are_refused_by_name_and_another_version_or_folder_is_not() -> None:
    with pytest.raises(InputError, match=r"other settings: seed 0 → 7; check .*--update"):
        compare(TINY, replace(TINY, config={**TINY.config, "seed": 7}))
    with pytest.raises(InputError, match="suite"):
        compare(TINY, replace(TINY, config={**TINY.config, "suite": "mine"}))
    elsewhere = replace(TINY, config={**TINY.config, "rtdyn": "9.9", "location": "/elsewhere"})
    assert compare(TINY, elsewhere).findings == ()


def test_other_weights_versions_and_idle_tolerances_are_noted() -> None:
    idle = Rule("typo/*", "exact")
    now = replace(TINY, weights={**TINY.weights, 512: "other"}, versions={**TINY.versions, "torch": "0.1"})
    notes = compare(replace(TINY, rules=(idle, *TINY.rules)), now).notes
    assert len(notes) == 3
    assert "step 512" in notes[0] and notes[1].startswith("torch 0.1") and "typo/*" in notes[2]


def test_the_farthest_beyond_its_tolerance_comes_first() -> None:
    now = changed(TINY, 0, "capture/loss/all", value=TINY.rows[0]["capture/loss/all"]["value"] * 1.01)
    now = changed(now, 512, "capture/loss/all", value=TINY.rows[512]["capture/loss/all"]["value"] * 1.5)
    assert [f.step for f in compare(TINY, now).findings] == [512, 0]


SHAPE = Metric("regimes", "shape_statistic", 0.4, token_class="rare", null_mean=0.1, null_sd=0.2, p_value=0.3)
ROWS = [
    Metric("capture", "loss", 2.5, token_class="all", ci_low=2.0, ci_high=3.0, n=40),
    replace(SHAPE, null="pareto"),
    replace(SHAPE, null="normal"),
    Metric("regimes", "kappa", None, token_class="rare", reason="too few neurons"),
    Metric("routing", "gini", 0.2, token_class="rare", layer=1, head=3),
]


def stored(path: Path, rows: list[Metric] = ROWS, steps: tuple[int, ...] = (0, 8), seed: int = 0) -> Run:
    """A run directory with the same rows at every step."""
    config = {"suite": "mine", "location": str(path), "rtdyn": "1", "seed": seed, "device": "cpu"}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="mine", config=config, config_digest=config_digest(config))
    run = open_run(path, manifest.replace(versions={"rtdyn": "1"}))
    for step in steps:
        checkpoint = CheckpointRecord(revision=f"step{step}", commit=None, digests={"model.safetensors": "0" * 64})
        plain = pl.DataFrame({"step": [step]})
        write_step(run, step, checkpoint, StepTables(metric_frame(rows, step, None), plain, plain))
    return run


def check(run: Path, baseline: Path, *options: str | Path) -> Result:
    arguments = ["check", run, "--baseline", baseline, *options]
    result = CliRunner().invoke(main, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A run and the baseline written from it."""
    stored(tmp_path / "run")
    result = check(tmp_path / "run", tmp_path / "baseline.json", "--update")
    assert result.exit_code == 0 and "wrote" in result.output, result.output
    return tmp_path / "run", tmp_path / "baseline.json"


def test_a_run_passes_its_own_baseline_and_a_moved_number_fails(place: tuple[Path, Path], tmp_path: Path) -> None:
    run, baseline = place
    same = check(run, baseline)
    assert same.exit_code == 0 and "10 rows" in same.stdout and "no findings" in same.stdout
    moved = stored(tmp_path / "moved", [replace(ROWS[0], value=2.525), *ROWS[1:]])
    result = check(moved.path, baseline)
    assert result.exit_code == 1
    assert "2 findings" in result.stdout and "capture/loss/all" in result.stdout and "2.525" in result.stdout
    assert "may move by 0.0075" in result.stdout


def test_rows_of_several_nulls_and_heads_have_names_of_their_own(place: tuple[Path, Path]) -> None:
    assert list(read_baseline(place[1]).rows[8]) == [
        "capture/loss/all",
        "regimes/shape_statistic/rare@pareto",
        "regimes/shape_statistic/rare@normal",
        "regimes/kappa/rare",
        "routing/gini/rare/L-1H3",
    ]


def test_writing_and_reading_gives_the_same_baseline(tmp_path: Path) -> None:
    rules = (
        Rule("a/*", "bounds", low=0.0, why="because"),
        Rule("b", "interval", ("value",)),
        Rule("c", "close"),
        *DEFAULT_RULES,
    )
    baseline = baseline_of(stored(tmp_path / "run"), rules)
    write_baseline(tmp_path / "file.json", baseline)
    assert read_baseline(tmp_path / "file.json") == baseline


def test_an_update_keeps_the_tolerances_and_takes_numbers_and_settings(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    _, baseline = place
    data = json.loads(baseline.read_text())
    data["tolerances"] = [{"metric": "*", "kind": "bounds", "low": 0, "high": 100, "why": "mine"}]
    baseline.write_text(json.dumps(data))
    other = stored(tmp_path / "other", [replace(ROWS[0], value=50.0, ci_high=60.0), *ROWS[1:]], seed=3)
    assert check(other.path, baseline).exit_code == 3
    assert check(other.path, baseline, "--update").exit_code == 0
    now = read_baseline(baseline)
    assert now.rules == (Rule("*", "bounds", low=0.0, high=100.0, why="mine"),)
    assert now.config["seed"] == 3 and now.rows[0]["capture/loss/all"]["value"] == 50.0
    beyond = stored(tmp_path / "beyond", [replace(ROWS[0], value=500.0), *ROWS[1:]], seed=3)
    result = check(beyond.path, baseline, "--update")
    assert result.exit_code == 1 and "must lie in 0 to 100" in result.stdout


def test_junit_has_a_case_for_each_row_and_the_findings_in_it(place: tuple[Path, Path], tmp_path: Path) -> None:
    _, baseline = place
    moved = stored(tmp_path / "moved", [replace(ROWS[0], value=2.6, ci_low=2.2), *ROWS[1:]], steps=(0,))
    assert check(moved.path, baseline, "--junit", tmp_path / "junit.xml").exit_code == 1
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    cases = root.findall("./testsuite/testcase")
    assert root.get("tests") == str(len(cases)) == "6" and root.get("failures") == "2"
    failed = {
        (c.get("classname"), c.get("name")): c.findtext("failure") for c in cases if c.find("failure") is not None
    }
    assert set(failed) == {("mine.step0", "capture/loss/all"), ("mine.step8", "the whole step")}
    assert "value: 2.5 → 2.6" in failed["mine.step0", "capture/loss/all"]
    assert "ci_low" in failed["mine.step0", "capture/loss/all"]


def test_github_gets_an_escaped_error_for_each_finding(place: tuple[Path, Path], tmp_path: Path) -> None:
    _, baseline = place
    moved = stored(
        tmp_path / "moved", [replace(ROWS[0], value=2.6), *ROWS[1:3], replace(ROWS[3], reason="5 %\nof 8"), ROWS[4]]
    )
    result = check(moved.path, baseline, "--github", "--show", "1")
    lines = [line for line in result.stdout.splitlines() if line.startswith("::")]
    assert len(lines) == 2 and lines[0].startswith("::error title=step 0 capture/loss/all,file=")
    assert lines[0].count("::") == 2 and "1 more finding" in lines[1] and "1 more" in result.stdout
    assert not [line for line in check(place[0], baseline, "--github").stdout.splitlines() if line.startswith("::")]
    strange = compare(TINY, changed(TINY, 0, "capture/loss/all", value=1.0))
    strange = replace(strange, findings=(replace(strange.findings[0], metric="a:b,c%", why="x\ny"),))
    (line,) = github_annotations(strange, Path("a,b.json"), 0)
    assert "title=step 0 a%3Ab%2Cc%25,file=a%2Cb.json::" in line and "x%0Ay" in line


def test_junit_takes_any_text(tmp_path: Path) -> None:
    found = compare(TINY, changed(TINY, 0, "capture/loss/all", value=1.0))
    strange = Comparison("<s>\x00", (replace(found.findings[0], why="\x1b[0m & <x>"),), found.rows, {}, ())
    write_junit(strange, tmp_path / "junit.xml")
    assert "& <x>" in (ElementTree.parse(tmp_path / "junit.xml").getroot().findtext(".//failure") or "")


MALFORMED = [
    ("", "cannot be read"),
    ("[]", "schema None"),
    ('{"schema_version": 9}', "schema 9"),
    ('{"schema_version": 1}', "suite"),
]


@pytest.mark.parametrize(("text", "words"), MALFORMED)
def test_a_malformed_baseline_is_refused(place: tuple[Path, Path], text: str, words: str) -> None:
    place[1].write_text(text)
    for options in ((), ("--update",)):
        result = check(*place, *options)
        assert result.exit_code == 3 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert place[1].read_text() == text


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"metric": "*", "kind": "near"}, "one of exact, close"),
        ({"kind": "exact"}, "`metric`"),
        ({"metric": "*", "kind": "close"}, "needs absolute or relative"),
        ({"metric": "*", "kind": "close", "relative": -1}, "not negative"),
        ({"metric": "*", "kind": "close", "relative": float("nan")}, "finite"),
        ({"metric": "*", "kind": "close", "relative": "1"}, "finite"),
        ({"metric": "*", "kind": "exact", "relative": 1}, "'relative' is no setting"),
        ({"metric": "*", "kind": "bounds", "low": 2, "high": 1}, "low is not above high"),
        ({"metric": "*", "kind": "exact", "columns": ["mean"]}, "`columns` lists"),
        ("exact", "mend it"),
    ],
)
def test_a_malformed_tolerance_is_refused(place: tuple[Path, Path], entry: Any, words: str) -> None:
    data = json.loads(place[1].read_text())
    data["tolerances"].insert(1, entry)
    place[1].write_text(json.dumps(data))
    result = check(*place)
    assert result.exit_code == 3 and words in result.stderr and len(result.stderr.splitlines()) == 1


def test_what_is_not_there_is_refused(place: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, words in (
        ((place[0], tmp_path / "none.json"), "--update"),
        ((tmp_path / "none", place[1]), "not an rtdyn run"),
        ((place[0], tmp_path / "none" / "file.json", "--update"), "no folder"),
    ):
        result = check(*arguments)
        assert result.exit_code == 3 and words in result.stderr and len(result.stderr.splitlines()) == 1
