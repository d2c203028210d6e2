"""Common positions are drawn to the rare ones' histogram of query positions."""

from __future__ import annotations

import numpy as np
from analyses.routing.captures import (
    attention_capture,
    random_attention,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.routing.matching import matched_positions


@given(seed=st.integers(0, 2**32 - 1), stratum=st.integers(1, 30), share=st.floats(0.02, 0.9))
@settings(max_examples=40, deadline=None)
def test_matched_positions_have_one_histogram(seed: int, stratum: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    attention, query, _ = random_attention(rng, n=100, heads=1)
    positions = attention_capture(attention, query, rng.random(100) < share).positions
    matched = matched_positions(positions, np.random.default_rng(seed), stratum=stratum)
    again = matched_positions(positions, np.random.default_rng(seed), stratum=stratum)
    np.testing.assert_array_equal(matched.common, again.common)
    own = positions.members("rare")
    assert own[matched.rare].all() and not own[matched.common].any()
    counts = [np.bincount(positions.query[rows] // stratum, minlength=24) for rows in (matched.rare, matched.common)]
    np.testing.assert_array_equal(*counts)
    full = [np.bincount(positions.query[rows] // stratum, minlength=24) for rows in (own, ~own)]
    np.testing.assert_array_equal(counts[0], np.minimum(*full))
    assert matched.rare_left_out == own.sum() - counts[0].sum()
