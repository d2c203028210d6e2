"""Pools over sets hold the linear algebra to one thread, and give what a loop gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from rtdyn.analyses.groups.correlations import eigenvalues, standardised
from rtdyn.analyses.threads import AHEAD, SMALL, few_numpy_threads, in_threads, in_whole_threads_ahead


def blas_threads() -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2, "blas"):
        yield
    torch.set_num_threads(before)


def test_blas_has_one_thread_within_and_its_own_after(two_threads: None) -> None:
    assert set(blas_threads()) == {2}
    found = in_threads(lambda part: (part, blas_threads()), range(5))
    assert [part for part, _ in found] == list(range(5))
    assert {n for _, inside in found for n in inside} == {1}
    assert set(blas_threads()) == {2}


def test_blas_has_its_threads_again_after_an_error(two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda part: 1 / part, [1, 0])
    assert set(blas_threads()) == {2}


def test_spectra_in_two_threads_are_those_in_one(two_threads: None) -> None:
    rng = np.random.default_rng(0)
    z, _ = standardised(torch.from_numpy(rng.standard_normal((80, 30))))
    sets = rng.random((7, 30)).argsort(1)[:, :9]
    several = eigenvalues(z, sets)
    torch.set_num_threads(1)
    assert np.array_equal(eigenvalues(z, sets), several)
    np.testing.assert_allclose(eigenvalues(z, sets[3:4]), several[3:4], rtol=1e-12)


def test_numpy_has_one_thread_for_a_small_layer_and_its_own_after(two_threads: None) -> None:
    def numpys() -> set[int]:
        np.ones((2, 2)) @ np.ones((2, 2))
        return {library["num_threads"] for library in threadpool_info() if library["internal_api"] == "openblas"}

    assert numpys() == {2}, "NumPy's wheels have OpenBLAS"
    for neurons, threads in ((SMALL, 1), (SMALL + 1, 2)):
        with few_numpy_threads(neurons):
            assert numpys() == {threads}
            assert set(in_threads(lambda part: tuple(blas_threads()), range(2))) == {(1,) * len(blas_threads())}
            assert numpys() == {threads}
        assert numpys() == {2}


def test_results_come_one_after_another_from_parts_that_run_side_by_side() -> None:
    lock, running, seen, before = threading.Lock(), [], [], torch.get_num_threads()

    def function(part: int) -> tuple[int, int]:
        with lock:
            running.append(part)
            seen.append(len(running))
        time.sleep(0.002)
        with lock:
            running.remove(part)
        return part, torch.get_num_threads()

    torch.set_num_threads(3)
    try:
        found = in_whole_threads_ahead(function, range(30))
        assert next(found) == (0, 1)
        time.sleep(0.1)
        assert len(seen) == 3 * AHEAD, "what is not asked for yet is not all run"
        assert list(found) == [(part, 1) for part in range(1, 30)]
        assert torch.get_num_threads() == 3
        assert max(seen) == 3
        seen.clear()
        abandoned = in_whole_threads_ahead(function, range(30))
        next(abandoned)
        abandoned.close()
        assert torch.get_num_threads() == 3 and len(seen) <= 3 * AHEAD
        with pytest.raises(ZeroDivisionError):
            list(in_whole_threads_ahead(lambda part: 1 / part, [1, 0, 2]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
