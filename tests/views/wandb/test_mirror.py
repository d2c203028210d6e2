"""The W&B view with the real client: what it writes, how it resumes, and what a server that fails costs."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import wandb
from click.testing import CliRunner
from loopback.wandb import Server, serving
from polars.testing import assert_frame_equal
from support.processes import Process
from support.synthetic import synthetic_run
from support.wandb_runs import (
    HANGING,
    KEY,
    LAST,
    LATER,
    LIGHT,
    OUTAGE,
    OUTAGES,
    STEPS,
    Outcome,
    Workspace,
    environment,
    logged_steps,
    outage,
    rows,
    sessions,
    stored_row,
    values,
    without_own,
)

from rtdyn.cli import main
from rtdyn.errors import InputError
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.store.run import Run, done_steps, locked, read_run, table_file, tables_of
from rtdyn.store.schema import TABLES
from rtdyn.views.wandb.mirror import TIMEOUTS, choose_mode, start_wandb, sync
from rtdyn.views.wandb.overlay import overlays
from rtdyn.views.wandb.rows import CONSTANTS, TOP_NEURONS, grouping, settings_of


@pytest.fixture(scope="module")
def outcomes(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every command of these tests, run side by side."""
    folder = tmp_path_factory.mktemp("runs")

    def resumed() -> tuple[Outcome, Outcome]:
        place = Workspace(folder / "offline")
        first = place.track("--wandb", "offline")
        shutil.copytree(place.out, folder / "stored", ignore=shutil.ignore_patterns("wandb"))
        return first, place.track(steps=(*STEPS, LATER))

    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        offline = pool.submit(resumed)
        spared = partial(Workspace(folder / "disabled").track, *LIGHT, steps=LAST, client=False)
        others = {"disabled": pool.submit(spared, "--wandb", "disabled")}
        for kind in OUTAGES:
            url = stack.enter_context(outage(kind))
            settings = {"WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "2", "WANDB_BASE_URL": url}
            others[kind] = pool.submit(partial(Workspace(folder / kind).track, *LIGHT, steps=LAST, **settings))
        first, second = offline.result()
        return {"offline": first, "resumed": second, **{name: future.result() for name, future in others.items()}}


@pytest.fixture
def store(outcomes: dict[str, Outcome], tmp_path: Path) -> Run:
    """A finished run that W&B has not seen."""
    shutil.copytree(outcomes["offline"].out.parents[1] / "stored", tmp_path / "store")
    return read_run(tmp_path / "store")


def mirror(run: Run, mode: str) -> list[str]:
    """Brings W&B up to the store, as a resumed command does; returns what it had to say."""
    said: list[str] = []
    view = start_wandb(run, mode, said.append, report=False)
    view.finish()
    return said


def test_offline_run_holds_every_stored_metric_once(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["offline"]
    assert outcome.code == 0, outcome.text
    run, written = read_run(outcome.out), rows(sessions(outcome.out)[0])
    assert [row["step"] for row in written] == list(STEPS)
    for row in written:
        assert without_own(row) == stored_row(run, row["step"])
    assert {"capture/loss/all", "capture/loss/rare", "ablation/influence_mean/common"} <= set(written[-1])
    assert written[-1]["tokens_seen"] > written[0]["tokens_seen"] == 0


def test_offline_run_carries_the_manifest(outcomes: dict[str, Outcome]) -> None:
    run = read_run(outcomes["offline"].out)
    (begun,) = [record.run for record in sessions(run.path)[0] if record.HasField("run")]
    assert begun.run_id == run.manifest.wandb_id
    stands = grouping(run.manifest)
    assert (begun.project, begun.display_name, begun.job_type) == ("rtdyn", "tiny", "track")
    assert (begun.run_group, list(begun.tags)) == (stands.group, ["tiny", "cpu"])
    config = values(begun.config.update)
    config.pop("_wandb", None)
    recorded = run.manifest.as_json()
    shared = {key: recorded[key] for key in ("config_digest", "evaluation", "classes", "versions")}
    assert run.manifest.evaluation is not None
    assert run.manifest.frequencies is not None
    names = {"corpus": run.manifest.evaluation.corpus, "frequencies": run.manifest.frequencies.source}
    digests = {"digests": {key: run.manifest.config[key] for key in names}}
    assert config == {**run.manifest.config, **shared, **names, **digests, "family": "tiny", "size": None}


def test_two_designs_of_a_suite_are_told_apart(outcomes: dict[str, Outcome]) -> None:
    manifest = read_run(outcomes["offline"].out).manifest
    for design in ("own", "paper"):
        of = manifest.replace(design=design, group="tiny-1")
        stands = grouping(of)
        assert (stands.name, stands.group, stands.tags[-1]) == (f"tiny {design}", "tiny-1", design)
        assert settings_of(of)["design"] == design
    assert grouping(manifest).name == "tiny" and "design" not in settings_of(manifest)


def test_step_is_the_step_metric_of_everything(outcomes: dict[str, Outcome]) -> None:
    for session in sessions(outcomes["offline"].out):
        defined = [record.metric for record in session if record.HasField("metric")]
        by_name = {metric.name or metric.glob_name: metric for metric in defined}
        prefixes = {"capture/*", "groups/*", "ablation/*", "regimes/*", "band/*"}
        assert set(by_name) == {"step", "tokens_seen", "log2_step", "report/steps", *CONSTANTS, *prefixes}
        assert {by_name[name].step_metric for name in prefixes | {"tokens_seen"}} == {"step"}
        shown = {name for name, metric in by_name.items() if not metric.options.hidden}
        assert shown == (prefixes | {"tokens_seen"}) - {"band/*"}


def test_resuming_sends_only_the_new_steps_to_the_same_run(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["resumed"]
    assert outcome.code == 0, outcome.text
    first, second = sessions(outcome.out)
    assert logged_steps(first) == list(STEPS)
    assert logged_steps(second) == [LATER]
    run = read_run(outcome.out)
    assert without_own(rows(second)[0]) == stored_row(run, LATER)
    ids = {record.run.run_id for session in (first, second) for record in session if record.HasField("run")}
    assert ids == {run.manifest.wandb_id}
    numbers = [row["_step"] for session in (first, second) for row in rows(session)]
    assert numbers == [0, 1, 2], "rows of one number replace each other when both parts are synced"


def test_what_a_killed_run_may_have_lost_is_sent_again(home: Path, store: Run) -> None:
    with Process(["-c", HANGING, store.path], env=environment(home)) as process:
        assert process.stdout.readline() == "sent\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert mirror(store, "offline") == []
    assert logged_steps(sessions(store.path)[1]) == list(STEPS)
    assert json.loads((store.path / "wandb" / "logged.json").read_text()) == list(STEPS)


def test_step_that_was_not_noted_as_sent_is_sent(home: Path, store: Run) -> None:
    assert mirror(store, "offline") == []
    file = store.path / "wandb" / "logged.json"
    assert json.loads(file.read_text()) == list(STEPS)
    file.write_text(json.dumps([4000]))
    assert mirror(store, "offline") == []
    assert [logged_steps(session) for session in sessions(store.path)] == [list(STEPS), [0]]
    assert json.loads(file.read_text()) == list(STEPS)
    assert mirror(store, "offline") == []
    assert logged_steps(sessions(store.path)[-1]) == []


def test_run_that_the_process_has_open_is_left_alone(home: Path, store: Run) -> None:
    with wandb.init(mode="offline", dir=home) as own:
        assert mirror(store, "offline") == []
        own.log({"mine": 1})
    (theirs,) = sessions(home)
    assert [set(without_own(row)) for row in rows(theirs)] == [{"mine"}]
    assert [logged_steps(session) for session in sessions(store.path)] == [list(STEPS)]


def test_disabled_never_loads_the_client(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["disabled"]
    assert outcome.code == 0, outcome.text
    assert list(done_steps(read_run(outcome.out))) == list(LAST)
    assert not (outcome.out / "wandb").exists()
    assert outcome.mentions == []


@pytest.mark.parametrize("kind", OUTAGES)
def test_server_that_is_down_costs_a_notice(outcomes: dict[str, Outcome], kind: str) -> None:
    outcome, spared = outcomes[kind], outcomes["disabled"]
    assert outcome.code == 0, outcome.text
    assert len(outcome.mentions) == 1, outcome.text
    assert outcome.mentions[0].startswith("W&B stopped: ")
    assert len(outcome.text.splitlines()) == len(spared.text.splitlines()) + 1, outcome.text
    run, reference = read_run(outcome.out), read_run(spared.out)
    assert list(done_steps(run)) == list(LAST)
    for step in LAST:
        for table in TABLES:
            ours, theirs = (pl.read_parquet(table_file(r, table, step)) for r in (run, reference))
            assert_frame_equal(ours, theirs, check_exact=True)
    assert outcome.seconds < 2 * spared.seconds + 60


@pytest.mark.parametrize("kind", OUTAGES)
def test_waiting_for_a_server_is_bounded(home: Path, store: Run, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    assert 0 < sum(TIMEOUTS.values()) <= 60
    monkeypatch.setitem(TIMEOUTS, "init_timeout", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with outage(kind) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        began = time.monotonic()
        assert len(mirror(store, choose_mode(None))) == 1
        wandb.teardown()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", OUTAGES)
def test_what_a_dead_server_did_not_take_is_sent_next_time(
    outcomes: dict[str, Outcome], kind: str, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(outcomes[kind].out, tmp_path / "store")
    run = read_run(tmp_path / "store")
    assert not (run.path / "wandb" / "logged.json").exists()
    assert mirror(run, "offline") == []
    assert [logged_steps(session) for session in sessions(run.path)] == [[], list(LAST)]


def test_online_without_a_key_asks_nothing(home: Path, store: Run) -> None:
    (notice,) = mirror(store, "online")
    assert "no API key" in notice


def test_online_run_resumes_on_the_server(home: Path, store: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    later = [table_file(store, table, 0) for table in TABLES]
    for file in later:
        file.rename(file.with_suffix(".later"))
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert mirror(store, "online") == []
        assert [row["step"] for row in server.rows.values()] == [4000]
        for file in later:
            file.with_suffix(".later").rename(file)
        assert mirror(store, "online") == []
    assert [row["step"] for row in server.rows.values()] == [4000, 0]
    assert [row["_step"] for row in server.rows.values()] == [0, 1]
    for row in server.rows.values():
        assert without_own(row) == stored_row(store, row["step"])
    assert list(server.runs) == [store.manifest.wandb_id]
    config = json.loads(server.runs[store.manifest.wandb_id]["config"])
    named = {key: config[key]["value"] for key in store.manifest.config if key not in ("corpus", "frequencies")}
    assert named.items() <= store.manifest.config.items()
    assert server.keys == {KEY}


def synced(run: Run, report: bool = False) -> str:
    said: list[str] = []
    sync(run.path, said.append, report)
    wandb.teardown()
    (line,) = said
    return line


def whole_history(server: Server, store: Run) -> None:
    """The server's rows are the store's steps, each once and numbered in the order of arrival."""
    written = list(server.rows.values())
    assert sorted(row["step"] for row in written) == list(done_steps(store))
    assert [row["_step"] for row in written] == list(range(len(written)))
    for row in written:
        assert without_own(row) == stored_row(store, row["step"])
    assert list(server.runs) == [store.manifest.wandb_id]


def test_sync_sends_an_offline_run_and_no_step_twice(online: Server, store: Run) -> None:
    assert mirror(store, "offline") == []
    assert synced(store).startswith("2 of 2 steps sent, 0 were there already: http://")
    whole_history(online, store)
    before = {name: set(versions) for name, versions in online.artifacts.items()}
    assert synced(store).startswith("0 of 2 steps sent, 2 were there already")
    whole_history(online, store)
    assert {name: set(versions) for name, versions in online.artifacts.items()} == before


def test_sync_finds_what_another_machine_sent(online: Server, store: Run, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "elsewhere")
    table_file(store, "windows", 0).rename(tmp_path / "later")
    assert synced(store).startswith("1 of 1 step sent")
    assert synced(read_run(tmp_path / "elsewhere")).startswith("1 of 2 steps sent, 1 were there already")
    assert [row["step"] for row in online.rows.values()] == [4000, 0]
    whole_history(online, read_run(tmp_path / "elsewhere"))


def test_the_artifact_is_a_run_whose_bytes_are_those_of_the_store(online: Server, store: Run, tmp_path: Path) -> None:
    synced(store)
    (files,) = online.artifacts[f"{store.manifest.wandb_id}-store"].values()
    assert set(files) == {"manifest.json", *(f"{t}/step={s:06d}.parquet" for t in tables_of(store) for s in STEPS)}
    assert all(content == (store.path / name).read_bytes() for name, content in files.items())
    for name, content in files.items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    assert done_steps(read_run(tmp_path / "fetched")) == done_steps(store)


@pytest.mark.slow
def test_a_server_without_artifacts_gets_the_lines(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(synthetic_run(tmp_path / "run", 4, 60))
    with serving(artifacts=False) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        (said,) = mirror(run, "online")
        wandb.teardown()
    assert said.startswith("W&B gets the run's lines and none of its tables and files: ")
    assert [row["step"] for row in server.rows.values()] == [0, 1, 2, 4]
    assert {"capture/loss/rare", "log2_step"} <= set(server.rows[3])
    assert server.artifacts == {}


@pytest.mark.slow
def test_a_whole_run_has_rare_over_common_and_its_verdicts(home: Path, tmp_path: Path) -> None:
    """The charts come with the row of the last step, and the verdicts stand in the summary."""
    run = read_run(synthetic_run(tmp_path / "run", 5, 60, left_out={2: "it repeats step 1"}))
    assert mirror(run, "offline") == []
    (session,) = sessions(run.path)
    *before, last = rows(session)
    assert not [key for row in before for key in row if key.startswith("overlay/")]
    drawn = {key.partition("_table")[0] for key in last if key.startswith("overlay/")}
    assert {"overlay/loss", "overlay/influence-max"} <= drawn
    chart = overlays(pl.concat([pl.read_parquet(table_file(run, "metrics", s)) for s in (0, 1, 4, 8)]))["overlay/loss"]
    assert list(chart.lines) == [c + end for c in ("rare", "common") for end in ("", ", 95 % from", ", 95 % to")]
    x, y = chart.lines["rare, 95 % to"]
    assert x == pytest.approx([0, 1, math.log2(5), math.log2(9)])
    assert y == pytest.approx([9.1 - 0.5 * math.log1p(step) for step in (0, 1, 4, 8)])
    summaries = [values(record.summary.update) for record in session if record.HasField("summary")]
    said = {key: value for summary in summaries for key, value in summary.items() if key.startswith("claims/")}
    wanted = {row.claim: row.verdict for row in scorecard(read_judged(run.path)) if row.layer is None}
    assert {claim: said[f"claims/{claim}/verdict"] for claim in wanted} == wanted


@pytest.mark.slow
def test_the_summary_has_the_extremes_of_all_sound_steps(online: Server, tmp_path: Path) -> None:
    """Also of those that an earlier process sent, and of none that trajectories leave out."""
    run = read_run(synthetic_run(tmp_path / "run", 5, 60, left_out={0: "it is another's weights"}))
    later = table_file(run, "metrics", 8)
    later.rename(later.with_suffix(".later"))
    synced(run)
    assert online.summary["min/capture/loss/rare"] == pytest.approx(9 - 0.5 * math.log1p(4))
    later.with_suffix(".later").rename(later)
    synced(run)
    assert online.summary["min/capture/loss/rare"] == pytest.approx(9 - 0.5 * math.log1p(8))
    assert online.summary["max/capture/loss/rare"] == pytest.approx(9 - 0.5 * math.log1p(1))
    assert {key.partition("/")[2] for key in online.summary if key.startswith("max/")} == {
        f"{number}/{name}"
        for number in ("capture/loss", "ablation/influence_max", "ablation/influence_mean")
        for name in ("rare", "common")
    }


@pytest.mark.slow
def test_the_report_is_sent_once_for_as_many_steps(online: Server, tmp_path: Path) -> None:
    run = read_run(synthetic_run(tmp_path / "run", 4, 60))
    synced(run)
    assert "report/steps" not in online.summary, "it was to be left out"
    synced(run, report=True)
    (row,) = [row for row in online.rows.values() if "report/page" in row]
    assert (row["step"], row["report/steps"], row["_step"]) == (4, 4, 4)
    assert row["report/rank-influence"]["_type"] == "image-file" and row["report/page"]["_type"] == "html-file"
    content = online.uploads[f"/files/{row['report/page']['path']}"].decode()
    assert content.startswith("<!doctype html>") and "plotly.js" in content and content.endswith("</html>")
    assert len(online.rows) == 5
    synced(run, report=True)
    assert len(online.rows) == 5, "the server has it"
    assert [row["_step"] for row in online.rows.values()] == [0, 1, 2, 3, 4]


def test_each_step_has_a_table_of_its_top_neurons(online: Server, store: Run) -> None:
    synced(store)
    tables = [json.loads(body) for path, body in online.uploads.items() if "media/table/top_neurons" in path]
    assert len(tables) == len(STEPS)
    for step, table in zip(STEPS, sorted(tables, key=lambda t: t["data"][0][0]), strict=True):
        neurons = pl.read_parquet(table_file(store, "neurons", step)).sort("rank")
        assert table["columns"] == neurons.columns
        assert [row[neurons.columns.index("rank")] for row in table["data"]] == list(range(1, TOP_NEURONS + 1))
        assert table["data"][0] == list(neurons.row(0))
    assert {row["top_neurons"]["nrows"] for row in online.rows.values()} == {TOP_NEURONS}


@pytest.mark.slow
@pytest.mark.parametrize("analyses", ["ablation", "heavytail"])
def test_a_run_without_ranks_or_without_text_is_sent_too(home: Path, tmp_path: Path, analyses: str) -> None:
    few = ("--rare", "0.5:0.9", "--tokens", "8192", "--positions-per-rare", "1", "--tolerance", "1")
    out = ("--analyses", analyses, "--wandb", "offline", "--out", str(tmp_path / "run"))
    result = CliRunner().invoke(main, ["track", "--model", "tiny", "--steps", "4000", *few, *out])
    assert result.exit_code == 0 and "W&B stopped" not in result.output, result.output
    (session,) = sessions(tmp_path / "run")
    assert logged_steps(session) == [4000]


@pytest.mark.parametrize("sent_before", [0, 1])
def test_an_outage_in_the_middle_is_said_once_and_mended_by_sync(
    home: Path, store: Run, monkeypatch: pytest.MonkeyPatch, sent_before: int
) -> None:
    later = [table_file(store, table, STEPS[1]) for table in TABLES]
    for file in later:
        file.rename(file.with_suffix(".later"))
    with serving(dies=not sent_before) as server:
        variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_FINISH_TIMEOUT": "2"}
        with Process(["-c", OUTAGE, store.path], env={**environment(home), **variables}) as process:
            said = list(iter(process.stdout.readline, "begun\n"))
            server.errors = True
            for file in later:
                file.with_suffix(".later").rename(file)
            print("go on", file=process.stdin, flush=True)
            said += iter(process.stdout.readline, "ended\n")
            process.kill()
    (notice,) = said
    assert notice.startswith("W&B stopped: ") and f"`rtdyn sync {store.path}`" in notice and KEY not in notice
    had = len(server.rows)
    with serving() as revived:
        revived.runs, revived.rows = server.runs if had else {}, dict(server.rows)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", revived.url)
        assert synced(store).startswith(f"{2 - had} of 2 steps sent")
        whole_history(revived, store)


def test_sync_that_cannot_is_refused_in_one_sentence(home: Path, store: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no API key"):
        sync(store.path, print)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setitem(TIMEOUTS, "init_timeout", 1.0)
    with outage("refused") as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        with pytest.raises(InputError, match="W&B stopped") as refusal:
            sync(store.path, print)
    assert KEY not in str(refusal.value)
    with locked(store.path), pytest.raises(InputError, match="another process"):
        sync(store.path, print)
    with pytest.raises(InputError, match="not an rtdyn run"):
        sync(home, print)


def test_nothing_is_written_where_the_command_runs(outcomes: dict[str, Outcome]) -> None:
    assert {name: list(outcome.cwd.iterdir()) for name, outcome in outcomes.items()} == {name: [] for name in outcomes}


def test_client_prints_nothing_of_its_own(outcomes: dict[str, Outcome]) -> None:
    for name in ("offline", "resumed"):
        (line,) = outcomes[name].mentions
        out = outcomes[name].out
        assert line == f"W&B is offline: what it gets lies in {out / 'wandb'}; `rtdyn sync {out}` sends it"


@pytest.mark.parametrize("kind", OUTAGES)
def test_key_is_neither_printed_nor_stored(outcomes: dict[str, Outcome], kind: str) -> None:
    assert KEY not in outcomes[kind].text
    files = [file for file in outcomes[kind].out.rglob("*") if file.is_file()]
    assert {"manifest.json", "debug.log"} <= {file.name for file in files}
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_malformed_key_is_said_without_showing_it(home: Path, store: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY[:7])
    (notice,) = mirror(store, choose_mode(None))
    assert "WANDB_API_KEY" in notice
    assert KEY[:7] not in notice
