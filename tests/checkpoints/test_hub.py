"""Suites on a Hub, over real HTTP with the real client: a loopback server, its commands in processes of their own.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so nothing of it runs in the tests' own process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import torch
import transformers
from click.testing import CliRunner
from loopback.hub import Fault, LoopbackHub
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from rtdyn.cli import main
from rtdyn.registry import PACKAGE
from rtdyn.store import TABLES, read_run, read_table

TINY = PACKAGE / "data" / "tiny"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
STEPS = "0,512,4000"
SUITES = """
schedules:
  few: 0,512,4000
  broken: 1,2,4,8,512
suites:
  on-hub: {repo: loopback/suite, revision: "step{step}", schedule: few, tokens_per_step: 4096}
  broken: {repo: loopback/suite, revision: "step{step}", schedule: broken}
  unknown: {repo: loopback/unknown, revision: "step{step}", schedule: few}
  misnamed: {repo: loopback/suite/tiny, revision: "step{step}", schedule: few}
"""
FETCH = """
import json, sys
from pathlib import Path
from rtdyn.checkpoints.stream import fetch
from rtdyn.errors import RtdynError
from rtdyn.registry import load_suites

suite = load_suites(Path(sys.argv[1]))[sys.argv[2]]
outcomes = []
for step in sys.argv[3:]:
    try:
        outcomes.append(fetch(suite, int(step)).digests)
    except RtdynError as error:
        outcomes.append(str(error))
