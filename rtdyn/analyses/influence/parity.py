"""Whether a capture and the closed form agree with transformers' own model (METHODS §11).

Two comparisons, at the measured positions of one window. The readout is held against transformers' logits: the
log-probability of every type, and the capture's loss. The former comes from the captured residual stream by the norm
and unembedding that the closed form uses. The closed form: Δ of a few neurons against hooks on transformers' model.
Log-probabilities are compared, so that a constant added to all logits counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import transformers
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import block_sizes, slices
from rtdyn.analyses.influence.certified import PAIR_BYTES, Certified, delta_block
from rtdyn.analyses.influence.logit_shift import neuron_blocks
from rtdyn.analyses.influence.pairs import EPSILON
from rtdyn.analyses.influence.position_block import position_block
from rtdyn.analyses.influence.unembedding import unembedding
from rtdyn.capture.forward_pass import Capture
from rtdyn.capture.own_pass import OwnPass
from rtdyn.errors import ParityError

PARITY = 1e-4
"""Nats by which float32 may differ, apart from the rounding of transformers' last product."""
LOGIT_ROUNDING = 16.0
"""That rounding, in units of ε times the largest logit: 4 were seen at width 768, and wider products err more."""
READOUT = "the log-probabilities that rtdyn reads from the last residual stream differ from transformers' own"
CLOSED_FORM = "the change of loss under ablation in closed form differs from that of hooks on transformers' model"


def check_parity(own: OwnPass, captured: Capture, memory_bytes: int) -> None:
    """Raises ParityError, which names what failed, unless both comparisons come within PARITY and rounding.

    captured: of the model that made `own`. Arrays take about `memory_bytes`.
    """
    limit = PARITY + LOGIT_ROUNDING * EPSILON * own.largest_logit
    found = zip((READOUT, CLOSED_FORM), differences(own, captured, memory_bytes), strict=True)
    for what, difference in found:
        if not difference <= limit:  # which NaN is not
            raise ParityError(
                f"{what} by {difference:.2g} nats, more than {limit:.2g} (family {own.family!r}, transformers "
                f"{transformers.__version__}); nothing of this model is stored: report it, and leave the model out"
            )


def differences(own: OwnPass, captured: Capture, memory_bytes: int) -> tuple[float, float]:
    """The largest difference of the readout and that of the closed form, in nats."""
    here = _where(own, captured)
    loss = -own.log_probabilities.gather(1, torch.from_numpy(here.positions.target).to(own.delta.device)[:, None])[:, 0]
    readout = [(here.measured_loss.to(loss.device) - loss).abs().max()]
    closed_form = []
    for rows, log_probabilities, delta in _ours(here, own.neurons.tolist(), memory_bytes):
        readout.append((log_probabilities - own.log_probabilities[rows]).abs().max())
        closed_form.append((delta - own.delta[rows]).abs().max())
    return float(torch.stack(readout).max()), float(torch.stack(closed_form).max())


def _where(own: OwnPass, captured: Capture) -> Capture:
    """What was captured at the pass's positions, with the neurons' means those that it put in place."""
    p, rows = captured.positions, own.rows
    taken = torch.from_numpy(rows).to(captured.residual.device)
    return replace(
        captured,
        positions=replace(
            p, flat=p.flat[rows], window=p.window[rows], query=p.query[rows], target=p.target[rows], classes=()
        ),
        residual=captured.residual[taken],
        activations=captured.activations[taken],
        moments=replace(captured.moments, mean=captured.moments.mean.index_put((own.neurons,), own.replaced_by)),
    )


def _ours(captured: Capture, neurons: list[int], memory_bytes: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Block by block of positions: log-probabilities (·, V), and Δ (·, k) of the neurons; float64."""
    sizes = block_sizes(captured, memory_bytes, PAIR_BYTES)
    u = unembedding(captured, sizes)
    n = len(captured.residual)
    exactly = Certified([torch.ones(n, dtype=torch.bool, device=captured.residual.device)], 0.0)
    for rows in slices(n, sizes.positions):
        at = position_block(captured, u, rows, sizes)
        deltas = [
            delta_block(captured, exactly, u, at, neuron_blocks(captured, [u], slice(i, i + 1))[0], sizes.lane).delta
            for i in neurons
        ]
        yield rows, at.log_probabilities(u), torch.cat(deltas, dim=1)
