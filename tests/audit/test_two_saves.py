"""Checkpoints of two saves: parts planted into sound steps are found, by fingerprints and by what lies beside them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback.place import TINY, copy_step
from safetensors.torch import load_file, save_file
from support.tracking import rtdyn

from rtdyn.audit.fingerprint import Fingerprint, fingerprint_of_files
from rtdyn.audit.two_saves import misplaced_steps, steps_of_two_saves
from rtdyn.model.stored_names import part_of
from rtdyn.suites.suite import SuiteSpec

pytestmark = pytest.mark.slow  # seconds in all: whole suites are planted

Prints = dict[int, Fingerprint]
PARTS = ("embedding", "layer 0", "layer 1", "layer 2", "unembedding")
CUTS = [*(PARTS[:i] for i in range(1, 5)), *(PARTS[i:] for i in range(1, 5)), ("layer 1",)]
"""As shards cut a model, which hold its parts in order, and one part alone."""


@pytest.fixture(scope="module")
def sound(tiny: SuiteSpec) -> Prints:
    return {s: fingerprint_of_files([TINY / f"step{s}" / "model.safetensors"], "gpt_neox") for s in tiny.steps}


def mixed(own: Fingerprint, other: Fingerprint, parts: Collection[str]) -> Fingerprint:
    return {name: (other if part_of(name) in parts else own)[name] for name in own}


def apart(sound: Prints, least: int) -> list[tuple[int, int]]:
    """Pairs of steps with so many places between them in the order of training."""
    steps = sorted(sound)
    return [(a, b) for a, b in itertools.permutations(steps, 2) if abs(steps.index(a) - steps.index(b)) >= least]


def test_no_sound_step_is_ever_doubted(sound: Prints) -> None:
    assert misplaced_steps(sound, True) == {}
    for some in itertools.islice(itertools.combinations(sound, 4), 0, None, 17):
        assert steps_of_two_saves({step: sound[step] for step in some}) == {}, some


@pytest.mark.slow
def test_parts_of_a_step_that_is_there_are_found_and_named(sound: Prints) -> None:
    for (step, other), parts in itertools.islice(itertools.product(apart(sound, 3), CUTS), 0, None, 31):
        found = misplaced_steps({**sound, step: mixed(sound[step], sound[other], parts)}, True)
        assert set(found) == {step}, (step, other, parts)
        assert "two saves" in found[step] and f"equal to step {other}'s" in found[step]


@pytest.mark.slow
def test_parts_of_a_step_that_is_not_there_are_found(sound: Prints) -> None:
    for (step, other), parts in itertools.islice(itertools.product(apart(sound, 4), CUTS), 0, None, 31):
        planted = {**sound, step: mixed(sound[step], sound[other], parts)}
        del planted[other]
        assert set(misplaced_steps(planted, True)) == {step}, (step, other, parts)


def test_parts_that_neighbours_share_are_found_at_one_of_them_or_both(sound: Prints) -> None:
    steps = [step for step in sorted(sound) if step >= 8]
    for (earlier, later), parts in itertools.islice(itertools.product(itertools.pairwise(steps), CUTS), 0, None, 7):
        planted = {**sound, later: mixed(sound[later], sound[earlier], parts)}
        assert later in misplaced_steps(planted, True) and misplaced_steps(planted, True).keys() <= {earlier, later}


@pytest.mark.slow
def test_a_whole_step_in_another_place_is_not_said_to_be_of_two_saves(sound: Prints) -> None:
    for a, b in itertools.islice(itertools.combinations(sound, 2), 0, None, 5):
        found = misplaced_steps({**sound, a: sound[b], b: sound[a]}, True)
        assert set(found) == {a, b} and not any("two saves" in why for why in found.values()), (a, b)


@pytest.mark.parametrize("step", [0, 64, 2000, 4000])
def test_a_part_of_another_training_run_is_found(sound: Prints, step: int) -> None:
    signs = np.random.default_rng(0).choice([-1, 1], 256).astype("f4")
    foreign = {n: np.concatenate([v[:1], v[1:] * signs]) for n, v in sound[1000].items()}
    found = misplaced_steps({**sound, step: mixed(sound[step], foreign, PARTS[3:])}, True)
    assert set(found) == {step} and "unrelated to every other step's" in found[step]


def test_frozen_parts_are_sound_whether_always_or_for_a_while(sound: Prints) -> None:
    always = {s: mixed(f, sound[1000], ("embedding", "layer 0")) for s, f in sound.items()}
    at_first = {s: mixed(f, sound[0], ("embedding",)) if s <= 64 else f for s, f in sound.items()}
    for frozen in (always, at_first):
        assert steps_of_two_saves(frozen) == {}


def test_a_part_that_not_all_steps_hold_is_compared_where_it_is(sound: Prints) -> None:
    tied = {s: {n: v for n, v in f.items() if part_of(n) != "unembedding" or s % 3} for s, f in sound.items()}
    zero = {**sound, 0: {n: v * (part_of(n) != "unembedding") for n, v in sound[0].items()}}
    for changed in (tied, zero):
        assert steps_of_two_saves(changed) == {}
        planted = {**changed, 2000: mixed(changed[2000], changed[64], PARTS[:2])}
        assert set(steps_of_two_saves(planted)) == {2000}


# folders ------------------------------------------------------------------------------------------------------------


def half_of(name: str) -> str:
    early = ("embed_in", "layers.0.", "layers.1.attention")
    return "model-00001-of-00002.safetensors" if any(e in name for e in early) else "model-00002-of-00002.safetensors"


def weights_of(step: int) -> dict[str, torch.Tensor]:
    return load_file(TINY / f"step{step}" / "model.safetensors")


def shard(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Mapping[str, str]] = {},
    total: int | None = None,
    suffix: str = "safetensors",
) -> None:
    """Writes the tensors into two shards with their index, in place of the folder's weights."""
    (folder / "model.safetensors").unlink()
    names = {n: half_of(n) for n in tensors}
    for file in sorted(set(names.values())):
        held = {n: t.contiguous() for n, t in tensors.items() if names[n] == file}
        save_file(held, folder / file, metadata={"format": "pt", **metadata.get(file, {})})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size if total is None else total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def two_saves(step: int, other: int) -> dict[str, torch.Tensor]:
    """The first shard of one step, the second of another."""
    of_step, of_other = weights_of(step), weights_of(other)
    return {n: t if half_of(n).startswith("model-00001") else of_other[n] for n, t in of_step.items()}


