"""The audit of suites on a loopback Hub whose defects are those of the public ones: each found, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from loopback.metadata_hub import Branch, MetadataHub, branch, digest, sharded
from loopback.place import COMMANDS, Ended, hub_environment
from support.hang import HANG
from support.processes import run_python

from rtdyn.audit.listing import FileInfo, Listing
from rtdyn.audit.verdicts import audit
from rtdyn.cli import main
from rtdyn.suites.find import load_suites

PYTHIA = load_suites()["pythia-1.4b"].steps
TOKEN = "hf_secretsecretsecretsecretsecret"


class AuditEnded(Ended):
    """How `rtdyn audit` ended."""

    @property
    def found(self) -> dict[str, Any]:
        return json.loads(self.stdout)

    def verdicts(self) -> dict[int, str]:
        """Of the steps that are not sound."""
        return {s["step"]: s["verdict"] for s in self.found["steps"] if s["verdict"] != "sound"}

    def step(self, step: int) -> dict[str, Any]:
        return next(s for s in self.found["steps"] if s["step"] == step)


def audits(folder: Path, url: str, *arguments: list[str], **env: str) -> list[AuditEnded]:
    """`rtdyn audit` with each list of arguments in turn, in one process whose Hub is at `url`."""
    commands = json.dumps([["audit", *options] for options in arguments])
    environment = hub_environment(url, folder / "hf", **{"HF_TOKEN": TOKEN, **env})
    done = run_python(["-c", COMMANDS, commands], cwd=folder, env=environment, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return [AuditEnded(code, done.stderr + err, out) for code, err, out in json.loads(done.stdout)]


def suites_file(folder: Path, like: str, steps: str, defects: str = "") -> list[str]:
    """Arguments for a suite `mine` on the loopback hub, with the registry's own defects of the suite `like`."""
    known = [
        {
            "suites": ["mine"],
            "steps": ",".join(map(str, d.steps)),
            "kind": d.kind,
            "note": d.note,
            "source": d.source,
            **({} if d.belongs_to is None else {"belongs_to": d.belongs_to}),
        }
        for d in (load_suites()[like].defects if like else ())
    ]
    content = {
        "schedules": {"mine": steps},
        "suites": {"mine": {"repo": "loopback/suite", "revision": "step{step}", "schedule": "mine"}},
        "defects": known,
    }
    file = folder / f"suites-{like or 'mine'}-{len(steps)}.yaml"
    file.write_text(json.dumps(content))
    return ["--suites", str(file), "--model", "mine", "--json"]


ALL = "0,1,2,4,8,16,32,64,128,256,512,1000:143000:1000"
TEN = (54000, *range(56000, 60000, 1000), *range(61000, 65000, 1000), 143000)


def run(tmp_path: Path, branches: Mapping[str, Branch], *arguments: str) -> AuditEnded:
    with MetadataHub(branches) as hub:
        return audits(tmp_path, hub.url, list(arguments))[0]


def own(steps: tuple[int, ...] = PYTHIA, **more: Branch) -> dict[str, Branch]:
    """A suite in which every step has weights of its own and main those of the last."""
    return {"main": branch(f"w{steps[-1]}"), **{f"step{s}": branch(f"w{s}") for s in steps}, **more}


@pytest.mark.slow
def test_a_sound_suite_is_found_sound_and_its_revisions_are_described(tmp_path: Path) -> None:
    ended = run(tmp_path, own(), *suites_file(tmp_path, "", ALL), "--strict")
    assert ended.code == 0 and ended.verdicts() == {} and len(ended.found["steps"]) == 154
    for key in ("shared", "unexpected", "findings", "known_defects"):
        assert ended.found[key] == []
    step = ended.step(512)
    assert step["digests"] == {"model.safetensors": digest("w512")} and step["size"] == 1000
    assert step["format"] == "safetensors" and len(step["commit"]) == 40


@pytest.mark.slow
def test_step0_and_step1_alike_in_all_sizes(tmp_path: Path) -> None:
    """EleutherAI/pythia issue 83."""
    branches = own(step1=branch("w0"))
    ended, strict = [
        run(tmp_path, branches, *suites_file(tmp_path, like, ALL), "--strict") for like in ("", "pythia-1.4b")
    ]
    for audited in (ended, strict):
        assert audited.code == 1 and audited.verdicts() == {1: "duplicate"}
        assert audited.step(1)["duplicates_of"] == [0] and audited.step(1)["belongs_to"] == 0
    assert strict.found["known_defects"][0]["status"] == "met"
    assert any("issues/83" in reason for reason in strict.step(1)["reasons"])


