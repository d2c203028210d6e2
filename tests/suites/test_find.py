"""Suites, step specifications, and the sentences that a typo earns."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rtdyn.errors import InputError, UsageError
from rtdyn.suites.find import find_suite, find_suites, load_suites
from rtdyn.suites.forms import RevisionPattern, read_name, revision_pattern
from rtdyn.suites.found import found_among
from rtdyn.suites.steps import parse_steps
from rtdyn.suites.suite import KnownText, Place, SuiteSpec

PYTHIA_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143001, 1000))


def test_every_pythia_suite_is_there() -> None:
    suites = load_suites()
    sizes = ["14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b"]
    names = {f"pythia-{s}" for s in sizes}
    names |= {f"pythia-{s}{tail}" for s in sizes[2:] for tail in ("-deduped", "-v0", "-deduped-v0")}
    names |= {f"pythia-{s}-seed{k}" for s in sizes[:5] for k in range(1, 10)}
    names |= {f"pythia-160m-{what}-seed{k}" for what in ("data", "weight") for k in (1, 2, 3)}
    assert names == {name for name in suites if name.startswith("pythia")}
    for name in names:
        assert suites[name].repo == f"EleutherAI/{name}"
        assert suites[name].family == "gpt_neox"
        assert suites[name].tokens_per_step == 2_097_152
        assert suites[name].steps == (PYTHIA_STEPS[11:] if name.endswith("-v0") else PYTHIA_STEPS)
    assert suites["pythia-1.4b"].revision_of(143000) == "step143000"
    assert suites["pythia-1.4b"].tokens_seen(143000) == 299_892_736_000


def test_stanfords_gpt2_runs_have_their_schedule() -> None:
    runs = [suite for suite in load_suites().values() if suite.family == "gpt2"]
    assert len(runs) == 10
    expected = (*range(10, 100, 10), *range(100, 2000, 50), *range(2000, 20000, 100), *range(20000, 400001, 1000))
    for suite in runs:
        assert suite.repo == f"stanford-crfm/{suite.name}"
        assert suite.steps == expected
        assert suite.revision_of(400000) == "checkpoint-400000"
        assert suite.tokens_seen(400000) is None


def test_known_defects_are_those_of_their_sources() -> None:
    suites = load_suites()
    final = [d for d in suites["pythia-2.8b"].defects if d.kind == "final-weights"]
    assert [len(d.steps) for d in final] == [76, 10]
    assert not set(final[0].steps) & set(final[1].steps)
    sound = set(PYTHIA_STEPS) - set(final[0].steps) - set(final[1].steps)
    assert len(sound) == 154 - 86 and 66000 in sound and 143000 not in sound
    assert [(d.kind, d.steps, d.belongs_to) for d in suites["pythia-70m"].defects] == [
        ("duplicate", (0, 1), 0),
        ("nearly-identical", (0, 2), 0),
    ]
    assert suites["pythia-70m"].flawed == {0, 1}
    assert suites["pythia-410m-seed9"].defects[0].steps == (40000,)
    for suite in suites.values():
        for defect in suite.defects:
            assert suite.pattern or set(defect.steps) <= set(suite.steps)
            assert re.match(r"https://github\.com/(EleutherAI/pythia|allenai/OLMo)/issues/\d+", defect.source)


NAMES = {
    "OLMo-1B-0724-hf": ("step1000-tokens3B", 1000, 2_097_152_000),
    "OLMo-2-0425-1B": ("stage1-step10000-tokens21B", 10000, 20_971_520_000),
    "OLMo-2-0425-1B-early-training": ("stage1-step1000-tokens3B", 1000, 2_097_152_000),
    "OLMo-2-1124-7B": ("stage1-step101000-tokens424B", 101000, 423_624_704_000),
    "OLMo-2-1124-13B": ("stage1-step596057-tokens5001B", 596057, 5_000_088_518_656),
    "Olmo-3-1025-7B": ("stage1-step1000", 1000, 4_194_304_000),
    "SmolLM2-135M-intermediate-checkpoints": ("step-240000", 240000, 251_658_240_000),
    "SmolLM2-1.7B-intermediate-checkpoints": ("step-125000", 125000, 262_144_000_000),
    "SmolLM2-360M-intermediate-checkpoints": ("step-160000", 160000, None),
    "SmolLM3-3B-checkpoints": ("stage1-step-40000", 40000, 94_371_840_000),
    "Amber": ("ckpt_042", 42, None),
    "DataDecide-c4-1B": ("step1250-seed-default", 1250, 1_802_240_000),
    "Lucie-7B": ("step0000500", 500, None),
    "ablation-model-fineweb-v1": ("step-001000-2BT", 1000, None),
    "ablation-model-the-pile": ("step-014000-29BT", 14000, None),
    "bloom-560m-intermediate": ("global_step10000", 10000, None),
    "Apertus-8B-2509": ("step2627139-tokens15T", 2627139, None),
}
"""By suite whose steps are found: a name of one, its number, and the tokens that it has seen."""


@pytest.mark.parametrize("model", NAMES)
def test_suites_that_are_found_read_their_names(model: str) -> None:
    name, step, tokens = NAMES[model]
    suite = load_suites()[model]
    assert suite.steps == () and suite.repo is not None and suite.repo.endswith(f"/{model}")
    others = ["main", "stage2-ingredient1-step1000-tokens3B", "longctx-step5-tokens1B", "extension_step0000250"]
    others += ["step1250-seed-large-aux-2", "stage2-step-5", "it-mid-training-step-5"]
    found = found_among([name, *others], revision_pattern(suite.pattern).regex)
    assert found is not None and found.names == {step: name}
    assert suite.tokens_seen(step) == tokens
    read = read_name(name)
    if tokens is not None and read is not None and read.tokens is not None:
        assert 0 <= read.tokens - tokens < read.within  # rounded up


@pytest.mark.slow
def test_every_suite_that_is_found_has_a_name_in_the_table_or_a_sister_there() -> None:
    patterns = {load_suites()[model].pattern for model in NAMES}
    found = {suite.name for suite in load_suites().values() if suite.pattern}
    assert len(found) == 25 and {load_suites()[name].pattern for name in found} == patterns


def test_name_repository_and_folder_find_a_suite(tiny_folder: Path) -> None:
    suites = load_suites()
    assert find_suite("EleutherAI/pythia-1.4b", suites) is find_suite("pythia-1.4b", suites)
    folder = find_suite(str(tiny_folder), suites)
    assert folder.steps == suites["tiny"].steps and folder.repo is None and folder.tokens_seen(1) is None
    assert folder.frequencies == "token_counts.npy"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("runs [exp]", ["runs [exp]"]),
        ("runs [exp]/ck[1]", ["runs [exp]/ck[1]"]),
        ("runs [exp]/ck*", ["runs [exp]/ck1", "runs [exp]/ck[1]"]),
        ("a*b/*", ["a*b/ck"]),
        ("runs [e]/*", ["runs e/ck1"]),
        ("runs*/ck1", ["runs [exp]/ck1", "runs e/ck1"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_folder_of_the_very_name_comes_before_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, wanted: list[str], absolute: bool
) -> None:
    for folder in ("runs [exp]", "runs [exp]/ck1", "runs [exp]/ck[1]", "runs e", "runs e/ck1", "a*b/ck", "a1b/ck"):
        (tmp_path / folder / "step0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found, _ = find_suites([str(tmp_path / model) if absolute else model], load_suites())
    assert [suite.path for suite in found] == [tmp_path / folder for folder in wanted]


def test_a_suite_of_the_very_name_comes_before_a_pattern(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    entry = "{repo: me/mine, revision: 'step{step}', schedule: pythia}"
    names = ["mine[1]", "min?1", "other"]
    defects = [{"suites": [n], "steps": "1", "kind": "missing", "note": n, "source": "s"} for n in names]
    file.write_text(f"suites: {{'mine[1]': {entry}, mine1: {entry}, other: {entry}}}\ndefects: {json.dumps(defects)}")
    suites = load_suites(file)
    assert [d.note for d in suites["mine[1]"].defects] == ["mine[1]"]
    assert [d.note for d in suites["mine1"].defects] == ["min?1"]
    assert find_suites(["mine[1]"], suites) == ((suites["mine[1]"],), False)
    assert find_suites(["mine[12]"], suites) == ((suites["mine1"],), True)


def test_an_unknown_model_is_met_with_near_matches() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*pythia-1\.4b.*rtdyn models"):
        find_suite("pythia-1.4B", load_suites())


def test_a_folder_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no step\*/ folders"):
        find_suite(str(tmp_path), load_suites())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", PYTHIA_STEPS),
        ("last", (143000,)),
        ("0,1,512,143000", (0, 1, 512, 143000)),
        ("1000:143000:1000", PYTHIA_STEPS[11:]),
        ("1000:9000:4000", (1000, 5000, 9000)),
        ("1:512", PYTHIA_STEPS[1:11]),
        ("last, 4, 2000:4000:2000,4", (4, 2000, 4000, 143000)),
        (
            "log",
            (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000, 33000, 66000, 131000, 143000),
        ),
    ],
)
def test_step_specifications(spec: str, expected: tuple[int, ...]) -> None:
    assert parse_steps(spec, PYTHIA_STEPS) == expected


def test_the_logarithmic_steps_are_sound_ones() -> None:
    suites = load_suites()
    usual, flawed = suites["pythia-160m"], suites["pythia-2.8b"]
    assert parse_steps("log", usual.steps, unsound=usual.unsound)[:3] == (0, 2, 4)  # step 1 has the weights of step 0
    chosen = parse_steps("log", flawed.steps, unsound=flawed.unsound)
    assert not set(chosen) & flawed.unsound and len(chosen) >= 3
    assert parse_steps("log,1", usual.steps, unsound=usual.unsound)[:3] == (0, 1, 2)
    assert parse_steps("log", (0, 5), unsound=(0, 5)) == (0, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("3", "nearest are 2 and 4"),
        ("143001", "not in the suite's schedule"),
        ("alll", "cannot read 'alll'"),
        ("", "cannot read ''"),
        ("1,,2", "cannot read ''"),
        ("-1", "cannot read"),
        ("1.5", "cannot read"),
        ("2000:1000", "holds no step"),
        ("1000:2000:0", "at least 1"),
    ],
)
def test_wrong_step_specifications_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_steps(spec, PYTHIA_STEPS)


def write(tmp_path: Path, **changes: object) -> Path:
    """A user's suites file with one sound suite, changed as asked."""
    entry = {"path": "here", "revision": "step{step}", "schedule": "short", "family": "gpt_neox"}
    data = {"schedules": {"short": "0,10:30:10"}, "suites": {"mine": {**entry, **changes}}}
    file = tmp_path / "suites.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_users_file_adds_suites_relative_to_itself(tmp_path: Path) -> None:
    suites = load_suites(write(tmp_path))
    assert suites["mine"].steps == (0, 10, 20, 30) and suites["mine"].path == tmp_path / "here"
    assert "pythia-70m" in suites
    assert load_suites(write(tmp_path, schedule="pythia"))["mine"].steps == PYTHIA_STEPS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "step"}, "suite mine has a pattern, so it needs a repo, and neither a schedule nor a revision"),
        ({"tokens_per_step": {5: 1}}, "must map first steps in ascending order, beginning with 0"),
        ({"tokens_per_step": {0: 0}}, "tokens_per_step must be a positive whole number, or map"),
        ({"revison": "x"}, "unknown key 'revison'; did you mean revision"),
        ({"schedule": "pythai"}, "unknown schedule 'pythai'; did you mean pythia"),
        ({"revision": "main"}, r"must contain \{step\}"),
        ({"repo": "a/b"}, "either a path or a repo"),
        ({"tokens_per_step": "many"}, "positive whole number"),
        ({"corpus": "king-jams"}, "did you mean king-james"),
        ({"revision": "step{step}-{other}"}, "no other placeholder"),
        ({"path": 5}, "path must be text"),
        ({"for": {"size": ["a"]}}, "placeholders"),
        ({"for": {"size": []}}, "suite mine: `for` must map each placeholder to a list of values"),
        ({"shape": "pythia-71m"}, "suite mine names an unknown shape 'pythia-71m'; did you mean pythia-"),
        ({"tokens_per_step": 0}, "suite mine: tokens_per_step must be a positive whole number"),
        ({"corpus": 5}, "suite mine: corpus must be text"),
        ({"texts": ["pile-valdation"]}, "suite mine names an unknown text 'pile-valdation'; did you mean pile-valid"),
        ({"texts": "pile-validation"}, "suite mine: texts must be a list of names"),
        ({"revison": "step{step}", "revision": 5}, "unknown key 'revison'"),
    ],
)
def test_a_typo_in_a_suites_file_is_one_sentence(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_suites(write(tmp_path, **changes))
    assert "suites.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_tokens_follow_the_batch_as_it_grew(tmp_path: Path) -> None:
    """Half as many tokens a step up to step 20, after a stage of 1,000 tokens."""
    suite = load_suites(write(tmp_path, tokens_per_step={0: 50, 20: 100}, tokens_before=1000))["mine"]
    assert [suite.tokens_seen(step) for step in (0, 10, 20, 30)] == [1000, 1500, 2000, 3000]
    plain = load_suites(write(tmp_path, tokens_per_step=50))["mine"]
    assert [plain.tokens_seen(step) for step in (0, 10, 30)] == [0, 500, 1500]


def test_a_suite_may_have_a_repository_for_each_step_and_one_for_the_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "suites.yaml"
    file.write_text(
        "schedules: {s: '20,40'}\n"
        "suites: {'b{n}': {repo: 'o/b{n}-step_{step}k', schedule: s, tokenizer: 'o/b{n}', for: {n: [1, 2]}}}"
    )
    suite = load_suites(file)["b2"]
    assert suite.place_of(20) == Place("o/b2-step_20k", "main")
    assert suite.tokenizer == "o/b2" and suite.steps == (20, 40)


def test_a_suite_with_a_pattern_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "suites.yaml"
    pattern = r"commits@run:.*Step (?P<step>\d+)"
    entry = {"repo": "o/mine", "pattern": pattern, "tokens_per_step": 7, "note": "mine", "frequencies": "counts.npy"}
    file.write_text(yaml.safe_dump({"suites": {"mine": entry}}))
    suites = load_suites(file)
    assert suites["mine"].steps == ()
    asked: list[tuple[str, RevisionPattern]] = []

    def on_hub(repo: str, pattern: RevisionPattern) -> SuiteSpec:
        asked.append((repo, pattern))
        found = {"steps": (1, 2), "names": ("abc", "def"), "revision": "found", "among": pattern.among, "note": "found"}
        return replace(suites["mine"], branch=pattern.branch, tokens_per_step=None, frequencies="corpus", **found)

    suite = find_suite("mine", suites, on_hub)
    assert asked == [("o/mine", revision_pattern(pattern))]
    assert suite.place_of(2) == Place("o/mine", "def") and suite.tokens_seen(2) == 14
    assert suite.note == "mine; found" and suite.frequencies == "counts.npy" and suite.branch == "run"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suites: [", "not valid YAML"),
        ("just words", "top level must be a mapping"),
        ("suite: {}", "did you mean suites"),
        ("suites: {70: {}}", "must be text"),
        ("suites: {'a{}': {path: x, revision: 'step{step}', schedule: tiny}}", "placeholder"),
        ("suites: {a: {path: x, schedule: tiny}}", "suite a lacks revision$"),
        ("suites: {a: {repo: o/a, pattern: 'step'}}", "suite a: the pattern 'step' has no group called step or tokens"),
        ("suites: {a: {repo: o/a}}", "suite a lacks revision, schedule$"),
        ("suites: {a: {repo: 'o/a{step}'}}", "suite a lacks schedule$"),
        ("suites: {a: 5}", "suite a must be a mapping$"),
        ("suites: [a]", "suites must be a mapping of names to entries"),
        ("schedules: 5", "schedules must be a mapping of names to step lists"),
        ("shapes: 5", "shapes must be a mapping of names to settings of a config.json"),
        ("shapes: {s: {n: 1}}", "shape s must be a mapping of a config.json's settings, model_type among them"),
        ("shapes: {s: {model_type: gpt2, n_layer: -1}}", "shape s: n_layer must be a whole number or text"),
        (
            "suites: {'a{b}': {repo: 'o/{c}', revision: 'step{step}', schedule: tiny, for: {b: [1]}}}",
            r"suite a\{b\}: 'o/\{c\}' has a placeholder that `for` does not fill",
        ),
        ("schedules: {s: '5:1:1'}", "holds no step"),
        ("schedules: {s: 10:30:10}", "put it in quotes"),
        ("defects: 5", "must be a list"),
        ("defects:\n- {suites: tiny, steps: '1', kind: missing, note: n, source: s}", "list of names"),
        ("defects:\n- {suites: [tiny], steps: '1', kind: 5, note: n, source: s}", "unknown kind 5"),
        ("schedules: {a: '1-3'}\nsuites: {}", "step list that cannot be read"),
        ("defects:\n- {suites: [tinny], steps: '1', kind: missing, note: n, source: s}", "matches none"),
        ("defects:\n- {suites: [tiny], steps: '1', kind: gone, note: n, source: s}", "unknown kind 'gone'"),
        ("defects:\n- {suites: [tiny], steps: '1', kind: missing}", "defect 1 lacks note, source"),
        ("defects: [5]", "defect 1 must be a mapping"),
        (
            "defects:\n- {suites: [tiny], steps: '1', kind: missing, note: n, source: s, whole: 5}",
            "defect 1: whole must be true or false",
        ),
        ("texts: {a: {corpus: king-james, held_out: 'ja'}}", "text a: unknown held_out 'ja'"),
        ("texts: {a: {corpus: king-jams, held_out: 'no'}}", "text a: unknown corpus 'king-jams'; did you mean king-"),
        ("texts: {a: {corpus: king-james}}", "text a lacks held_out"),
        (
            "defects:\n- {suites: [tiny], steps: '1', kind: duplicate, note: n, source: s, belongs_to: x}",
            "defect 1: belongs_to must be a step",
        ),
    ],
)
def test_a_malformed_suites_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "suites.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_suites(file)