print(json.dumps(outcomes))
"""
COMMANDS = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from rtdyn.cli import main

ends = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stderr(StringIO()) as err, redirect_stdout(StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as end:
            ends.append([end.code, err.getvalue(), out.getvalue()])
print(json.dumps(ends))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stderr: str
    stdout: str


@dataclass(frozen=True)
class Machine:
    """Where commands run: their text and suites file, and whom they ask."""

    folder: Path
    endpoint: str

    def settings(self, out: Path) -> list[str]:
        return [
            *("--corpus", str(self.folder / "text.txt"), "--frequencies", str(TINY / "token_counts.npy")),
            *("--rare", "0.3:0.95", "--tokens", "512", "--window", "32", "--min-targets", "10"),
            *("--positions-per-rare", "1", "--analyses", "ablation", "--tolerance", "0.01"),
            *("--wandb", "disabled", "--out", str(out)),
        ]

    def arguments(self, name: str, model: str, steps: str) -> list[str]:
        """Of a command that tracks into the run directory `name`."""
        command = ["track", "--model", model, "--steps", steps, *self.settings(self.folder / name)]
        return [*command, "--suites", str(self.folder / "suites.yaml")]

    def track(self, name: str, model: str, steps: str, **env: str) -> Ended:
        done = self.python(["-m", "rtdyn.cli", *self.arguments(name, model, steps)], **env)
        return Ended(done.returncode, done.stderr, done.stdout)

    def track_each(self, *arguments: list[str], **env: str) -> list[Ended]:
        """Commands one after another in one process, which spares them its start."""
        done = self.python(["-c", COMMANDS, json.dumps(arguments)], **env)
        assert done.returncode == 0, done.stderr
        return [Ended(code, done.stderr + err, out) for code, err, out in json.loads(done.stdout)]

    def fetch(self, model: str, *steps: int, **env: str) -> list[str | dict[str, str]]:
        """What fetching each step in turn gave: the digests of its weight files, or the sentence of its refusal."""
        done = self.python(["-c", FETCH, str(self.folder / "suites.yaml"), model, *map(str, steps)], **env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def python(self, arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("HF_", "HUGGING")) and not k.lower().endswith("_proxy")
        }
        ours = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**kept, **ours, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )


def workplace(folder: Path, endpoint: str) -> Machine:
    (folder / "suites.yaml").write_text(SUITES)
    words = (TINY / "card.json").read_text().split()
    (folder / "text.txt").write_text("\n\n".join(" ".join(words[i % 50 :]) for i in range(8)))
    return Machine(folder, endpoint)


def copy_step(step: int, suite: Path, *, weights: bool = True) -> Path:
    """A bundled step as a branch of `suite`."""
    folder = suite / f"step{step}"
    folder.mkdir(parents=True)
    for name in ("config.json", *(["model.safetensors"] if weights else [])):
        shutil.copy(TINY / folder.name / name, folder)
    return folder


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
def local(place: Machine) -> dict[str, pl.DataFrame]:
    """The tables of the same steps from the bundled folder."""
    out = place.folder / "local"
    done = CliRunner().invoke(main, ["track", "--model", "tiny", "--steps", STEPS, *place.settings(out)])
    assert done.exit_code == 0, done.output
    return tables(out)


@pytest.fixture(scope="module")
def tracked(place: Machine) -> Path:
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
    """That the command ended in one sentence; the client may have said before it that it tries again."""
    *retries, last = ended.stderr.splitlines()
    assert ended.code == 3, ended.stderr
    assert last.startswith("rtdyn: ")
    assert sentence in last
    assert all(line.startswith(("HTTP Error", "Retrying in")) for line in retries), ended.stderr
    assert "Traceback" not in ended.stdout


# Step 0 is plain, 512 an old .bin and 4000 in shards, so one comparison covers all three.
def test_a_hub_suite_gives_the_tables_of_the_same_local_folder(tracked: Path, local: dict[str, pl.DataFrame]) -> None:
    assert local["metrics"].filter(pl.col("status") == "ok")["step"].unique().to_list() == [0, 512, 4000]
    assert_same(tables(tracked), local)


def test_the_manifest_says_which_bytes_were_read(tracked: Path, suite: Path, hub: LoopbackHub) -> None:
    checkpoints = read_run(tracked).manifest["checkpoints"]
    assert set(checkpoints) == {"0", "512", "4000"}
    shards = {f.name for f in (suite / "step4000").glob("model*")}
    weights = {"0": {"model.safetensors"}, "512": {"pytorch_model.bin"}, "4000": shards}
    assert len(shards) > 3
    for step, names in weights.items():
        folder = suite / f"step{step}"
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        assert checkpoints[step] == {"revision": folder.name, "commit": hub.commit(folder.name), "digests": digests}


def test_only_the_files_of_an_analysis_are_requested(tracked: Path, suite: Path, hub: LoopbackHub) -> None:
    wanted = {"step0/model.safetensors", "step512/pytorch_model.bin", *(f"main/{name}" for name in TOKENIZER)}
    wanted |= {f"step4000/{file.name}" for file in (suite / "step4000").glob("model*")}
    configs = {f"step{step}/config.json" for step in (0, 512, 4000)}
    assert {r.target for r in hub.requests if "/" in r.target} == wanted | configs
    # equal bytes are one blob of the cache, so not every config has to be sent
    sent = [r.target for r in hub.requests if r.method == "GET" and "/" in r.target and r.target not in configs]
    assert sorted(sent) == sorted(wanted)


def test_a_cached_suite_needs_no_server(
    tracked: Path, local: dict[str, pl.DataFrame], place: Machine, closed_url: str
) -> None:
    commands = place.arguments("offline", "on-hub", STEPS), place.arguments("uncached", "unknown", STEPS)
    cached, uncached = place.track_each(*commands, HF_HUB_OFFLINE="1", HF_ENDPOINT=closed_url)
    assert cached.code == 0, cached.stderr
    assert "audit: not made, as HF_HUB_OFFLINE is set" in cached.stdout
    assert_same(tables(place.folder / "offline"), local)
    online, offline = (read_run(out).manifest["checkpoints"] for out in (tracked, place.folder / "offline"))
    assert offline == online
    assert_refused(uncached, "loopback/unknown, revision step4000 is not in the cache and HF_HUB_OFFLINE is set")
    assert not (place.folder / "uncached").exists()


def test_a_flaky_hub_costs_no_second_command(suite: Path, tmp_path: Path, local: dict[str, pl.DataFrame]) -> None:
    """huggingface_hub retries a file's HEAD after any error and its GET after 429 or a cut; the audit its questions."""
    shard = "model-00001-of-00005.safetensors"
    with LoopbackHub(suite) as hub:
        hub.faults = [
            Fault("HEAD step0/model.safetensors", times=2, status=500),
            Fault("GET step512", status=500),
            Fault("GET step512/pytorch_model.bin", times=2, status=429, retry_after=0),
            Fault(f"GET step4000/{shard}", cut_after=1000),
        ]
        place = workplace(tmp_path, hub.url)
        command = place.arguments("run", "on-hub", STEPS)
        first, second = place.track_each(command, command)
    assert first.code == second.code == 0, first.stderr
    assert "3 of 3 steps are stored already" in second.stdout
    assert_same(tables(tmp_path / "run"), local)
    requests = Counter(map(str, hub.requests))
    assert requests["HEAD step0/model.safetensors"] == 3
    assert requests["GET step512/pytorch_model.bin"] == 3
    assert requests[f"GET step4000/{shard}"] == 2


