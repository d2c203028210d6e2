"""How many positions, neurons and types the blocks take at a time, by the memory there is."""

from __future__ import annotations

from dataclasses import dataclass

from rtdyn.analyses.influence.likely import likely_bytes
from rtdyn.capture.forward_pass import Capture

LANE_TYPES = 2048
"""Most types that one float32 sum runs over before it is added to others in float64."""

CAP_ARRAYS = 2
"""Arrays of the vocabulary's length that a position of a capped model holds more: `Bend` has them."""


@dataclass(frozen=True)
class Sizes:
    """How much is taken at a time."""

    positions: int
    """In a block."""
    neurons: int
    """In a block."""
    softmax_rows: int
    """Positions whose logits are held in float64."""
    types: int
    """Types whose products are taken at a time."""
    held: bool
    """Whether there is room for the whole unembedding in float64."""

    @property
    def lane(self) -> int:
        """Types over which one float32 sum runs."""
        return min(LANE_TYPES, self.types)


def block_sizes(captured: Capture, memory_bytes: int, pair_bytes: int) -> Sizes:
    """Half of the memory for a block of positions and their likely types, a quarter for one of neurons.

    The rest is for temporaries. pair_bytes: what a pair of position and neuron takes meanwhile.
    """
    n, f = captured.activations.shape
    readout = captured.anatomy.readout
    vocabulary, d = readout.unembedding.shape
    directions = 1 if captured.anatomy.post_norm is None else 2
    return sizes_of(n, f, vocabulary, d, directions, readout.cap is not None, memory_bytes, pair_bytes)


def sizes_of(
    n: int, f: int, vocabulary: int, d: int, directions: int, capped: bool, memory_bytes: int, pair_bytes: int
) -> Sizes:
    """`block_sizes` of n positions, f neurons and an unembedding (vocabulary, d). directions: D."""
    # beside p, those that a position holds a number of for each type
    arrays = directions + (CAP_ARRAYS if capped else 0)
    listed = 0 if capped else likely_bytes(vocabulary, directions)

    def clamp(value: int, most: int) -> int:
        return max(1, min(value, most))

    # beside arrays of the vocabulary's length, float64 vectors of width d: eight a position, four a neuron
    positions = _even(n, memory_bytes // (8 * vocabulary * (1 + arrays) + 2 * listed + 128 * d))
    neurons = _even(f, memory_bytes // (4 * (4 * vocabulary + pair_bytes * positions + 32 * d)))
    softmax_rows = clamp(memory_bytes // (64 * vocabulary * (arrays + 2)), positions)
    types = clamp(memory_bytes // (16 * (8 * d + 16 * max(neurons, softmax_rows))), vocabulary)
    return Sizes(positions, neurons, softmax_rows, types, 8 * vocabulary * d <= memory_bytes // 8)


def _even(total: int, most: int) -> int:
    """Size of the fewest equal blocks of at most `most`."""
    blocks = -(-total // max(1, most))
    return -(-total // blocks)


def slices(total: int, size: int) -> list[slice]:
    """Consecutive blocks of `size`, the last of what is left."""
    return [slice(start, min(total, start + size)) for start in range(0, total, size)]