def test_a_missing_suites_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the suites file"):
        load_suites(tmp_path / "none.yaml")


def test_every_registered_suite_has_a_default_text_at_a_fixed_commit_and_says_whether_it_was_held_out() -> None:
    pinned = "hf://datasets/[^@]+@[0-9a-f]{40}/.+"
    for name, suite in load_suites().items():
        default = suite.known_text(suite.corpus)
        assert default.source, name
        if name != "tiny":
            assert re.fullmatch(pinned, suite.corpus), name
        held_out = name == "tiny" or name.startswith("pythia-")
        assert default.held_out == ("yes" if held_out else "not checked"), name


def test_what_is_known_of_a_text_goes_by_its_data_set() -> None:
    pythia, tiny = load_suites()["pythia-70m"], load_suites()["tiny"]
    known = {
        "hf://datasets/EleutherAI/pile_val_test/test.jsonl": "yes",
        "hf://datasets/NeelNanda/pile-10k": "no",
        "hf://datasets/NeelNanda/pile-10k@abc/data/*.parquet": "no",
        "hf://datasets/NeelNanda/pile-10k-more": "not checked",
        "king-james": "not checked",
        "king-james-held-out": "not checked",
        "some/file.txt": "not checked",
    }
    assert {corpus: pythia.known_text(corpus).held_out for corpus in known} == known
    assert tiny.known_text("king-james-held-out").held_out == "yes"
    for corpus in ("king-james", "some/file.txt", "/a/file.jsonl", "king-james-held-out.txt"):
        assert tiny.known_text(corpus).held_out == "not checked", corpus
    assert tiny.known_text("hf://datasets/NeelNanda/pile-10k").held_out == "not checked"