STEPS = (64, 512, 1000, 2000, 3000, 4000)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Six sound steps in shards."""
    folder = tmp_path / "suite"
    for step in STEPS:
        shard(copy_step(step, folder), weights_of(step))
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(TINY / name, folder)
    return folder


def again(suite: Path, step: int, tensors: Mapping[str, torch.Tensor], **more: Any) -> None:
    """Saves a step anew."""
    shutil.rmtree(suite / f"step{step}")
    shard(copy_step(step, suite), tensors, **more)


def unsound(suite: Path) -> dict[int, str]:
    """By step: the reasons against it, of an audit."""
    steps = json.loads(rtdyn("audit", "--model", suite, "--json").stdout)["steps"]
    return {s["step"]: "; ".join(s["reasons"]) for s in steps if s["verdict"] != "sound"}


def test_a_folder_of_sound_shards_is_sound(suite: Path) -> None:
    assert unsound(suite) == {}


def test_a_shard_that_is_also_another_steps_is_found(suite: Path) -> None:
    again(suite, 2000, two_saves(2000, 4000))
    found = unsound(suite)
    assert set(found) == {2000} and "model-00002-of-00002.safetensors the same bytes as step 4000" in found[2000]


def test_a_shard_of_a_step_that_is_not_there_is_found(suite: Path) -> None:
    again(suite, 2000, two_saves(2000, 64))
    shutil.rmtree(suite / "step64")
    found = unsound(suite)
    assert set(found) == {2000} and "it is put together from two saves" in found[2000]


def test_two_saves_in_one_file_are_found(suite: Path) -> None:
    shutil.rmtree(suite / "step2000")
    folder = copy_step(2000, suite)
    save_file(two_saves(2000, 512), folder / "model.safetensors", metadata={"format": "pt"})
    found = unsound(suite)
    assert set(found) == {2000} and "equal to step 512's" in found[2000]


def test_two_saves_in_bin_files_are_found(suite: Path) -> None:
    for step in STEPS:
        shutil.rmtree(suite / f"step{step}")
        folder = copy_step(step, suite, weights=False)
        torch.save(two_saves(step, 512 if step == 2000 else step), folder / "pytorch_model.bin")
    assert set(unsound(suite)) == {2000}


@pytest.mark.slow
def test_a_tensor_in_two_shards_is_found_and_refused(suite: Path, tmp_path: Path) -> None:
    file = suite / "step2000" / "model-00001-of-00002.safetensors"
    held = load_file(file)
    save_file({**held, "embed_out.weight": weights_of(64)["embed_out.weight"]}, file, metadata={"format": "pt"})
    assert "embed_out.weight lies in model-00001-of-00002" in unsound(suite)[2000]
    for by_layers, analyses in (("never", "ablation"), ("always", "ablation"), ("never", "heavytail")):
        cheap = ("--tokens", "2048", "--rare", "0.3:0.95", "--min-targets", "5", "--positions-per-rare", "1")
        how = ("--stream-layers", by_layers, "--analyses", analyses, "--wandb", "disabled", *cheap)
        ended = rtdyn("track", "--model", suite, "--steps", "2000", "--out", tmp_path / by_layers / analyses, *how)
        assert ended.exit_code == 3 and "embed_out.weight lies in" in ended.stderr, ended.stderr


def test_an_index_of_another_save_is_found(suite: Path) -> None:
    file = suite / "step2000" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["embed_out.weight"] = "model-00001-of-00002.safetensors"
    file.write_text(json.dumps(index))
    assert "its index has embed_out.weight in model-00001-of-00002.safetensors" in unsound(suite)[2000]


@pytest.mark.slow
def test_an_index_that_counts_other_bytes_is_found_unless_it_is_the_habit(suite: Path) -> None:
    again(suite, 2000, weights_of(2000), total=12345)
    assert "its index is another save's" in unsound(suite)[2000] and len(unsound(suite)) == 1
    for step in STEPS:
        again(suite, step, weights_of(step), total=12345)
    assert unsound(suite) == {}


@pytest.mark.slow
def test_shards_that_say_different_steps_are_found_unless_it_is_the_habit(suite: Path) -> None:
    second = "model-00002-of-00002.safetensors"
    again(suite, 2000, weights_of(2000), metadata={second: {"step": "4000"}})
    assert "metadata differ in step" in unsound(suite)[2000] and len(unsound(suite)) == 1
    for step in STEPS:
        again(suite, step, weights_of(step), metadata={second: {"shard": "2"}})
    assert unsound(suite) == {}


def write_times(suite: Path, first: Mapping[int, int], second: Mapping[int, int]) -> None:
    for times, file in ((first, "model-00001-of-00002.safetensors"), (second, "model-00002-of-00002.safetensors")):
        for step, time in times.items():
            os.utime(suite / f"step{step}" / file, (time, time))


@pytest.mark.slow
def test_shards_written_around_another_step_are_suspect_until_they_are_loaded(suite: Path, tmp_path: Path) -> None:
    begun = {step: 10 * step for step in STEPS}
    ended = {step: time + 5 for step, time in begun.items()}
    write_times(suite, begun, ended)
    assert unsound(suite) == {}
    write_times(suite, begun, {**ended, 2000: 10 * 3000 + 60})
    assert set(unsound(suite)) == {2000} and "with all of another step between them" in unsound(suite)[2000]
    run = tmp_path / "run"
    result = rtdyn("track", "--model", suite, "--out", run, "--analyses", "heavytail", "--wandb", "disabled")
    assert result.exit_code == 0 and "left out" not in result.stdout, result.stderr
    backwards = {step: -time for step, time in begun.items()}  # as copies in another order have them
    write_times(suite, backwards, {**{s: t + 5 for s, t in backwards.items()}, 2000: -5})
    assert unsound(suite) == {}


def test_a_truncated_shard_is_found_and_still_refused(suite: Path, tmp_path: Path) -> None:
    file = suite / "step2000" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert "is truncated" in unsound(suite)[2000]
    arguments = ("--steps", "2000", "--out", tmp_path / "run", "--analyses", "heavytail", "--wandb", "disabled")
    ended = rtdyn("track", "--model", suite, *arguments)
    assert ended.exit_code == 3 and "is truncated" in ended.stderr


@pytest.mark.slow
def test_a_run_leaves_out_a_step_of_two_saves(suite: Path, tmp_path: Path) -> None:
    again(suite, 2000, two_saves(2000, 64))
    shutil.rmtree(suite / "step64")
    cheap = ("--tokens", "2048", "--rare", "0.3:0.95", "--min-targets", "5", "--positions-per-rare", "1")
    run = ("--analyses", "ablation", "--tolerance", "0.01", "--wandb", "disabled", *cheap)
    result = rtdyn("track", "--model", suite, "--out", tmp_path / "run", *run)
    assert result.exit_code == 0, result.stderr
    assert "step 2000 is kept in the tables and left out of trajectories: it is put together from two" in result.stdout
    assert list(json.loads((tmp_path / "run" / "manifest.json").read_text())["left_out"]) == ["2000"]