def test_what_the_client_does_not_retry_is_refused_and_then_goes_on(suite: Path, tmp_path: Path) -> None:
    weights, index = "GET step0/model.safetensors", "GET step4000/model.safetensors.index.json"
    again = "; run the command again"
    expected: list[tuple[int, Fault, str, str]] = [
        (0, Fault(weights, status=503), "step0: model.safetensors cannot be downloaded (HfHubHTTPError: Server", again),
        (0, Fault(weights, cut_after=1000, reset=True), "cannot be downloaded (ReadError", again),
        (512, Fault("GET step512", stall=True), "cannot be downloaded (ReadTimeout", again),
        (512, Fault("GET step512", status=200), "cannot be downloaded (JSONDecodeError", again),
        (512, Fault("GET step512", status=403, code="GatedRepo"), "step512 is gated", "set HF_TOKEN"),
        (4000, Fault(index, wrong_bytes=True), "index.json is not readable JSON", "download it again"),
    ]
    with LoopbackHub(suite) as hub:
        hub.faults = [fault for _, fault, _, _ in expected]
        steps = [step for step, *_ in expected]
        *refused, first, second = workplace(tmp_path, hub.url).fetch("on-hub", *steps, 0, 512, HF_HUB_ETAG_TIMEOUT="2")
    for sentence, (_, _, reason, advice) in zip(refused, expected, strict=True):
        assert isinstance(sentence, str)
        assert reason in sentence
        assert sentence.endswith(advice)
    for step, digests in ((0, first), (512, second)):
        assert isinstance(digests, dict)
        assert digests == {name: hub.branches[f"step{step}"][name].sha256 for name in digests}


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
    "wrong bytes": ("4,512", "model.safetensors differs from the digest the Hub publishes"),
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
def refusals(tmp_path_factory: pytest.TempPathFactory, closed_url: str) -> Iterator[Refusals]:
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
    with LoopbackHub(suite, hidden={"step8"}) as hub:
        hub.faults = [Fault("GET step4/model.safetensors", wrong_bytes=True)]
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
def test_a_step_that_cannot_be_used_is_refused_and_leaves_nothing(name: str, refusals: Refusals) -> None:
    assert_refused(refusals.ended[name], AT_A_STEP[name][1])
    assert len(refusals.ended[name].stderr.splitlines()) == 1
    left = [path.name for path in (refusals.place.folder / name).rglob("*") if path.is_file()]
    assert sorted(left) == [".lock", "manifest.json"]
    assert not refusals.marker.exists()


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_repository_that_cannot_be_reached_leaves_no_run_directory(name: str, refusals: Refusals) -> None:
    assert_refused(refusals.ended[name], AT_ONCE[name])
    assert len(refusals.ended[name].stderr.splitlines()) == 1
    assert not (refusals.place.folder / name).exists()


def test_a_step_that_is_not_there_is_passed_over_and_said(refusals: Refusals) -> None:
    ended = refusals.ended["passed over"]
    assert ended.code == 0, ended.stderr
    assert "step 2 was passed over: it holds no weights" in ended.stdout
    assert "step 8 was passed over: there is no revision step8" in ended.stdout
    assert set(read_run(refusals.place.folder / "apart" / "run").manifest["checkpoints"]) == {"512"}
    failing = refusals.ended["failing"]
    assert_refused(failing, "step 2: it holds no weights (and 1 more steps are not sound)")
    assert not (refusals.place.folder / "apart" / "failing").exists()


def test_wrong_bytes_stay_refused_until_the_named_file_is_deleted(refusals: Refusals) -> None:
    named = refusals.ended["wrong bytes"].stderr.partition("; delete ")[2]
    blob = Path(named.removesuffix(" and run the command again\n"))
    published = hashlib.sha256((TINY / "step4" / "model.safetensors").read_bytes()).hexdigest()
    assert blob.name == published
    assert blob.is_relative_to(refusals.place.folder)
    refused, partly_cached = refusals.place.fetch("broken", 4, 512, HF_HUB_OFFLINE="1")
    assert f"delete {blob}" in refused
    assert "(the cached part, as HF_HUB_OFFLINE is set) holds no weights" in partly_cached
    blob.unlink()
    assert refusals.place.fetch("broken", 4) == [{"model.safetensors": published}]
