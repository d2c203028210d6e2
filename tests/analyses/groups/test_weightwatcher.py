"""weightwatcher: its own numbers, as its users get them, and nothing else of it."""

from __future__ import annotations

import ast
import logging
import random
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rtdyn.analyses.groups import weightwatcher as ours
from rtdyn.analyses.groups.heavytail import (
    ALPHA,
    ALPHA_WEIGHTED,
    ENTROPY,
    HALF,
    STABLE_RANK,
    Spectra,
    hill_of_spectra,
)
from rtdyn.analyses.groups.weightwatcher import WEIGHTWATCHER_METRICS, squared_singular_values, weightwatcher_metrics
from rtdyn.analyses.groups.weightwatcher_row import weightwatcher_row
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.suites.suite import SuiteSpec
from rtdyn.undefined import Undefined


def gaussian(neurons: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((neurons, width)))


def with_spectrum(values: np.ndarray, width: int, seed: int = 0) -> torch.Tensor:
    """Rows of mean 0 with exactly these singular values."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    noise = rng.standard_normal((width, len(values)))
    right = np.linalg.qr(noise - noise.mean(0))[0]
    return torch.from_numpy(left * values @ right.T)


def direct(*matrices: torch.Tensor) -> list[dict[str, float]]:
    """weightwatcher's table for a model of these layers, called as its users call it."""
    import weightwatcher

    layers = [nn.Linear(m.shape[1], m.shape[0], bias=False) for m in matrices]
    with torch.no_grad():
        for layer, matrix in zip(layers, matrices, strict=True):
            layer.weight.copy_(matrix)
    return weightwatcher.WeightWatcher(model=nn.Sequential(*layers)).analyze().to_dict("records")


def same(found: dict[str, float | Undefined], row: dict[str, float]) -> None:
    """The metrics are those of a row of weightwatcher's own table, whose singular values are SciPy's."""
    assert found == pytest.approx({name: row[name] for name in WEIGHTWATCHER_METRICS}, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 40), (40, 64), (12, 96), (8, 9), (8, 8), (96, 96), (700, 200)])
def test_the_metrics_are_weightwatchers_own(shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape).float() * 0.3
    found = weightwatcher_metrics(matrix)
    (expected,) = direct(matrix)
    same(found, expected)
    squares = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    share = squares / squares.sum()
    assert found[STABLE_RANK] == pytest.approx(1 / share.max(), rel=1e-5)
    assert found[ENTROPY] == pytest.approx(-(share * np.log(share)).sum() / np.log(len(share)), rel=1e-5)
    assert found[ALPHA_WEIGHTED] == pytest.approx(found[ALPHA] * np.log10(squares.max()), rel=1e-5)


@pytest.mark.slow
def test_one_call_for_several_layers_gives_the_same_and_leaves_small_ones_out() -> None:
    matrices = [gaussian(30, 40, seed).float() for seed in range(3)] + [gaussian(7, 40).float()]
    table = direct(*matrices)
    assert len(table) == 3
    for matrix, row in zip(matrices, table, strict=False):
        same(weightwatcher_metrics(matrix), row)
    assert weightwatcher_metrics(matrices[3]) == dict.fromkeys(
        WEIGHTWATCHER_METRICS, Undefined("7 singular values, under 8")
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 300), kind=st.sampled_from(["Gram", "Pareto", "ties"]))
def test_the_fit_to_the_tail_is_the_fit_to_all(seed: int, n: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = np.array(rng.pareto(rng.uniform(0.5, 4), n) + rng.uniform(0, 1))
    if kind == "Gram":
        values = np.square(np.linalg.svd(rng.standard_normal((n, n + 5)), compute_uv=False))
    if kind == "ties":
        values = values.round(1)
    values[: n // 10] = 0
    some = ours.tail(values)
    assert 20 <= some <= max(n, 20) or some == n
    np.testing.assert_equal(weightwatcher_row(values, n, some), weightwatcher_row(values, n, n))


def test_a_tail_is_shorter_than_the_body_of_noise_before_it() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0.1, 1, 3000), 1 + rng.pareto(2, 200)])
    assert 150 <= ours.tail(values) <= 600


