"""The participation ratio without sample bias: against loops over pairs of positions, planted factors and clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.groups import squared_correlations as module
from rtdyn.analyses.groups.correlations import standardised
from rtdyn.analyses.groups.dimensionality import set_dimensionality
from rtdyn.analyses.groups.squared_correlations import (
    of_pieces,
    pieces,
    squared_correlations,
    unbiased_participation_ratio,
)
from rtdyn.undefined import Undefined


def squares_of(values: np.ndarray, cluster: np.ndarray, block: int = 1024) -> torch.Tensor:
    return squared_correlations(pieces_of(values, cluster), block=block)


def pieces_of(values: np.ndarray, cluster: np.ndarray) -> module.Pieces:
    found = of_pieces(standardised(torch.from_numpy(values))[0], cluster)
    assert not isinstance(found, Undefined)
    return found


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), clusters=st.integers(2, 40))
def test_it_is_the_mean_over_pairs_of_positions_of_different_pieces(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = np.append(np.arange(2), rng.integers(0, clusters, 38))
    values = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)) + 3
    z = (values - values.mean(0)) / values.std(0)
    of = pieces(cluster)
    assert len(set(of)) <= module.PIECES and all(len(set(of[cluster == c])) == 1 for c in set(cluster))
    total, pairs = np.zeros((6, 6)), 0
    for p in range(40):
        for q in range(40):
            if of[p] != of[q]:
                total += np.outer(z[p] * z[q], z[p] * z[q])
                pairs += 1
    expected = total / pairs
    np.fill_diagonal(expected, 1)
    found = squares_of(values, cluster, block=4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    sets = np.array([[0, 2, 5], [1, 3, 4]])
    by_hand = [9 / expected[np.ix_(members, members)].sum() for members in sets]
    for chunk_bytes in (1, 2**20):
        for squares in (found, pieces_of(values, cluster)):
            ratio = unbiased_participation_ratio(squares, sets, chunk_bytes=chunk_bytes)
            np.testing.assert_allclose(ratio, by_hand, rtol=1e-5)


@pytest.mark.parametrize("positions", [160, 640])
def test_planted_factors_are_found_whatever_the_number_of_positions_and_the_clusters(positions: int) -> None:
    """24 neurons on three factors; clusters of four positions share half of their variance."""
    rng, plain, unbiased, naive = np.random.default_rng(1), [], [], []
    loadings = np.kron(np.eye(3), np.ones(8)) * 0.6
    own = 0.8
    true = 24**2 / np.square(loadings.T @ loadings + own**2 * np.eye(24)).sum()
    cluster = np.repeat(np.arange(positions // 4), 4)
    for _ in range(40):
        shared, single = (np.repeat(rng.standard_normal((positions // 4, k)), 4, axis=0) for k in (3, 24))
        factors = (shared + rng.standard_normal((positions, 3))) / np.sqrt(2)
        noise = (single + rng.standard_normal((positions, 24))) / np.sqrt(2)
        values = factors @ loadings + own * noise
        z, everyone = standardised(torch.from_numpy(values))[0], np.arange(24)[None]
        plain.append(set_dimensionality(z, everyone).participation_ratio[0])
        unbiased.append(unbiased_participation_ratio(squares_of(values, cluster), everyone)[0])
        alone = squares_of(values, np.random.default_rng(0).permutation(positions))
        naive.append(unbiased_participation_ratio(alone, everyone)[0])
    error = np.std(unbiased) / np.sqrt(40)
    assert np.mean(unbiased) == pytest.approx(true, abs=4 * error + 0.02 * true)
    assert np.mean(plain) < true - 0.5 * 160 / positions
    # positions of a cluster are no independent pairs
    assert np.mean(naive) < np.mean(unbiased)


def test_without_correlation_there_are_as_many_dimensions_as_neurons() -> None:
    rng, cluster = np.random.default_rng(0), np.arange(200)
    found = [
        unbiased_participation_ratio(squares_of(rng.standard_normal((200, 30)), cluster), np.arange(30)[None])[0]
        for _ in range(40)
    ]
    assert np.mean(found) == pytest.approx(30, abs=0.3) and min(found) > 29 and 30 < max(found) < 31.5


def test_neurons_that_do_not_vary_count_for_nothing_and_one_piece_is_none() -> None:
    rng, cluster = np.random.default_rng(0), np.arange(60) // 3
    values = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5))
    values[:, 2] = 7.0
    squares = squares_of(values, cluster)
    assert not squares[2].any() and not squares[:, 2].any()
    sets = np.array([[0, 1, 2, 3], [2, 0, 1, 3]])
    for way in (squares, pieces_of(values, cluster)):
        with_it = unbiased_participation_ratio(way, sets)
        np.testing.assert_allclose(with_it, unbiased_participation_ratio(way, np.array([[0, 1, 3]]))[0])
        assert np.isnan(unbiased_participation_ratio(way, np.array([[2]]))).all()
    alone = of_pieces(standardised(torch.from_numpy(values))[0], np.zeros(60, dtype=np.int64))
    assert alone == Undefined("all positions of one half lie in one independent piece of text")
    assert len(set(pieces(np.array([0] + [1] * 59)))) == 2


def test_pieces_that_follow_each_other_are_no_copies_and_others_are_the_same_numbers() -> None:
    rng = np.random.default_rng(5)
    z, cluster = standardised(torch.from_numpy(rng.standard_normal((60, 5))))[0], np.arange(60) // 4
    views = of_pieces(z, cluster)
    assert not isinstance(views, Undefined) and len(views.z) > 2
    assert all(part.untyped_storage().data_ptr() == z.untyped_storage().data_ptr() for part in views.z)
    order = rng.permutation(60)
    others = of_pieces(z[torch.from_numpy(order)], cluster[order])
    assert not isinstance(others, Undefined)
    torch.testing.assert_close(squared_correlations(others), squared_correlations(views))
