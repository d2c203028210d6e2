"""Independent pieces of the evaluation text."""

from __future__ import annotations

import numpy as np
import pytest

from rtdyn.text.clusters import MIN_BLOCKS, autocorrelation_time, text_clusters


def test_enough_documents_are_the_clusters() -> None:
    documents = np.repeat([9, 4, 7, 1, 0, 3, 8, 2], 3)
    found = text_clusters(documents, np.zeros(24))
    assert found.unit == "documents"
    assert found.count == 8
    assert found.index.tolist() == np.repeat(np.arange(8), 3).tolist()


def test_a_text_whose_windows_are_independent_is_cut_at_every_window() -> None:
    surprise = np.random.default_rng(1).standard_normal(400)
    found = text_clusters(np.zeros(400, dtype=int), surprise)
    assert found.unit == "blocks"
    assert found.count > 300


@pytest.mark.parametrize("memory", [0.5, 0.8])
def test_blocks_grow_with_the_text_s_memory(memory: float) -> None:
    rng, values = np.random.default_rng(0), np.zeros(4000)
    for i in range(1, 4000):
        values[i] = memory * values[i - 1] + rng.standard_normal()
    exact = (1 + memory) / (1 - memory)
    assert autocorrelation_time(values) == pytest.approx(exact, rel=0.25)
    found = text_clusters(np.zeros(4000, dtype=int), values)
    assert 4000 / found.count == pytest.approx(1 + 4 * (exact - 1), rel=0.3)
    # block means are independent enough: their variance is what the long-run variance says
    means = np.bincount(found.index, values) / np.bincount(found.index)
    long_run = 1 / (1 - memory) ** 2
    assert means.var() * 4000 / found.count == pytest.approx(long_run, rel=0.35)


def test_blocks_hold_one_document_s_windows_and_are_enough() -> None:
    documents = np.repeat([0, 1, 2], [37, 5, 58])
    trend = np.arange(100.0)
    found = text_clusters(documents, trend)
    assert found.count >= MIN_BLOCKS - 2
    for cluster in range(found.count):
        assert len(np.unique(documents[found.index == cluster])) == 1


def test_a_constant_series_has_no_memory() -> None:
    assert autocorrelation_time(np.ones(50)) == 1.0