@pytest.mark.slow
def test_eighty_six_of_154_branches_with_final_weights(tmp_path: Path) -> None:
    """EleutherAI/pythia issue 205, pythia-2.8b; step143000 is one of ten that differ from main."""
    known = load_suites()["pythia-2.8b"].defects
    copies = next(d.steps for d in known if d.note == "bit-identical to main")
    assert len(copies) == 76 and len(TEN) == 10
    shared = {**dict.fromkeys(copies, "main"), **dict.fromkeys(TEN, "second")}
    branches = {"main": branch("main"), **{f"step{s}": branch(shared.get(s, f"w{s}")) for s in PYTHIA}}
    with_registry = run(tmp_path, branches, *suites_file(tmp_path, "pythia-2.8b", ALL))
    alone = run(tmp_path, branches, *suites_file(tmp_path, "", ALL))
    wanted = {**dict.fromkeys(copies, "duplicate"), **dict.fromkeys(TEN, "duplicate")}
    assert with_registry.verdicts() == {**wanted, 143000: "suspect"}
    assert len(with_registry.verdicts()) == with_registry.found["defects"] == 86
    assert alone.verdicts() == {s: v for s, v in wanted.items() if s != 143000}
    for ended in (with_registry, alone):
        assert all(ended.step(s)["equals_main"] == (s in copies) for s in PYTHIA)
        assert set(ended.step(54000)["duplicates_of"]) == set(TEN) - {54000}
        assert any("main and the last step" in f for f in ended.found["findings"])
    # 83 names step0 and step1 of this suite too
    assert {d["status"] for d in with_registry.found["known_defects"]} == {"met"}


@pytest.mark.slow
def test_a_final_shard_among_those_of_two_early_steps(tmp_path: Path) -> None:
    """EleutherAI/pythia issue 206, pythia-12b."""
    shards = {s: [f"w{s}-1", f"w{s}-2", f"w{s}-3"] for s in PYTHIA}
    for step in (50000, 58000):
        shards[step][0] = "w143000-1"
    branches = {f"step{s}": sharded(*contents) for s, contents in shards.items()}
    branches["main"] = branches["step143000"]
    for like in ("", "pythia-12b"):
        ended = run(tmp_path, branches, *suites_file(tmp_path, like, ALL))
        assert ended.verdicts() == {50000: "suspect", 58000: "suspect"}
        assert "pytorch_model-00001-of-00003.bin" in ended.step(50000)["reasons"][0]
        assert "main" in ended.step(50000)["reasons"][0]
    assert {d["kind"]: d["status"] for d in ended.found["known_defects"]} == {
        "duplicate": "gone",
        "final-weights": "met",
        "nearly-identical": "unseen",
    }
    assert ended.step(1)["notes"] and ended.step(1)["reasons"] == []


@pytest.mark.slow
def test_branches_without_weights_and_branches_that_are_not_there(tmp_path: Path) -> None:
    """EleutherAI/pythia issue 202, and others of its kind."""
    branches = own(step40000={"config.json": (500, "config"), "README.md": (9, "r")})
    branches["step4"] = {k: v for k, v in sharded("a", "b").items() if "00001" not in k}
    branches["step8"] = branch("w8", config=False)
    del branches["step2"]
    ended = run(tmp_path, branches, *suites_file(tmp_path, "pythia-410m-seed9", ALL))
    assert ended.verdicts() == dict.fromkeys((2, 4, 8, 40000), "missing")
    reasons = {s: ended.step(s)["reasons"][0] for s in (2, 4, 8, 40000)}
    assert reasons == {
        2: "there is no revision step2",
        4: "it holds 1 of 2 bin shards",
        8: "it holds no config.json",
        40000: "it holds no weights",
    }
    assert ended.found["known_defects"][0]["status"] == "met"
    repaired = run(tmp_path, own(), *suites_file(tmp_path, "pythia-410m-seed9", ALL))
    assert repaired.verdicts() == {} and repaired.found["known_defects"][0]["status"] == "gone"


