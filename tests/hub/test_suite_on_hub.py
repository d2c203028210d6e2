"""Any repository as a suite: refs in the shapes of public repositories, and real weights behind some of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback.hub import LoopbackHub
from loopback.metadata_hub import MetadataHub
from loopback.place import TINY, TOKENIZER, Ended, workplace
from polars.testing import assert_frame_equal

from rtdyn.store.run import done_steps, read_run, read_table

OLMO_2_7B = [f"stage1-step{s}-tokens{-(-s * 4194304 // 10**9)}B" for s in range(1000, 929000, 1000)]
DATA_DECIDE = [f"step{s}-seed-{seed}" for seed in ("default", "large-aux-2") for s in range(0, 12501, 1250)]
REFS = {
    "EleutherAI/like-pythia": {"branches": ["main", *(f"step{s}" for s in (0, 1, 2, 4, 1000, 2000))]},
    "allenai/like-OLMo-1B-0724": {
        "branches": ["main", *(f"step{s}-tokens{-(-s * 2097152 // 10**9)}B" for s in range(0, 1455000, 1000))]
    },
    "allenai/like-OLMo-2-7B": {
        "branches": [
            *("main", "step150-tokens1B", "step600-tokens3B", "step2150-tokens10B", *OLMO_2_7B),
            *(f"stage2-ingredient{k}-step{s}-tokens{s // 200}B" for k in (1, 2, 3) for s in range(1000, 12000, 1000)),
        ]
    },
    "allenai/like-Olmo-3": {
        "branches": ["main", *(f"stage1-step{s}" for s in range(0, 9000, 1000)), "stage2-step1000", "stage3-step1000"]
    },
    "HuggingFaceTB/like-SmolLM3": {
        "branches": [
            *("main", *(f"stage1-step-{s}" for s in range(40000, 400000, 40000)), "stage2-step-400000"),
            *("lc-4k-to-32k-step-8000", "lc-4k-to-32k-step-12000", "it-mid-training-step-500"),
        ]
    },
    "HuggingFaceTB/like-SmolLM2": {"branches": ["main", "step-240000", "step-480000"]},
    "HuggingFaceFW/like-ablation": {"branches": ["main", "step-000500-1BT", "step-001000-2BT", "step-014000-29BT"]},
    "allenai/like-DataDecide": {"branches": ["main", *DATA_DECIDE, "step1250-seed-small-aux-2"]},
    "stanford-crfm/like-gpt2": {"branches": ["main", "checkpoint-10", "checkpoint-400000"]},
    "LLM360/like-Amber": {"branches": ["main", *(f"ckpt_{i:03d}" for i in range(359))]},
    "OpenLLM-France/like-Lucie": {"branches": ["main", "step0000500", "step0753851", "extension_step0000250"]},
    "bigscience/like-bloom": {"branches": ["main"], "tags": ["global_step10000", "global_step100000"]},
    "Zyphra/like-Zamba": {"branches": ["main", "iter2500", "iter25156"]},
    "togethercomputer/like-RedPajama": {"branches": ["main", "240b_tokens", "960b_tokens"]},
    "TJUNLP/like-FuxiTranyu": {"branches": ["main", "10B", "21B", "593B"]},
    "catherinearnett/like-B-GPT": {"branches": ["main", "0", "64000", "128000"]},
    "someone/own": {"branches": ["main", "at:7:of:9", "at:8:of:9"]},
    "someone/released": {"branches": ["main", "v1.0"], "tags": ["best"]},
}
FOUND = {
    "EleutherAI/like-pythia": (6, "step0", "step2000", None),
    "allenai/like-OLMo-1B-0724": (1455, "step0-tokens0B", "step1454000-tokens3050B", None),
    "allenai/like-OLMo-2-7B": (931, "step150-tokens1B", "stage1-step928000-tokens3893B", None),
    "allenai/like-Olmo-3": (9, "stage1-step0", "stage1-step8000", None),
    "HuggingFaceTB/like-SmolLM3": (9, "stage1-step-40000", "stage1-step-360000", None),
    "HuggingFaceTB/like-SmolLM2": (2, "step-240000", "step-480000", None),
    "HuggingFaceFW/like-ablation": (3, "step-000500-1BT", "step-014000-29BT", None),
    "allenai/like-DataDecide": (11, "step0-seed-default", "step12500-seed-default", None),
    "stanford-crfm/like-gpt2": (2, "checkpoint-10", "checkpoint-400000", None),
    "LLM360/like-Amber": (359, "ckpt_000", "ckpt_358", None),
    "OpenLLM-France/like-Lucie": (2, "step0000500", "step0753851", None),
    "bigscience/like-bloom": (2, "global_step10000", "global_step100000", None),
    "Zyphra/like-Zamba": (2, "iter2500", "iter25156", None),
    "togethercomputer/like-RedPajama": (2, "240b_tokens", "960b_tokens", 960 * 10**9),
    "TJUNLP/like-FuxiTranyu": (3, "10B", "593B", None),
    "catherinearnett/like-B-GPT": (3, "0", "128000", None),
}
"""By repository: how many steps, the first, the last, and the tokens of the last where its name tells them."""
BY_PATTERN = {
    "second stage": ("allenai/like-OLMo-2-7B", r"stage2-ingredient2-step(?P<step>\d+)-tokens\d+B"),
    "own names": ("someone/own", r"at:(?P<step>\d+):of:9"),
    "tokens": ("TJUNLP/like-FuxiTranyu", r"(?P<tokens>\d+)(?P<unit>B)"),
}
REFUSED = {
    "no step": (["someone/released"], "has the branches and tags main, v1.0, best, and none looks like a step's"),
    "no match": (["someone/own", "--revision-pattern", r"x(?P<step>\d+)"], "matches none as a whole"),
    "no repository": (["someone/nothing"], "no suite or folder is called 'someone/nothing', and no repository can"),
    "near": (["EleutherAI/pythia-1.4B"], "did you mean EleutherAI/pythia-1.4b"),
}


@dataclass(frozen=True)
class Listed:
    """What `rtdyn steps` printed of every repository, and what it asked the Hub."""

    ended: dict[str, Ended]
    requests: list[str]

    def rows(self, name: str) -> list[dict[str, object]]:
        ended = self.ended[name]
        assert ended.code == 0, ended.stderr
        rows: list[dict[str, object]] = json.loads(ended.stdout)
        return rows


@pytest.fixture(scope="module")
def listed(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listed]:
    """All of them, asked of one Hub by one process."""
    commands = {repo: ["steps", "--json", "--model", repo] for repo in FOUND}
    commands |= {f"{repo} in words": ["steps", "--model", repo] for repo in FOUND}
    commands |= {
        name: ["steps", "--json", "--model", repo, "--revision-pattern", pattern]
        for name, (repo, pattern) in BY_PATTERN.items()
    }
    commands |= {name: ["steps", "--model", *arguments] for name, (arguments, _) in REFUSED.items()}
    answers: dict[str, list[tuple[int, str | None]]] = {"refs": [(429, "1"), (503, None)]}
    with MetadataHub({}, refs=REFS, answers=answers) as hub:
        ended = workplace(tmp_path_factory.mktemp("listing"), hub.url).track_each(*commands.values())
        yield Listed(dict(zip(commands, ended, strict=True)), hub.requests)


@pytest.mark.parametrize("repo", FOUND)
def test_the_steps_of_any_repository_are_found_by_its_refs(listed: Listed, repo: str) -> None:
    rows = listed.rows(repo)
    count, first, last, tokens = FOUND[repo]
    assert (len(rows), rows[0]["revision"], rows[-1]["revision"]) == (count, first, last)
    assert rows[-1]["tokens_seen"] == tokens
    steps = [int(str(row["step"])) for row in rows]
    assert steps == sorted(set(steps))


def test_nothing_is_asked_for_listing_but_refs_and_lists_of_over_a_thousand_come_in_pages(listed: Listed) -> None:
    assert {target for target in listed.requests if target != "refs"} == set()
    pages = sum(-(-sum(map(len, REFS[repo].values())) // 1000) for repo in FOUND)
    assert pages == len(FOUND) + 1
    asked = 2 * pages + len(BY_PATTERN) + len(REFUSED)
    assert len(listed.requests) == asked + 2  # those that were answered 429 and 503


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("allenai/like-OLMo-2-7B", "931 checkpoints; below 10^9 tokens 0 to 1, as their names are rounded"),
        ("allenai/like-OLMo-2-7B", "found among 965 branches and tags: 931 of the form stage1-step{step}-tokens"),
        ("allenai/like-OLMo-2-7B", "left out: 11 of the form stage2-ingredient1-step{step}-tokens{tokens}"),
        ("HuggingFaceTB/like-SmolLM3", "2 of the form lc-4k-to-32k-step-{step}"),
        (
            "togethercomputer/like-RedPajama",
            "2 checkpoints; below 10^9 tokens 0, below 10^10 tokens 0, below 10^11 tok",
        ),
        ("TJUNLP/like-FuxiTranyu", "how many tokens they have seen is not known"),
        ("TJUNLP/like-FuxiTranyu", "in units of 1,000,000,000, the names do not say of what"),
    ],
)
def test_it_is_said_what_was_found_and_what_was_left_out(listed: Listed, repo: str, words: str) -> None:
    ended = listed.ended[f"{repo} in words"]
    assert ended.code == 0 and words in ended.stdout


def test_a_pattern_chooses_where_the_known_forms_would_not(listed: Listed) -> None:
    assert [row["step"] for row in listed.rows("second stage")] == list(range(1000, 12000, 1000))
    assert [row["step"] for row in listed.rows("own names")] == [7, 8]
    assert [row["tokens_seen"] for row in listed.rows("tokens")] == [10 * 10**9, 21 * 10**9, 593 * 10**9]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_found_is_one_sentence(listed: Listed, name: str) -> None:
    ended = listed.ended[name]
    assert ended.code in (2, 3) and REFUSED[name][1] in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and ended.stdout == ""


@pytest.mark.slow
def test_found_steps_are_measured_as_the_same_weights_under_registered_names(tmp_path: Path) -> None:
    served = {"stage1-step0-tokens0B": 0, "step150-tokens1B": 512, "stage1-step600-tokens2B": 4000, "global_step7": 1}
    suite = tmp_path / "suite"
    for branch, step in served.items():
        shutil.copytree(TINY / f"step{step}", suite / branch)
    for name in TOKENIZER:
        shutil.copy(TINY / name, suite)
    with LoopbackHub(suite, tags={"stage1-step600-tokens2B", "global_step7"}) as hub:
        place = workplace(tmp_path, hub.url)
        found = ["track", "--model", "loopback/suite"]
        apart = [*found, "--revision-pattern", r"global_step(?P<step>\d+)", *place.settings(tmp_path / "apart")]
        registered = ["track", "--model", "tiny", "--steps", "0,512,4000", *place.settings(tmp_path / "registered")]
        ends = place.track_each([*found, *place.settings(tmp_path / "found")], apart, registered)
    assert [end.code for end in ends] == [0, 0, 0], ends
    assert "suite: found among 5 branches and tags: 3 of the form stage1-step{step}-tokens" in ends[0].stderr
    run = read_run(tmp_path / "found")
    assert {s: c.revision for s, c in done_steps(run).items()} == {
        0: "stage1-step0-tokens0B",
        150: "step150-tokens1B",
        600: "stage1-step600-tokens2B",
    }
    assert set(done_steps(read_run(tmp_path / "apart"))) == {7}
    ours, theirs = (read_table(read_run(tmp_path / name), "neurons") for name in ("found", "registered"))
    assert ours["step"].unique(maintain_order=True).to_list() == [0, 150, 600]
    assert_frame_equal(ours.drop("step"), theirs.drop("step"))


def served(folder: Path, *steps: int) -> Path:
    """A repository with these steps of `tiny` as branches, and the tokenizer in main."""
    suite = folder / "suite"
    for step in steps:
        shutil.copytree(TINY / f"step{step}", suite / f"b{step}")
    for name in TOKENIZER:
        shutil.copy(TINY / name, suite)
    return suite


TITLES = {"Initial commit": "main", "Saving data -- Step 0": "b0", "Saving data -- Step 20": "b512", "README": "main"}
PLACES = {
    "subfolder": ["loopback/suite", "--revision-pattern", "subfolder:"],
    "commits": ["loopback/suite", "--revision-pattern", r"commits:Saving .* -- Step (?P<step>\d+)"],
    "repositories": ["own/bert-seed_0-step_{step}"],
    "spellings": ["own/Llama-*step-{step}-*"],
}
STEPS_THERE = {
    "subfolder": {5: ("hf/checkpoint-5", 0), 20: ("hf/checkpoint-20", 512)},
    "commits": {0: (None, 0), 20: (None, 512)},
    "repositories": {0: ("own/bert-seed_0-step_0k", 0), 20000: ("own/bert-seed_0-step_20k", 512)},
    "spellings": {
        50000: ("own/Llama-1.1B-step-50K-105b", 0),
        715000: ("own/Llama-1.1B-intermediate-step-715k-1.5T", 512),
    },
}
"""By place and step: what the step is called, where it is not by a commit's digits, and which of tiny's it is."""

OWN_TOKENIZER = """
schedules: {two: "0,20"}
suites:
  apart:
    {repo: "own/bert-seed_0-step_{step}k", schedule: two, tokenizer: loopback/suite, tokens_per_step: {0: 10, 5: 20}}
