"""Small captures with a frozen direction, and plain ways to what is computed of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import synthetic
from scipy import stats
from torch import Tensor

from rtdyn.analyses.influence.ablation import Influence, influence
from rtdyn.analyses.influence.certified import delta_blocks
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.mediation.confidence import Confidence
from rtdyn.analyses.mediation.frozen import unigram_direction
from rtdyn.capture.forward_pass import Capture
from rtdyn.model.anatomy import PostNorm

STEPS = (1, 512, 4000)
GIB = 2**30
TYPES, PADDING = 30, 3
COUNTS = np.random.default_rng(0).geometric(0.01, TYPES - PADDING)
BAND = np.arange(TYPES) % 3 == 1


def projection(longtail: bool = False, counts: np.ndarray = COUNTS, logits: int = TYPES) -> Projection:
    made = unigram_direction(counts, logits, np.arange(logits) % 3 == 1 if longtail else None)
    assert isinstance(made, Projection)
    return made


def influences(captured: Capture, **options: float) -> Influence:
    return influence(captured, torch.full((len(captured.anatomy.readout.unembedding),), -1), 1, **options)


def logits_of(captured: Capture, neurons: list[int]) -> tuple[Tensor, Tensor]:
    """Logits before (N, V) and after ablating each neuron (k, N, V), float64, by running norm and unembedding."""
    parts, readout = captured.anatomy, captured.anatomy.readout
    residual, activations = captured.residual.double(), captured.activations.double()
    rows = parts.output_rows.double()

    def rms(x: Tensor, epsilon: float) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()

    def head(r: Tensor) -> Tensor:
        x = r - r.mean(-1, keepdim=True) if readout.centred else r
        normed = rms(x, readout.epsilon) * readout.gain.double() + readout.shift.double()
        bias = 0.0 if readout.bias is None else readout.bias.double()
        return readout.capped(normed @ readout.unembedding.double().T + bias)

    def written(acts: Tensor) -> Tensor:
        out = acts @ rows
        return out if parts.post_norm is None else rms(out, parts.post_norm.epsilon) * parts.post_norm.gain.double()

    after = []
    for i in neurons:
        changed = activations.clone()
        changed[:, i] = captured.moments.mean[i]
        after.append(head(residual - written(activations) + written(changed)))
    return head(residual), torch.stack(after)


def frozen_deltas(captured: Capture, direction: Tensor, kept: Tensor | None = None) -> Tensor:
    """Δ_frozen (N, F): the ablated logits, common types put back, then adjusted to the old projection on û."""
    before, after = logits_of(captured, list(range(captured.activations.shape[1])))
    before, after = before - before.mean(-1, keepdim=True), after - after.mean(-1, keepdim=True)
    if kept is not None:
        after = torch.where(kept > 0, after, before)
    after = after + ((before @ direction) - (after @ direction))[..., None] * direction
    target = torch.from_numpy(captured.positions.target)[:, None]
    return torch.stack([(before.log_softmax(1) - x.log_softmax(1)).gather(1, target)[:, 0] for x in after], dim=1)


def family(seed: int, kind: str, scale: float = 0.5, f: int = 10) -> Capture:
    one = synthetic(seed, v=TYPES, scale=scale, f=f)
    if kind == "layer norm":
        return one
    one = replace(one, anatomy=replace(one.anatomy, readout=replace(one.anatomy.readout, centred=False)))
    if kind == "post-norm":
        gain = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        one = replace(one, anatomy=replace(one.anatomy, post_norm=PostNorm(gain, 1e-6)))
    return one


def frozen_intervals(one: Capture, by: Projection, tolerance: float) -> tuple[Tensor, Tensor, int]:
    members = [torch.ones(len(one.residual), dtype=torch.bool)]
    delta, width = torch.full((2, *one.activations.shape), torch.nan, dtype=torch.float64)
    refined = 0
    for block in delta_blocks(one, members, tolerance, GIB, projection=by):
        delta[block.rows, block.neurons] = block.delta
        width[block.rows, block.neurons] = block.half_width + block.rounding
        refined += block.refined
    return delta, width, refined


def planted(seed: int) -> Capture:
    """A model whose unembedding is the identity on V = d, so that a row is a direction of the vocabulary.

    The residual is orthogonal to rows 0 and 1, of which the first is û and the second orthogonal to it; row 2 mixes
    them. γ = 1 and no centring; the norm's change moves logits along the residual only, which is orthogonal to û.
    """
    g = torch.Generator().manual_seed(seed)
    one = synthetic(seed, n=40, d=TYPES, f=6, v=TYPES)
    u = projection().direction
    other = torch.randn(TYPES, generator=g).double()
    other -= other.mean() + (other @ u) * u
    other /= other.norm()
    basis = torch.stack([u, other])
    residual = one.residual.double()
    residual = residual - residual.mean(1, keepdim=True) - (residual @ basis.T) @ basis
    rows = one.anatomy.output_rows.clone()
    rows[0], rows[1], rows[2] = u.float(), other.float(), (u + other).float()
    activations = one.activations.clone()
    activations[:, 5] = 0.25
    moments = replace(
        one.moments,
        mean=activations.double().mean(0),
        minimum=activations.amin(0),
        maximum=activations.amax(0),
    )
    one = replace(
        one, residual=residual.float(), activations=activations, moments=moments,
        anatomy=replace(one.anatomy, output_rows=rows, readout=replace(
            one.anatomy.readout, centred=False, gain=torch.ones(TYPES), shift=torch.zeros(TYPES), epsilon=1e6,
            unembedding=1e3 * torch.eye(TYPES), bias=None)),
    )  # fmt: skip
    return one


def exact_confidence(one: Capture, counts: np.ndarray, neurons: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H(p), KL(p‖f) (N,) and their changes (N, k) from scipy on float64 probabilities."""
    f = (counts + 1) / (counts + 1).sum()
    before, after = logits_of(one, neurons)

    def both(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
        p = logits.softmax(-1).numpy()
        known = p[..., : len(f)]
        return stats.entropy(p, axis=-1), stats.entropy(known, np.broadcast_to(f, known.shape), axis=-1)

    h, kl = (torch.from_numpy(v) for v in both(before))
    h_after, kl_after = (torch.from_numpy(v).T for v in both(after))
    return h, kl, h_after - h[:, None], kl_after - kl[:, None]


def check_confidence(got: Confidence, one: Capture, counts: np.ndarray, round_off: float = 1e-11) -> None:
    h, kl, h_change, kl_change = exact_confidence(one, counts, got.neurons.tolist())
    for name, c in got.classes.items():
        member = torch.from_numpy(one.positions.members(name))
        assert c.n == int(member.sum()) == int(c.window_n.sum())
        assert c.entropy.value == pytest.approx(float(h[member].mean()), rel=1e-9)
        assert c.kl.value == pytest.approx(float(kl[member].mean()), rel=1e-9)
        for ours, sums, theirs in (
            (c.entropy_change, c.window_entropy_change, h_change),
            (c.kl_change, c.window_kl_change, kl_change),
        ):
            expected = theirs[member].mean(0)
            assert ((ours - expected).abs() <= c.error_bound + round_off).all()
            torch.testing.assert_close(sums.sum(0) / c.n, ours)


def rows_of(one: Capture, rows: Tensor) -> Capture:
    return replace(one, anatomy=replace(one.anatomy, output_rows=rows))
