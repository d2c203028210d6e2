"""A capture with as many positions of every class as of `rare`, for what costs O(V) a pair of position and neuron."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rtdyn.capture.forward_pass import Capture
from rtdyn.names import RARE
from rtdyn.text.positions import ClassPositions


def equal_numbers(captured: Capture) -> Capture:
    """The capture at all positions of `rare` and, evenly spaced in the text, as many of every larger class.

    Of what has a row for each measured position, the residual (N, d) and the activations (N, F) are kept.
    """
    positions = captured.positions
    most = next(len(c.measured) for c in positions.classes if c.name == RARE)
    classes = tuple(_spaced(c, most) for c in positions.classes)
    kept = np.isin(positions.flat, np.concatenate([c.measured for c in classes]))
    rows = torch.from_numpy(np.flatnonzero(kept)).to(captured.residual.device)
    fewer = replace(
        positions,
        flat=positions.flat[kept],
        window=positions.window[kept],
        query=positions.query[kept],
        target=positions.target[kept],
        classes=classes,
    )
    return replace(
        captured,
        positions=fewer,
        residual=captured.residual[rows],
        activations=captured.activations[rows],
        attention=None,
        stream=None,
    )


def _spaced(positions: ClassPositions, most: int) -> ClassPositions:
    measured = positions.measured
    if len(measured) <= most:
        return positions
    return replace(positions, measured=measured[np.arange(most) * len(measured) // most])