"""


@pytest.mark.slow
def test_steps_are_had_from_folders_commits_and_repositories(tmp_path: Path) -> None:
    hub = LoopbackHub(served(tmp_path, 0, 512), commits=TITLES)
    hub.repositories = {
        str(name): f"b{step}" for kind in ("repositories", "spellings") for name, step in STEPS_THERE[kind].values()
    }
    with hub:
        for name, step in STEPS_THERE["subfolder"].values():
            hub.branches["main"] |= {f"{name}/{file}": held for file, held in hub.branches[f"b{step}"].items()}
        place = workplace(tmp_path, hub.url)
        weights = ["--analyses", "heavytail", "--wandb", "disabled"]
        commands = {
            kind: ["track", "--model", *where, *weights, "--out", str(tmp_path / kind)]
            for kind, where in PLACES.items()
        }
        commands["subfolder"] = ["track", "--model", *PLACES["subfolder"], *place.settings(tmp_path / "subfolder")]
        (tmp_path / "own.yaml").write_text(OWN_TOKENIZER)
        settings = [*place.settings(tmp_path / "tokenizer"), "--suites", str(tmp_path / "own.yaml")]
        commands["tokenizer"] = ["track", "--model", "apart", *settings]
        commands |= {f"audit {kind}": ["audit", "--json", "--model", *where] for kind, where in PLACES.items()}
        ended = dict(zip(commands, place.track_each(*commands.values()), strict=True))
    for kind, steps in STEPS_THERE.items():
        assert ended[kind].code == 0, ended[kind].stderr
        done = done_steps(read_run(tmp_path / kind))
        assert set(done) == set(steps)
        verdicts = {row["step"]: row["verdict"] for row in json.loads(ended[f"audit {kind}"].stdout)["steps"]}
        assert verdicts == dict.fromkeys(steps, "sound")
        for number, (name, step) in steps.items():
            weights_there = (TINY / f"step{step}" / "model.safetensors").read_bytes()
            assert done[number].digests == {"model.safetensors": hashlib.sha256(weights_there).hexdigest()}
            assert done[number].revision == (name or hub.commit(f"b{step}"))
    assert ended["tokenizer"].code == 0, ended["tokenizer"].stderr
    run = read_run(tmp_path / "tokenizer")
    assert {s: c.revision for s, c in done_steps(run).items()} == {n: f"own/bert-seed_0-step_{n}k" for n in (0, 20)}
    assert set(read_table(run, "metrics").select("step", "tokens_seen").unique().iter_rows()) == {(0, 0), (20, 350)}
