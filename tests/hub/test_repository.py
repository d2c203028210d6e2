"""Suites on a Hub, over real HTTP with the real client: a loopback server, its commands in processes of their own.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so nothing of it runs in the tests' own process.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import torch
import transformers
from click.testing import CliRunner
from loopback.hub import SIGNATURE, Fault, LoopbackHub
from loopback.place import TINY, TOKENIZER, Ended, Machine, copy_step, workplace
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from support.refusal import refusal

from rtdyn.cli import main
from rtdyn.store.run import done_steps, read_run, read_table
from rtdyn.store.schema import TABLES

STEPS = "0,512,4000"


def save_as_old_bin(step: int, folder: Path) -> None:
    """A step's weights as Pythia's first files hold them: pickled, with constants among them."""
    weights = load_file(TINY / f"step{step}" / "model.safetensors")
    for layer in range(3):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(256, 256).tril().bool()[None, None]
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.tensor([1.0, 0.01])
    assert "embed_out.weight" in weights
    torch.save(weights, folder / "pytorch_model.bin")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundled steps as a Hub repository may hold them; the tokenizer lies in main only."""
    suite = tmp_path_factory.mktemp("suite")
    for name in TOKENIZER:
        shutil.copy(TINY / name, suite)
    plain = copy_step(0, suite)
    for decoy in ("pytorch_model.bin", "optimizer.bin", "tf_model.h5", "README.md"):
        (plain / decoy).write_bytes(b"not to be fetched")
    save_as_old_bin(512, copy_step(512, suite, weights=False))
    sharded = copy_step(4000, suite, weights=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY / "step4000")
    model.save_pretrained(sharded, max_shard_size="300KB")
    return suite


