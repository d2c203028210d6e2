"""Steps out of order are found by their fingerprints, and a sound suite, or any part of it, is never doubted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import transformers

from rtdyn.audit.fingerprint import Fingerprint, decode, encode, fingerprint_of, fingerprint_of_files
from rtdyn.audit.weight_order import distances, doubtful_steps
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.suites.steps import parse_steps
from rtdyn.suites.suite import SuiteSpec

Prints = dict[int, Fingerprint]


@pytest.fixture(scope="module")
def sound(tiny: SuiteSpec) -> Prints:
    return {step: fingerprint_of_files(fetch_local(tiny, step).files, "gpt_neox") for step in tiny.steps}


@pytest.fixture(scope="module")
def foreign(tiny: SuiteSpec) -> Fingerprint:
    """Of a model of the same shape, initialised by another seed."""
    torch.manual_seed(11)
    config = transformers.AutoConfig.from_pretrained(fetch_local(tiny, 0).folder)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return fingerprint_of({n.removeprefix("gpt_neox."): w for n, w in model.state_dict().items()})


def doubted(prints: Prints, *, updates: bool = True) -> set[int]:
    return set(doubtful_steps(prints, steps_are_updates=updates))


def chord(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float(np.sqrt(np.mean([float((x - y).norm()) ** 2 for x, y in zip(one, other, strict=True)])))


@pytest.mark.slow
def test_distances_are_those_of_the_weights(tiny: SuiteSpec, sound: Prints) -> None:
    steps = (0, 8, 512, 4000)
    weights = [load_model(fetch_local(tiny, s), "cpu").state_dict() for s in steps]
    names = [n for n, w in weights[0].items() if w.ndim == 2]
    assert {n.removeprefix("gpt_neox.") for n in names} == sound[0].keys() and len(names) == 14
    units = [[w[n] / w[n].norm() for n in names] for w in weights]
    exact = np.array([[chord(a, b) for b in units] for a in units])
    found = distances([sound[s] for s in steps])
    away = ~np.eye(4, dtype=bool)
    assert np.all(found[~away] == 0)
    assert np.abs(found[away] / exact[away] - 1).max() < 0.08


def test_a_fingerprint_survives_as_text(sound: Prints) -> None:
    back = decode(encode(sound[8]))
    assert back is not None and set(back) == set(sound[8])
    assert all(np.array_equal(back[n], sound[8][n]) for n in back)
    assert decode(encode(sound[8]).replace("256", "128")) is None


@pytest.mark.slow
def test_a_sound_suite_and_its_parts_are_never_doubted(tiny: SuiteSpec, sound: Prints) -> None:
    assert doubted(sound) == set()
    parts = [parse_steps("log", tiny.steps), (0, 512, 4000), *itertools.combinations(tiny.steps, 3)]
    rng = np.random.default_rng(0)
    parts += [tuple(rng.choice(tiny.steps, rng.integers(4, 18), replace=False).tolist()) for _ in range(60)]
    assert [p for p in parts for updates in (True, False) if doubted({s: sound[s] for s in p}, updates=updates)] == []


@pytest.mark.slow
def test_two_steps_in_each_others_place_are_found_and_no_other(sound: Prints) -> None:
    pairs = list(itertools.combinations(sound, 2))
    assert [(a, b) for a, b in pairs if doubted({**sound, a: sound[b], b: sound[a]}) != {a, b}] == []


def test_a_late_checkpoint_in_an_early_place_is_found(sound: Prints) -> None:
    early = [s for s in sound if s <= 2000]
    assert [s for s in early if doubted({**sound, s: sound[3500]}) != {s}] == []
    reason = doubtful_steps({**sound, 64: sound[3500]}, True)[64]
    assert reason == "its weights lie nearer to those of step 3500 than to those of its neighbours"


def test_a_start_that_the_others_do_not_continue_is_found(sound: Prints, foreign: Fingerprint) -> None:
    """EleutherAI/pythia issue 203: the weights from step 1 on do not continue from step 0."""
    for updates in (True, False):
        assert doubted({**sound, 0: foreign}, updates=updates) == {0}
    assert "unrelated" in doubtful_steps({**sound, 0: foreign}, True)[0]
    few = {0: foreign, 1: sound[1], 512: sound[512]}
    assert doubted(few) == {0} and doubted(few, updates=False) == set()


def test_a_stranger_anywhere_is_found(sound: Prints, foreign: Fingerprint) -> None:
    assert [s for s in sound if doubted({**sound, s: foreign}) != {s}] == []


def test_two_steps_are_never_doubted(sound: Prints, foreign: Fingerprint) -> None:
    assert doubted({0: foreign, 1: sound[1]}) == set()