def test_a_users_suite_names_a_text_or_has_a_corpus_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "suites.yaml"
    entry = "repo: a/b, revision: 'step{step}', schedule: pythia"
    file.write_text(
        "texts: {mine: {corpus: 'hf://datasets/o/n/a.jsonl', held_out: yes, source: me}}\n"
        f"suites: {{x: {{{entry}, texts: [mine, pile-10k]}}, y: {{{entry}, texts: [mine], corpus: king-james}}, "
        f"z: {{{entry}}}}}"
    )
    suites = load_suites(file)
    assert [suites[name].corpus for name in "xyz"] == ["hf://datasets/o/n/a.jsonl", "king-james", "king-james"]
    assert suites["x"].known_text(suites["x"].corpus) == KnownText(suites["x"].corpus, "yes", "me")
    assert suites["y"].known_text("king-james").held_out == "not checked"


def test_pythia_has_exact_counts_of_the_pile_or_a_sample_of_the_deduplicated_one_at_a_fixed_commit() -> None:
    suites = load_suites()
    for name, suite in suites.items():
        if name.startswith("pythia-"):
            pinned = "hf://datasets/EleutherAI/pile-deduped-pythia-preshuffled@[0-9a-f]{40}/document-[*].bin"
            assert re.fullmatch(pinned if "deduped" in name else "pile", suite.frequencies), name