@pytest.fixture(scope="module")
def hub(suite: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(suite) as hub:
        yield hub


@pytest.fixture(scope="module")
def closed_url(suite: Path) -> str:
    """Where no server listens."""
    with LoopbackHub(suite) as hub:
        return hub.url


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Machine:
    return workplace(tmp_path_factory.mktemp("place"), hub.url)


@pytest.fixture(scope="module")
def local(takes_long: None, place: Machine) -> dict[str, pl.DataFrame]:
    """The tables of the same steps from the bundled folder."""
    out = place.folder / "local"
    done = CliRunner().invoke(main, ["track", "--model", "tiny", "--steps", STEPS, *place.settings(out)])
    assert done.exit_code == 0, done.output
    return tables(out)


@pytest.fixture(scope="module")
def tracked(takes_long: None, place: Machine) -> Path:
    """A run of the suite on the Hub, into an empty cache."""
    ended = place.track("tracked", "on-hub", STEPS)
    assert ended.code == 0, ended.stderr
    return place.folder / "tracked"


def tables(out: Path) -> dict[str, pl.DataFrame]:
    run = read_run(out)
    return {table: read_table(run, table) for table in TABLES}


def assert_same(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> None:
    for table in TABLES:
        assert_frame_equal(left[table], right[table])


def assert_refused(ended: Ended, sentence: str) -> None:
    """That the command ended in one sentence."""
    assert ended.code == 3, ended.stderr
    assert sentence in refusal(ended.stderr)
    assert "Traceback" not in ended.stdout


# Step 0 is plain, 512 an old .bin and 4000 in shards, so one comparison covers all three.
def test_a_hub_suite_gives_the_tables_of_the_same_local_folder(tracked: Path, local: dict[str, pl.DataFrame]) -> None:
    assert local["metrics"].filter(pl.col("status") == "ok")["step"].unique().to_list() == [0, 512, 4000]
    assert_same(tables(tracked), local)


def test_the_manifest_says_which_bytes_were_read(tracked: Path, suite: Path, hub: LoopbackHub) -> None:
    checkpoints = read_run(tracked).manifest.checkpoints
    assert set(checkpoints) == {0, 512, 4000}
    shards = {f.name for f in (suite / "step4000").glob("model*")}
    weights = {0: {"model.safetensors"}, 512: {"pytorch_model.bin"}, 4000: shards}
    assert len(shards) > 3
    for step, names in weights.items():
        folder = suite / f"step{step}"
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        record = {"revision": folder.name, "commit": hub.commit(folder.name), "digests": digests}
        assert checkpoints[step].as_json() == record


def test_only_the_files_of_an_analysis_are_requested(tracked: Path, suite: Path, hub: LoopbackHub) -> None:
    weights = ["step0/model.safetensors", "step512/pytorch_model.bin"]
    weights += [f"step4000/{file.name}" for file in (suite / "step4000").glob("model*")]
    named = {r.target for r in hub.requests if "/" in r.target}
    configs = {name for name in named if name.endswith("/config.json")}
    assert named - configs == {*weights, *(f"main/{name}" for name in TOKENIZER)}
    sent = Counter(r.target for r in hub.requests if r.method == "GET")
    assert [sent[name] for name in weights] == [1] * len(weights)
    assert sum(sent[name] for name in configs) <= 3


def test_nothing_that_was_downloaded_for_an_analysis_stays(tracked: Path, place: Machine) -> None:
    left = [file.name for file in (place.folder / "hf" / "rtdyn").rglob("*") if file.is_file()]
    assert left == ["loopback--suite.lock"]
    cached = {file.name for file in (place.folder / "hf" / "hub").rglob("snapshots/*/*")}
    assert cached == {"config.json", *TOKENIZER}


def test_a_cached_suite_needs_no_server(
    tracked: Path, suite: Path, tmp_path: Path, local: dict[str, pl.DataFrame], closed_url: str
) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        place.cache("main", "step0", "step512", "step4000")
        before = place.files_in_cache()
        hub.misbehave()
        online = place.arguments("online", "on-hub", STEPS)
        offline, uncached = (place.arguments(*a, STEPS) for a in (("offline", "on-hub"), ("uncached", "unknown")))
        ended = place.track_each(online)
        ended += place.track_each(offline, uncached, HF_HUB_OFFLINE="1", HF_ENDPOINT=closed_url)
        asked = {r.target for r in hub.requests if r.method == "GET"}
    assert [end.code for end in ended[:2]] == [0, 0], ended
    assert asked == {"main", "step0", "step512", "step4000"}
    assert place.files_in_cache() == before
    for name in ("online", "offline"):
        assert_same(tables(tmp_path / name), local)
        assert read_run(tmp_path / name).manifest.checkpoints == read_run(tracked).manifest.checkpoints
    assert_refused(ended[2], "loopback/unknown, revision step4000 is not in the cache and HF_HUB_OFFLINE is set")
    assert not (tmp_path / "uncached").exists()


def test_a_flaky_hub_costs_nothing_but_time(suite: Path, tmp_path: Path, local: dict[str, pl.DataFrame]) -> None:
    shard = "model-00001-of-00005.safetensors"
    with LoopbackHub(suite, cdn=True) as hub:
        hub.faults = [
            Fault("GET cdn/step0/model.safetensors", times=2, status=500),
            Fault("GET step512", status=500),
            Fault("GET step4000", status=429, retry_after=0),
            Fault("GET step512/pytorch_model.bin", times=2, status=429, retry_after=0),
            Fault(f"GET cdn/step4000/{shard}", cut_after=1000),
            Fault(f"GET cdn/step4000/{shard.replace('1', '2', 1)}", wrong_bytes=True),
        ]
        place = workplace(tmp_path, hub.url)
        (ended,) = place.track_each(place.arguments("run", "on-hub", STEPS))
        requests = Counter(map(str, hub.requests))
        rest = [r.range for r in hub.requests if r.target == f"cdn/step4000/{shard}"]
    assert ended.code == 0, ended.stderr
    assert_same(tables(tmp_path / "run"), local)
    assert requests["GET cdn/step0/model.safetensors"] == 3
    assert requests["GET step512/pytorch_model.bin"] == 3
    assert rest[1] is not None and rest[1].startswith("bytes=1000-")


@pytest.mark.slow
def test_what_stays_wrong_is_refused_and_then_goes_on(suite: Path, tmp_path: Path) -> None:
    weights, index = "GET step0/model.safetensors", "GET step4000/model.safetensors.index.json"
    again = "; run the command again"
    expected: list[tuple[int, Fault, str, str]] = [
        (
            0,
            Fault(weights, times=5, status=503),
            "step0: model.safetensors cannot be downloaded (HfHubHTTPError",
            again,
        ),
        (0, Fault(weights, times=5, cut_after=0, reset=True), "cannot be downloaded (", again),
        (0, Fault(weights, times=3, wrong_bytes=True), "came 3 times with other bytes", "run the command again"),
        (0, Fault(weights, times=8, short_by=1000), "cannot be downloaded (EOFError: the answer ended early", again),
        (512, Fault("GET step512", status=200), "is no Hub, so log in to the network", "check HF_ENDPOINT"),
        (512, Fault("GET step512", status=429, retry_after=99999), "cannot be downloaded (HfHubHTTPError", again),
        (512, Fault("GET step512", status=403, code="GatedRepo"), "step512 is gated", "set HF_TOKEN"),
        (4000, Fault(index, times=3, wrong_bytes=True), "index.json came 3 times", "run the command again"),
    ]
    with LoopbackHub(suite) as hub:
        hub.faults = [fault for _, fault, _, _ in expected]
        sweeps = [[step] for step, *_ in expected]
        *refused, first, second, third = workplace(tmp_path, hub.url).sweep("on-hub", *sweeps, [0], [512], [4000])
        assert all(hub.met(fault) == fault.times or fault.short_by for fault in hub.faults)
    for outcome, (_, _, reason, advice) in zip(refused, expected, strict=True):
        assert reason in outcome["refusal"]
        assert outcome["refusal"].endswith(advice)
    for step, outcome in ((0, first), (512, second), (4000, third)):
        got = outcome["steps"][str(step)]
        published = hub.branches[f"step{step}"]
        assert got["digests"] and all(got["files"][name] == digest for name, digest in got["digests"].items())
        assert all(published[name].sha256 in (None, digest) for name, digest in got["digests"].items())


def test_the_loopback_hub_serves_the_rest_of_a_file(hub: LoopbackHub, suite: Path) -> None:
    wanted = urllib.request.Request(f"{hub.url}/{hub.repo}/resolve/step0/config.json", headers={"Range": "bytes=100-"})
    with urllib.request.urlopen(wanted) as answer:
        assert answer.status == 206
        assert answer.read() == (suite / "step0" / "config.json").read_bytes()[100:]


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


AT_A_STEP = {
    "malicious": ("1,512", "cannot be loaded"),
    "wrong bytes": ("4,512", "model.safetensors came 3 times with other bytes than the digest the Hub publishes"),
    "shard outside": ("16,512", "names a shard outside its folder"),
}
AT_ONCE = {
    "unknown": "the Hub knows no such repository",
    "misnamed": "cannot be a Hub repository (HFValidationError",
    "no server": "cannot be downloaded (ConnectError",
}


@dataclass(frozen=True)
class Refusals:
    """How the commands ended that had to be refused, by name."""

    place: Machine
    marker: Path
    ended: dict[str, Ended]


@pytest.fixture(scope="module")
def refusals(takes_long: None, tmp_path_factory: pytest.TempPathFactory, closed_url: str) -> Iterator[Refusals]:
    """All of them, of one repository whose last step alone is whole."""
    folder = tmp_path_factory.mktemp("refusals")
    suite, marker = folder / "suite", folder / "marker"
    last = copy_step(512, suite)
    for name in TOKENIZER:
        shutil.copy(TINY / name, last)
    malicious = copy_step(1, suite, weights=False) / "pytorch_model.bin"
    torch.save({"embed_out.weight": Malicious(marker)}, malicious)
    torch.load(malicious, weights_only=False)
    assert marker.exists()
    marker.unlink()
    copy_step(2, suite, weights=False)
    for step in (4, 8):
        copy_step(step, suite)
    outside = copy_step(16, suite, weights=False) / "model.safetensors.index.json"
    outside.write_text(json.dumps({"weight_map": {"embed_out.weight": "../../../secret.safetensors"}}))
    shutil.copy(TINY / "step16" / "model.safetensors", outside.with_name("model-00001-of-00001.safetensors"))
    with LoopbackHub(suite, hidden={"step8"}) as hub:
        hub.faults = [Fault("GET step4/model.safetensors", times=3, wrong_bytes=True)]
        place = workplace(folder, hub.url)
        commands = {name: place.arguments(name, "broken", steps) for name, (steps, _) in AT_A_STEP.items()}
        commands |= {name: place.arguments(name, name, "4000") for name in ("unknown", "misnamed")}
        ended = dict(zip(commands, place.track_each(*commands.values()), strict=True))
        (folder / "apart").mkdir()
        apart = workplace(folder / "apart", hub.url)
        command = apart.arguments("run", "broken", "2,8,512")
        strict = [*apart.arguments("failing", "broken", "2,8,512"), "--on-defect", "fail"]
        ended |= dict(zip(("passed over", "failing"), apart.track_each(command, strict), strict=True))
        ended["no server"] = place.track("no server", "broken", "512", HF_ENDPOINT=closed_url)
        yield Refusals(place, marker, ended)


@pytest.mark.parametrize("name", AT_A_STEP)
def test_a_step_that_cannot_be_used_is_named_and_leaves_nothing(name: str, refusals: Refusals) -> None:
    assert_refused(refusals.ended[name], AT_A_STEP[name][1])
    out = refusals.place.folder / name
    assert set(done_steps(read_run(out))) == {512} and not list(out.rglob("*.aside"))
    assert {path.name for path in out.rglob("step=*")} == {"step=000512.parquet"}
    assert not refusals.marker.exists()


def test_a_step_that_is_not_there_is_passed_over_and_said(refusals: Refusals) -> None:
    ended = refusals.ended["passed over"]
    assert ended.code == 0, ended.stderr
    assert "step 2 was passed over: it holds no weights" in ended.stdout
    assert "step 8 was passed over: there is no revision step8" in ended.stdout
    assert set(read_run(refusals.place.folder / "apart" / "run").manifest.checkpoints) == {512}
    failing = refusals.ended["failing"]
    assert_refused(failing, "step 2: it holds no weights (and 1 more step not sound)")
    assert not (refusals.place.folder / "apart" / "failing").exists()


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_repository_that_cannot_be_reached_leaves_no_run_directory(name: str, refusals: Refusals) -> None:
    assert_refused(refusals.ended[name], AT_ONCE[name])
    assert not (refusals.place.folder / name).exists()


@pytest.mark.slow
def test_wrong_bytes_in_the_users_cache_stay_refused_until_the_named_file_is_deleted(
    suite: Path, tmp_path: Path
) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        place.cache("main", "step0", "step512")
        published = hub.branches["step0"]["model.safetensors"].sha256
        (blob,) = (path for path in place.files_in_cache() if path.name == published)
        blob.write_bytes(bytes(byte ^ 1 for byte in blob.read_bytes()))
        (online,) = place.sweep("on-hub", [0])
        (offline,) = place.sweep("on-hub", [0], env={"HF_HUB_OFFLINE": "1"})
        for outcome in (online, offline):
            assert outcome["refusal"].endswith(f"delete {blob} and run the command again")
        blob.unlink()
        (mended,) = place.sweep("on-hub", [0, 512])
    assert mended["steps"]["0"]["digests"] == {"model.safetensors": published}
    assert not blob.exists()


@pytest.mark.slow
def test_a_file_listed_outside_the_folder_is_refused(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        weights = hub.branches["step0"]["model.safetensors"]
        place = workplace(tmp_path, hub.url)
        config = {"config.json": hub.branches["step0"]["config.json"]}
        names = {"step1": "../../../evil.safetensors", "step2": "/tmp/evil.safetensors", "step4": "a/../../evil"}
        hub.branches |= {branch: {**config, name: weights} for branch, name in names.items()}
        hub.branches["step8"] = {**config, "model.safetensors": replace(weights, sha256="../../../../evil")}
        outcomes = place.sweep("broken", [1], [2], [4], [8])
    for outcome in outcomes[:3]:
        assert "outside its folder" in outcome["refusal"]
    assert "cannot be verified" in outcomes[3]["refusal"]
    assert not [file for file in tmp_path.rglob("*evil*")]


@pytest.mark.slow
def test_no_token_and_no_signed_address_is_ever_shown_or_stored(suite: Path, tmp_path: Path) -> None:
    token = "hf_sentinelsentinel"
    weights = "step0/model.safetensors"
    with LoopbackHub(suite, token=token, cdn=True) as hub:
        place = workplace(tmp_path, hub.url)
        offline = [a if a != "disabled" else "offline" for a in place.arguments("run", "on-hub", "0")]
        hub.faults = [Fault(f"GET cdn/{weights}", times=99, status=403)]
        (refused,) = place.track_each(offline, HF_TOKEN=token)
        hub.misbehave()
        (done,) = place.track_each(offline, HF_TOKEN=token)
        sent = {r.authorization for r in hub.requests if r.target == f"cdn/{weights}"}
        unknown = place.track("none", "on-hub", "0", HF_TOKEN="hf_another")
    assert_refused(refused, "model.safetensors cannot be downloaded (HfHubHTTPError: 403")
    assert done.code == 0, done.stderr
    assert sent == {None}
    assert_refused(unknown, "needs another HF_TOKEN")
    texts = [end.stderr + end.stdout for end in (refused, done, unknown)]
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            texts.append(file.read_bytes().decode("latin-1"))
    assert len(texts) > 8
    for secret in (token, "hf_another", SIGNATURE):
        assert not any(secret in text for text in texts)
