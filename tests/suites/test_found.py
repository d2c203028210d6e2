"""Names of checkpoints: each known form, what it is told from, and the run that is chosen among many names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdyn.errors import UsageError
from rtdyn.suites.forms import read_by, read_name, revision_pattern
from rtdyn.suites.found import found_among

NAMES = {
    "step143000": ("step{step}", 143000, None),
    "step-125000": ("step-{step}", 125000, None),
    "step1000-tokens3B": ("step{step}-tokens{tokens}", 1000, 3 * 10**9),
    "step2627139-tokens15T": ("step{step}-tokens{tokens}", 2627139, 15 * 10**12),
    "stage1-step1000-tokens3B": ("stage1-step{step}-tokens{tokens}", 1000, 3 * 10**9),
    "stage2-ingredient3-step1000-tokens3B": ("stage2-ingredient3-step{step}-tokens{tokens}", 1000, 3 * 10**9),
    "stage1-step1000": ("stage1-step{step}", 1000, None),
    "stage3-step-40000": ("stage3-step-{step}", 40000, None),
    "step-001000-2BT": ("step-{step}-{tokens}", 1000, 2 * 10**9),
    "step1250-seed-default": ("step{step}-seed-default", 1250, None),
    "step1250-seed-small-aux-2": ("step{step}-seed-small-aux-2", 1250, None),
    "checkpoint-500": ("checkpoint-{step}", 500, None),
    "checkpoint-1000step": ("checkpoint-{step}step", 1000, None),
    "ckpt_042": ("ckpt_{step}", 42, None),
    "step0000500": ("step{step}", 500, None),
    "global_step10000": ("global_step{step}", 10000, None),
    "iter2500": ("iter{step}", 2500, None),
    "iter_0002500": ("iter_{step}", 2500, None),
    "240b_tokens": ("{tokens}_tokens", None, 240 * 10**9),
    "593B": ("{tokens}", None, 593 * 10**9),
    "16.78B": ("{tokens}", None, 16_780_000_000),
    "chck_10M": ("chck_{tokens}", None, 10**7),
    "128000": ("{step}", 128000, None),
    "lc-4k-to-32k-step-8000": ("lc-4k-to-32k-step-{step}", 8000, None),
    "extension_step0000250": ("extension_step{step}", 250, None),
    "longctx-step500-tokens2B": ("longctx-step{step}-tokens{tokens}", 500, 2 * 10**9),
    "CrystalCoder_phase1_checkpoint_000500": ("CrystalCoder_phase1_checkpoint_{step}", 500, None),
}


@pytest.mark.parametrize("text", NAMES)
def test_every_known_form_is_read(text: str) -> None:
    name = read_name(text)
    assert name is not None
    assert (name.run, name.step, name.tokens) == NAMES[text]


@pytest.mark.parametrize(
    "text", ["main", "v1.0", "4bit", "gptq-4bit-32g", "refs-convert", "step", "stepfive", "deeper-starling"]
)
def test_other_names_are_read_as_none(text: str) -> None:
    assert read_name(text) is None


PREFIXES = ["step", "step-", "step_", "stage1-step", "stage1-step-", "stage2-step", "stage2-ingredient1-step"]
PREFIXES += ["checkpoint-", "ckpt_", "global_step", "iter", "iter_", "extension_step", "longctx-step"]


@given(
    prefixes=st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=5, unique=True),
    steps=st.sets(st.integers(0, 10**9), min_size=2, max_size=12),
    width=st.integers(0, 12),
)
def test_the_run_with_most_names_is_found_whole_and_no_other_mixed_in(
    prefixes: list[str], steps: set[int], width: int
) -> None:
    """Of several runs in one repository the i-th lacks the i smallest steps; numbers may be padded to a width."""
    prefixes = [p for p in prefixes if f"stage1-{p}" not in prefixes]  # these two are one run
    ordered = sorted(steps)
    names = [{step: f"{prefix}{step:0{width}d}" for step in ordered[i:]} for i, prefix in enumerate(prefixes)]
    found = found_among(["main", *(name for run in names for name in run.values())])
    assert found is not None
    assert found.names == names[0] and list(found.names) == ordered
    assert found.run == f"{prefixes[0]}{{step}}"
    left_out = {f"{prefix}{{step}}": len(run) for prefix, run in zip(prefixes[1:], names[1:], strict=True) if run}
    assert found.left_out == left_out and found.unread == ("main",)


def test_names_with_and_without_the_first_stage_are_one_run() -> None:
    early = [f"step{s}-tokens1B" for s in (150, 600)]
    late = [f"stage1-step{s}-tokens{s // 200}B" for s in (600, 1000, 2000)]
    second = [f"stage2-ingredient{k}-step{s}-tokens{s}B" for k in (1, 2, 3) for s in (1, 2, 3)]
    found = found_among(["main", *early, *late, *second])
    assert found is not None
    assert found.names == {150: early[0], 600: late[0], 1000: late[1], 2000: late[2]}
    assert found.what == (
        "4 of the form stage1-step{step}-tokens{tokens}; left out: "
        "3 of the form stage2-ingredient1-step{step}-tokens{tokens}, "
        "3 of the form stage2-ingredient2-step{step}-tokens{tokens}, "
        "3 of the form stage2-ingredient3-step{step}-tokens{tokens}, "
        "1 of the form stage1-step{step}-tokens{tokens} with a number that is taken already, main"
    )


def test_a_number_that_is_named_twice_is_taken_once_and_said() -> None:
    found = found_among(["step0500", "step500", "step1000"])
    assert found is not None and found.names == {500: "step500", 1000: "step1000"}
    assert "1 of the form step{step} with a number that is taken already" in found.what


@pytest.mark.parametrize(
    ("names", "numbers", "what"),
    [
        (["240b_tokens", "960b_tokens"], [240, 960], "in units of 1,000,000,000 tokens"),
        (["10B", "593B"], [10, 593], "in units of 1,000,000,000, the names do not say of what"),
        (["1M", "1.5B"], [1, 1500], "in units of 1,000,000, the names do not say of what"),
    ],
)
def test_amounts_order_a_run_that_names_no_step(names: list[str], numbers: list[int], what: str) -> None:
    found = found_among(["main", *names])
    assert found is not None and list(found.names) == numbers and what in found.what


def test_a_name_by_chance_is_no_run() -> None:
    assert found_among(["main", "7b"]) is None
    assert found_among(["main", "2024"]) is None
    assert found_among(["2024", "2025"], by_chance=False) is None


def test_a_users_pattern_chooses_and_tells_runs_apart() -> None:
    names = [f"run-{run}/at{step:04d}" for run in "ab" for step in (1, 20, 300)] + ["run-b/at9999"]
    pattern = revision_pattern(r"run-(?P<seed>\w)/at(?P<step>\d+)")
    found = found_among(names, pattern.regex)
    assert found is not None and list(found.names) == [1, 20, 300, 9999]
    assert found.run.endswith("with seed b") and sum(found.left_out.values()) == 3
    with pytest.raises(UsageError, match=r"'run-a/at0001' and 'run-b/at0001' one number; narrow it"):
        found_among(names, revision_pattern(r"run-\w/at(?P<step>\d+)").regex)
    assert found_among(names, revision_pattern(r"at(?P<step>\d+)").regex) is None


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("(", None, "no regular expression"),
        (r"step\d+", None, "has no group called step or tokens"),
        (r"(?P<step>\w+)", "main", "finds the step 'main' in 'main'; it must be a whole number"),
        (r"(?P<tokens>\d+)(?P<unit>\w)", "5X", "finds '5X' tokens in '5X'"),
        (r"(?P<step>\d+)?x", "x", "finds neither step nor tokens in 'x'"),
    ],
)
def test_a_pattern_that_cannot_order_anything_is_one_sentence(text: str, name: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        regex = revision_pattern(text).regex
        assert regex is not None
        read_by(regex, name or "")


@pytest.mark.parametrize(
    ("text", "among", "branch", "regex"),
    [
        (r"x(?P<step>\d+)", "refs", "main", r"x(?P<step>\d+)"),
        ("refs:", "refs", "main", None),
        ("subfolder:", "subfolder", "main", None),
        (r"subfolder@dev:x/(?P<step>\d+)", "subfolder", "dev", r"x/(?P<step>\d+)"),
        (r"commits@run/1:Step: (?P<step>\d+)", "commits", "run/1", r"Step: (?P<step>\d+)"),
        (r"other:(?P<step>\d+)", "refs", "main", r"other:(?P<step>\d+)"),
    ],
)
def test_a_pattern_says_where_to_look(text: str, among: str, branch: str, regex: str | None) -> None:
    pattern = revision_pattern(text)
    assert (pattern.among, pattern.branch) == (among, branch)
    assert (pattern.regex.pattern if pattern.regex else None) == regex


def test_commits_need_an_expression() -> None:
    with pytest.raises(UsageError, match="has no group called step or tokens"):
        revision_pattern("commits:")


@pytest.mark.parametrize(
    ("pattern", "names", "kept", "fault"),
    [
        (r"at(?P<step>\w+)", ["at1", "at2", "atend"], {1: "at1", 2: "at2"}, "the step 'end' in 'atend'"),
        (r"at(?P<step>\d+)", ["at1", "at01", "at2"], {1: "at1", 2: "at2"}, "'at1' and 'at01' one number"),
        (r"at(?P<step>\d+)?(?:-(?P<tokens>\d+)(?P<unit>B))?", ["at1", "at2", "at-3B"], {1: "at1", 2: "at2"},
         "none in others, such as 'at-3B'"),
        (r"at(?P<step>\d+)?", ["at1", "at2", "at"], {1: "at1", 2: "at2"}, "neither step nor tokens in 'at'"),
    ],
)  # fmt: skip
def test_what_a_pattern_reads_wrongly_is_refused_or_passed_over(
    pattern: str, names: list[str], kept: dict[int, str], fault: str
) -> None:
    regex, said = revision_pattern(pattern).regex, list[str]()
    with pytest.raises(UsageError, match=fault):
        found_among(names, regex)
    found = found_among(names, regex, pass_over=said.append)
    assert found is not None and dict(found.names) == kept
    assert len(said) == 1 and fault in said[0]
