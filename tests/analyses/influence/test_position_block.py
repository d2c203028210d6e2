"""Blocks of positions: several projections together, and the unembedding some types at a time."""

from __future__ import annotations

import pytest
import torch
from support.frozen import family, projection

from rtdyn.analyses.influence.block_sizes import Sizes
from rtdyn.analyses.influence.position_block import position_block, position_blocks
from rtdyn.analyses.influence.unembedding import unembedding


@pytest.mark.parametrize("kind", ["layer norm", "RMS norm", "post-norm"])
@pytest.mark.parametrize("held", [True, False])
def test_projections_together_are_those_one_by_one(kind: str, held: bool) -> None:
    one, sizes, rows = family(3, kind), Sizes(5, 2, 2, 7, held), slice(1, 6)
    several = [unembedding(one, sizes, by) for by in (None, projection(False), projection(True), None)]
    together = position_blocks(one, several, rows, sizes)
    for u, block in zip(several, together, strict=True):
        alone = position_block(one, u, rows, sizes)
        for name in ("p", "m", "m_row", "row", "square_norm", "log_total", "m_covariance", "m_range", "m_target"):
            found, expected = getattr(block, name), getattr(alone, name)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=name)
    assert not torch.allclose(together[0].m, together[1].m)
    assert not torch.allclose(together[1].m, together[2].m)


@pytest.mark.parametrize("start", [0, 5, 14])
def test_rows_from_a_type_on_are_the_last_of_all(start: int) -> None:
    one = family(1, "layer norm")
    u = unembedding(one, Sizes(1, 1, 1, 7, False))
    chunks = [(chunk, rows.clone()) for chunk, rows in u.chunks(start)]
    torch.testing.assert_close(torch.cat([rows for _, rows in chunks]), u.at(slice(start, None)), rtol=0, atol=0)
    assert chunks[0][0].start == start and chunks[-1][0].stop == len(u.rows)