@pytest.mark.slow
def test_its_alpha_is_a_density_exponent() -> None:
    # singular values whose squares have P(λ > x) = x^−1.5, so a density exponent of 2.5
    squares = (1 - (np.arange(300) + 0.5) / 300) ** (-1 / 1.5)
    found = weightwatcher_metrics(with_spectrum(np.sqrt(squares), 320))
    assert found[ALPHA] == pytest.approx(2.5, abs=0.1)
    assert hill_of_spectra(Spectra(squares[None, ::-1], np.array([300])), HALF).alpha[0] == pytest.approx(1.5, abs=0.1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_transposition_and_random_state_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = gaussian(24, 33, seed).float()
    first = weightwatcher_metrics(matrix)
    np.random.seed(seed)
    shuffled = matrix[torch.from_numpy(rng.permutation(24))][:, torch.from_numpy(rng.permutation(33))]
    for other in (shuffled, matrix.T, -matrix):
        assert weightwatcher_metrics(other) == pytest.approx(first, rel=1e-4)


def test_it_leaves_no_trace(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weightwatcher_metrics(gaussian(10, 10))

    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name) for name in (None, "weightwatcher", "matplotlib")]
        return (
            [(one.level, one.handlers[:], one.disabled) for one in loggers],
            logging.root.manager.disable,
            warnings.filters[:],
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
            torch.cuda.is_available,
        )

    before = state()
    # fewer than 20 eigenvalues make it print, a failed fit makes it log
    weightwatcher_metrics(gaussian(10, 30))
    weightwatcher_metrics(torch.ones(30, 30))
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_what_another_thread_prints_and_logs_meanwhile_is_not_silenced(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    weightwatcher_metrics(gaussian(10, 10))
    ended, said = threading.Event(), 0

    def speak() -> None:
        nonlocal said
        while not ended.is_set():
            print(f"line {said}")
            logging.getLogger("another").warning("record %d", said)
            said += 1
            time.sleep(0.001)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        while said == 0:
            time.sleep(0.001)
        before = said
        weightwatcher_metrics(gaussian(800, 800))
        meanwhile = said - before
    finally:
        ended.set()
        speaker.join()
    assert meanwhile > 3
    assert capsys.readouterr().out.splitlines() == [f"line {number}" for number in range(said)]
    assert [record.message for record in caplog.records] == [f"record {number}" for number in range(said)]


FIRST_IMPORT = """
import logging, warnings
import torch
import rtdyn.analyses.groups.weightwatcher as h
torch.cuda.is_available = sight = lambda: True
filters, handlers = warnings.filters[:], logging.getLogger().handlers[:]
found = h.weightwatcher_metrics(torch.linspace(-1, 1, 400).reshape(20, 20).sin() + torch.eye(20))
assert torch.cuda.is_available is sight
assert warnings.filters == filters and logging.getLogger().handlers == handlers == []
assert logging.getLogger().level == logging.WARNING
assert logging.getLogger("matplotlib").level == logging.NOTSET
print(repr(found))
"""


@pytest.mark.slow
def test_its_first_import_is_silent_and_a_gpu_in_sight_does_not_change_the_numbers() -> None:
    run = subprocess.run([sys.executable, "-c", FIRST_IMPORT], capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    matrix = torch.linspace(-1, 1, 400).reshape(20, 20).sin() + torch.eye(20)
    assert ast.literal_eval(run.stdout) == weightwatcher_metrics(matrix)


def test_it_refuses_a_weightwatcher_that_counts_with_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import weightwatcher.RMT_Util

    # what its import defines where torch sees a GPU
    monkeypatch.setattr(weightwatcher.RMT_Util, "EPSILON", 6e-05)
    monkeypatch.setattr(ours, "quietly", lambda function, *arguments: function(*arguments))
    (reason,) = set(weightwatcher_metrics(gaussian(20, 20)).values())
    assert reason == Undefined("weightwatcher was imported with a GPU in sight and counts with half precision")


@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
def test_squared_singular_values_of_a_low_rank_are_scipys_and_exactly_0_beyond(shape: tuple[int, int]) -> None:
    matrix = gaussian(shape[0], 12) @ gaussian(12, shape[1], 1)
    found = squared_singular_values(matrix)
    expected = np.sort(np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * expected[-1])
    assert (found > 0).sum() == 12


def test_degenerate_matrices_have_reasons() -> None:
    zero = weightwatcher_metrics(torch.zeros(20, 20))
    assert zero == dict.fromkeys(WEIGHTWATCHER_METRICS, Undefined("the matrix is zero"))
    broken = torch.ones(20, 20)
    broken[3, 4] = torch.nan
    assert weightwatcher_metrics(broken)[ALPHA] == Undefined("the matrix holds values that are not finite")
    rank_one = weightwatcher_metrics(torch.outer(torch.arange(1.0, 21), torch.arange(1.0, 21)))
    assert rank_one[ALPHA] == rank_one[ALPHA_WEIGHTED] == Undefined("1 eigenvalue above 1e-05, under 8")
    assert rank_one[STABLE_RANK] == pytest.approx(1)
    assert weightwatcher_metrics(torch.eye(20))[ALPHA] == Undefined("the power law could not be fitted")
    rotation = torch.linalg.qr(gaussian(30, 30))[0]
    turned = weightwatcher_metrics(rotation)
    assert isinstance(turned[ALPHA], Undefined) and turned[STABLE_RANK] == pytest.approx(30, rel=1e-5)
    assert turned[ENTROPY] == pytest.approx(1, rel=1e-5)
    tiny = weightwatcher_metrics(gaussian(20, 30) * 1e-5)
    assert isinstance(tiny[ALPHA], Undefined) and isinstance(tiny[STABLE_RANK], float)
    for values in (zero, rank_one, turned, tiny):
        assert all(isinstance(v, Undefined) or np.isfinite(v) for v in values.values())


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_trained_checkpoints(tiny: SuiteSpec, step: int) -> None:
    model = load_model(fetch_local(tiny, step), "cpu")
    rows = model.gpt_neox.layers[-1].mlp.dense_h_to_4h.weight
    (expected,) = direct(rows.detach())
    same(weightwatcher_metrics(rows), expected)
