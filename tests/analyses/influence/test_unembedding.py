"""The unembedding's centred rows, some types at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.frozen import family

from rtdyn.analyses.influence.block_sizes import Sizes
from rtdyn.analyses.influence.unembedding import unembedding


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("precision", [torch.float16, torch.float32, torch.float64])
def test_rows_are_centred_and_the_models_own_are_left_alone(precision: torch.dtype, held: bool) -> None:
    one = family(1, "layer norm")
    rows = one.anatomy.readout.unembedding.to(precision)
    given = rows.clone()
    anatomy = replace(one.anatomy, readout=replace(one.anatomy.readout, unembedding=rows))
    u = unembedding(replace(one, anatomy=anatomy), Sizes(1, 1, 1, 7, held))
    found = torch.cat([chunk.clone() for _, chunk in u.chunks()])
    torch.testing.assert_close(found, given.double() - given.double().mean(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(rows, given)