@pytest.mark.slow
def test_shards_of_any_name_and_beside_those_of_an_older_cut_are_no_missing_weights(tmp_path: Path) -> None:
    named = sharded("a", "b", stem="model", suffix="safetensors")
    renamed = {name.replace("model-0", "part-0"): file for name, file in named.items()}
    beside = {**sharded("s", "t"), "pytorch_model-00001-of-00003.bin": (1000, "u")}
    ended = run(tmp_path, own(step1=renamed, step2=beside), *suites_file(tmp_path, "", ALL))
    assert ended.verdicts() == {}
    assert (ended.step(1)["format"], ended.step(2)["format"]) == ("safetensors, 2 shards", "bin, 2 shards")
    assert set(ended.step(1)["digests"]) == {"part-00001-of-00002.safetensors", "part-00002-of-00002.safetensors"}


def test_three_branches_with_the_same_shards(tmp_path: Path) -> None:
    """allenai/OLMo issue 915: OLMo-2 in a suites file of one's own, in safetensors shards."""
    steps = tuple(range(0, 20000, 1000))
    branches = {f"step{s}": sharded(f"a{s}", f"b{s}", stem="model", suffix="safetensors") for s in steps}
    branches["main"] = branches["step19000"]
    for step in (6000, 7000):
        branches[f"step{step}"] = branches["step5000"]
    branches |= {"stage1-step500-tokens3B": branch("x"), "step20000": branch("y"), "refs-convert": branch("z")}
    ended = run(tmp_path, branches, *suites_file(tmp_path, "", "0:19000:1000"))
    assert ended.verdicts() == {6000: "duplicate", 7000: "duplicate"}
    assert ended.step(7000)["belongs_to"] == 5000 and ended.step(7000)["duplicates_of"] == [5000, 6000]
    assert ended.step(5000)["notes"] == ["its own, it holds the same weights as step 6000, step 7000"]
    assert ended.found["unexpected"] == ["stage1-step500-tokens3B", "step20000"]


def test_digests_compare_within_one_format_only(tmp_path: Path) -> None:
    steps = tuple(range(8))
    old = branch("same bytes", name="pytorch_model.bin")
    branches = own(steps, step2=branch("same bytes"), step3=old, step4=old)
    branches["step4"] = {**branches["step4"], "model.safetensors": (1000, "w4")}
    branches["step6"] = {**branch("w6"), "pytorch_model.bin": (1000, "of 7")}
    branches["step7"] = {**branch("w7"), "pytorch_model.bin": (1000, "of 7")}
    ended = run(tmp_path, branches, *suites_file(tmp_path, "", "0:7:1"))
    assert ended.verdicts() == {4: "duplicate"}
    assert ended.step(4)["belongs_to"] == 3
    assert ended.step(6)["notes"] == ["its bin copy, which is not loaded, is that of step 7"]
    assert any("1 of 8 steps are in another format, bin" in f for f in ended.found["findings"])


@pytest.mark.slow
def test_a_registered_defect_that_formats_hide_keeps_the_registrys_word(tmp_path: Path) -> None:
    branches = own(step1=branch("w0", name="pytorch_model.bin"))
    ended = run(tmp_path, branches, *suites_file(tmp_path, "pythia-1.4b", ALL))
    assert ended.verdicts() == {1: "suspect"} and "issues/83" in ended.step(1)["reasons"][0]
    assert ended.found["known_defects"][0]["status"] == "unseen"


@pytest.mark.slow
def test_one_size_unlike_all_others_is_suspect_and_a_second_precision_is_not(tmp_path: Path) -> None:
    steps = tuple(range(30))
    cut = own(steps, step7=branch("w7", size=600))
    halves = {f"step{s}": branch(f"w{s}", size=2000 if s < 15 else 1001) for s in steps} | {"main": branch("w29")}
    arguments = suites_file(tmp_path, "", "0:29:1")
    assert run(tmp_path, cut, *arguments).verdicts() == {7: "suspect"}
    assert run(tmp_path, halves, *arguments).verdicts() == {}


