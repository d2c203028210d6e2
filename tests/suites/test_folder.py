"""Folders of checkpoints: the names that trainers give, what they count, and folders that are one model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtdyn.errors import InputError
from rtdyn.suites.find import find_suite, find_suites, load_suites
from rtdyn.suites.forms import revision_pattern


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


PLAIN = ("step{}", "step-{}", "step_{}", "checkpoint-{}", "global_step{}", "epoch3-step{}", "my-run-checkpoint-{}")
PADDED = ("step{}", "iter_{}", "ckpt_{}")


@pytest.mark.parametrize(("form", "width"), [*((form, 0) for form in PLAIN), *((form, 7) for form in PADDED)])
def test_the_names_of_trainers_are_read(tmp_path: Path, form: str, width: int) -> None:
    names = {step: form.format(f"{step:0{width}d}") for step in (5, 10, 500)}
    suite = find_suite(str(made(tmp_path / "run", *names.values(), "logs", "runs", "2024")), {})
    assert suite.steps == (5, 10, 500) and suite.repo is None
    assert {step: suite.revision_of(step) for step in suite.steps} == names
    assert suite.tokens_seen(5) is None
    if suite.names:
        assert "left out: 2024, logs, runs" in suite.note


def test_a_folder_of_plain_steps_is_what_it_was(tmp_path: Path) -> None:
    """The configuration of a run that is there must not change: it resumes."""
    suite = find_suite(str(made(tmp_path / "run", "step0", "step512")), {})
    assert suite.names == () and suite.revision == "step{step}" and suite.revision_of(512) == "step512"


def test_the_trainers_state_gives_tokens_where_it_counted_them(tmp_path: Path) -> None:
    made(tmp_path, "checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4")
    states = ['{"num_input_tokens_seen": 4096}', '{"num_input_tokens_seen": 0}', '{"num_input', "[1]"]
    for step, state in enumerate(states, 1):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    suite = find_suite(str(tmp_path), {})
    assert [suite.tokens_seen(step) for step in suite.steps] == [4096, None, None, None]


@pytest.mark.parametrize(("name", "state", "step"), [("checkpoint-500", None, 500), ("m", 40, 40), ("m", None, 0)])
def test_a_folder_that_is_one_model_is_a_suite_of_one_step(
    tmp_path: Path, name: str, state: int | None, step: int
) -> None:
    folder = made(tmp_path, name) / name
    (folder / "config.json").write_text("{}")
    if state is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": state}))
    suite = find_suite(str(folder), {})
    assert suite.steps == (step,) and suite.path is not None
    assert suite.path / suite.revision_of(step) == folder
    assert suite.note == "one model; trajectories and claims need three steps"


def test_the_model_beside_the_checkpoints_is_said_to_be_left_out(tmp_path: Path) -> None:
    made(tmp_path, "checkpoint-1", "checkpoint-2")
    (tmp_path / "config.json").write_text("{}")
    assert find_suite(str(tmp_path), {}).note == "2 of the form checkpoint-{step}; the model beside them is left out"


def test_a_users_pattern_chooses_folders(tmp_path: Path) -> None:
    made(tmp_path, "checkpoint-1", "checkpoint-2", "ema-of-7", "ema-of-8")
    pattern = revision_pattern(r"ema-of-(?P<step>\d+)")
    assert find_suite(str(tmp_path), {}, None, pattern).steps == (7, 8)
    with pytest.raises(InputError, match="matches as a whole; its folders are checkpoint-1"):
        find_suite(str(tmp_path), {}, None, revision_pattern(r"ema-(?P<step>\d+)"))


def test_a_pattern_of_paths_finds_folders_of_any_form(tmp_path: Path) -> None:
    made(tmp_path, "a/checkpoint-1", "b/iter_0000001", "c/2024", "c/logs")
    found, several = find_suites([f"{tmp_path}/*"], load_suites())
    assert [suite.name for suite in found] == ["a", "b"] and several


def test_a_folder_that_is_nothing_names_its_folders(tmp_path: Path) -> None:
    made(tmp_path, "2024", "best")
    with pytest.raises(InputError, match=r"no step\*/ folders.*its folders are 2024, best; name the folders by"):
        find_suite(str(tmp_path), {})
