"""What a group's statistic is held against: sets of equal size, chosen otherwise (METHODS §4).

A group is chosen twice, once on each half of the windows, and so is each set of a null. Neurons change places by a
random permutation. It takes both choices along, so that they overlap as the group's do. `random` permutes all neurons.
`matched` permutes those of one cell alone, by deciles of sd(a_i)·‖w̃_i‖ and of the firing rate. `selected` sets are
what the group's own rule picks for pseudo-classes of common positions. Sets may hold members of the group. Were they
drawn from the other neurons alone, the group would differ from them even where its members are exchangeable with all. A
set is a row of neuron indices, so that a statistic maps sets (s, n) to values (s,).
"""

from __future__ import annotations

import numpy as np

from rtdyn.capture.forward_pass import Capture

DRAWS = 999
"""Random and matched sets of a group."""
LARGE = 64
LARGE_DRAWS = 199
"""The same for groups of more than LARGE neurons, whose statistics cost the cube of their size."""
DECILES = 10


def permuted_sets(
    members: tuple[np.ndarray, np.ndarray], cell: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """int64 (draws, n) for each of two choices, members (n,): where random permutations within cells take them.

    cell: int64 (F,); neurons change places with those of their own cell only.
    """
    by_cell = np.argsort(cell, kind="stable")
    sets = tuple(np.empty((draws, len(choice)), dtype=np.int64) for choice in members)
    place = np.empty(len(cell), dtype=np.int64)
    for draw in range(draws):
        # by cell, in random order within; one sort of floats is several times as fast as a sort by two keys
        place[by_cell] = np.argsort(cell + rng.random(len(cell)))
        for drawn, choice in zip(sets, members, strict=True):
            drawn[draw] = np.sort(place[choice])
    return sets[0], sets[1]


def matching_cells(captured: Capture) -> np.ndarray:
    """int64 (F,): each neuron's cell of deciles of sd(a_i)·‖w̃_i‖ and of its firing rate, ties by neuron."""
    rows = captured.anatomy.output_rows.double()
    if captured.anatomy.readout.centred:
        rows = rows - rows.mean(1, keepdim=True)
    strength = captured.moments.variance.sqrt() * rows.norm(dim=1)
    columns = [v.cpu().numpy() for v in (strength, captured.moments.positive)]
    ranks = [np.argsort(np.argsort(column, kind="stable"), kind="stable") for column in columns]
    strong, often = (rank * DECILES // len(rank) for rank in ranks)
    return strong * DECILES + often