def test_frozen_shards_that_all_steps_share_are_no_defect() -> None:
    suite = load_suites()["tiny"]
    listings = {}
    for step in suite.steps:
        files = {"config.json": FileInfo(1, None), "model.safetensors.index.json": FileInfo(1, None)}
        for i, content in enumerate(("frozen", f"own {step}"), 1):
            files[f"model-0000{i}-of-00002.safetensors"] = FileInfo(10, content)
        listings[step] = Listing(f"step{step}", None, files)
    assert audit(suite, listings, None).unsound == ()


@pytest.mark.slow
def test_a_busy_hub_is_waited_for(tmp_path: Path) -> None:
    steps = tuple(range(6))
    answers = {"step2": [(429, "1"), (503, None)], "refs": [(502, None)], "step4": [(500, None)]}
    with MetadataHub(own(steps), answers=answers) as hub:
        started = time.monotonic()
        (ended,) = audits(tmp_path, hub.url, suites_file(tmp_path, "", "0:5:1"))
        assert time.monotonic() - started > 1.5
    assert ended.verdicts() == {} and ended.stderr == ""
    assert hub.requests.count("step2") == 3 and hub.requests.count("step1") == 1


@pytest.mark.slow
def test_a_suite_of_154_revisions_is_audited_within_a_minute_at_100_ms(tmp_path: Path) -> None:
    arguments = suites_file(tmp_path, "", ALL)
    with MetadataHub(own(), latency=0.1) as hub:
        started = time.monotonic()
        (ended,) = audits(tmp_path, hub.url, arguments)
        seconds = time.monotonic() - started
    assert ended.verdicts() == {} and len(hub.requests) == 156
    assert 1 < hub.at_once <= 8
    assert seconds < 60


@pytest.mark.slow
def test_refusals_are_one_sentence_and_never_show_the_token(tmp_path: Path) -> None:
    arguments = suites_file(tmp_path, "", "0:2:1")
    with MetadataHub(own((0, 1, 2)), answers={"step1": [(401, None)], "step2": [(404, None)] * 9}) as hub:
        unknown, pythia, denied = audits(
            tmp_path, hub.url, ["--model", "pythia-1.4"], ["--model", "pythia-70m"], arguments
        )
        (offline,) = audits(tmp_path, hub.url, arguments, HF_HUB_OFFLINE="1")
    (closed,) = audits(tmp_path, hub.url, arguments)
    for ended, code, words in (
        (unknown, 2, "did you mean pythia-1.4b"),
        (pythia, 3, "the Hub knows no such repository"),
        (denied, 3, "step1"),
        (offline, 3, "HF_HUB_OFFLINE is set"),
        (closed, 3, "ConnectError"),
    ):
        assert ended.code == code, ended
        assert ended.stderr.startswith("rtdyn: ") and len(ended.stderr.splitlines()) == 1, ended.stderr
        assert words in ended.stderr and TOKEN not in ended.stderr and ended.stdout == ""


def test_a_server_that_is_not_a_hub_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path / "page")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        (ended,) = audits(tmp_path, f"http://127.0.0.1:{port}", suites_file(tmp_path, "", "0:2:1"))
        server.terminate()
    assert ended.code == 3 and len(ended.stderr.splitlines()) == 1


def test_a_folder_is_audited_by_the_bytes_of_its_files(tiny_folder: Path, tmp_path: Path) -> None:
    sound = CliRunner().invoke(main, ["audit", "--model", "tiny", "--json", "--strict"])
    assert sound.exit_code == 0 and json.loads(sound.stdout)["defects"] == 0
    suite = tmp_path / "mine"
    for name, source in (("step0", "step0"), ("step1", "step0"), ("step2", "step4"), ("step4", "step8")):
        shutil.copytree(tiny_folder / source, suite / name)
    (suite / "step4" / "model.safetensors").unlink()
    ended = CliRunner().invoke(main, ["audit", "--model", str(suite), "--strict"], terminal_width=200)
    assert ended.exit_code == 1
    assert "of 4 steps 2 sound, 1 duplicate, 1 missing" in ended.stdout
    found = json.loads(CliRunner().invoke(main, ["audit", "--model", str(suite), "--json"]).stdout)
    assert [s["verdict"] for s in found["steps"]] == ["sound", "duplicate", "sound", "missing"]
    assert len(found["steps"][0]["digests"]["model.safetensors"]) == 64
