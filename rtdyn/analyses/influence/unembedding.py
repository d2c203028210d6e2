"""The unembedding without its mean row, and the projection of the shifts that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import Sizes, slices
from rtdyn.capture.forward_pass import Capture


@dataclass(frozen=True)
class Projection:
    """Turns a shift z, centred over the vocabulary, into kept∘z − ⟨z, û⟩·û."""

    direction: Tensor
    """float64 (V,): û, a unit vector that is 0 for types that are not kept."""
    kept: Tensor | None
    """float64 (V,): 1 for types whose logits move and 0 for others; None where all do."""


@dataclass(frozen=True)
class Unembedding:
    """The rows u_v, and what is fixed about the logits."""

    rows: Tensor
    """(V, d), as the model holds them."""
    mean: Tensor
    """float64 (d,): the mean row. It moves no probability and is taken off everywhere, for precision."""
    centred: Tensor | None
    """float64 (V, d): u_v less the mean row, where there is room."""
    fixed: Tensor
    """float64 (V,): b, up to a constant; b itself where the logits are capped."""
    square_norm: Tensor
    """float64 (V,): ‖u_v‖² of the centred rows, projected."""
    types: int
    projection: Projection | None
    """What is done to every shift."""
    along: Tensor
    """float64 (d,): Σ_v û_v·u_v of the projection's û, or 0."""
    cap: float | None = None
    """c, where a logit l becomes c·tanh(l/c)."""

    def at(self, types: Tensor | slice) -> Tensor:
        """float64 (k, d): these types' centred rows."""
        if self.centred is not None:
            return self.centred[types]
        # a copy, whatever the type of the rows: these are the model's own
        return self.rows[types].to(torch.float64, copy=True).sub_(self.mean)

    def project(self, rows: Tensor, types: Tensor | slice) -> Tensor:
        """The centred rows (k, d) of these types, as they shift logits."""
        if self.projection is None:
            return rows
        if self.projection.kept is not None:
            rows = rows * self.projection.kept[types, None]
        return rows - self.projection.direction[types, None] * self.along

    def project_shift(self, shift: Tensor, vectors: Tensor, types: slice) -> Tensor:
        """float64 (k, types): shifts that vectors (k, d) make of these types' logits, `project`ed."""
        if self.projection is None:
            return shift
        if self.projection.kept is not None:
            shift = shift * self.projection.kept[types]
        return shift - torch.outer(vectors @ self.along, self.projection.direction[types])

    def logits(self, normed: Tensor) -> Tensor:
        """float64 (n, V), up to a constant a row, of normalised streams γ∘x/σ (n, d)."""
        return self.capped(self.before_cap(normed))

    def before_cap(self, normed: Tensor) -> Tensor:
        """float64 (n, V): the same before a cap; up to a constant a row where there is none."""
        result = self.fixed.expand(len(normed), -1).clone()
        for chunk, rows in self.chunks():
            result[:, chunk] += normed @ rows.T
        return result if self.cap is None else result.add_((normed @ self.mean)[:, None])

    def capped(self, logits: Tensor) -> Tensor:
        """The logits (n, V), overwritten, through the cap where there is one."""
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def chunks(self, start: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """The centred rows from `start` on, some at a time: which, and float64 (types, d), overwritten by the next."""
        # one array for all: the system clears what it gives, which takes as long as some of the products
        most = min(self.types, len(self.rows) - start)
        room = None if self.centred is not None else self.mean.new_empty(most, len(self.mean))
        for some in slices(len(self.rows) - start, self.types):
            chunk = slice(start + some.start, start + some.stop)
            if room is None:
                yield chunk, self.at(chunk)
            else:
                # a difference of float32 and float64 would be made in new memory as well
                yield chunk, room[: chunk.stop - chunk.start].copy_(self.rows[chunk]).sub_(self.mean)


def unembedding(captured: Capture, sizes: Sizes, projection: Projection | None = None) -> Unembedding:
    """That of a captured model, its shifts projected where a projection is given."""
    readout = captured.anatomy.readout
    rows = readout.unembedding
    mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in slices(len(rows), sizes.types):
        mean += rows[chunk].sum(0, dtype=torch.float64)
    mean /= len(rows)
    centred = rows.double() - mean if sizes.held else None
    fixed, square_norm = torch.zeros(2, len(rows), dtype=torch.float64, device=rows.device)
    if readout.bias is not None:
        fixed += readout.bias.double()
    along = torch.zeros_like(mean)
    if readout.cap is not None:
        fixed += mean @ readout.shift.double()
    result = Unembedding(rows, mean, centred, fixed, square_norm, sizes.types, projection, along, readout.cap)
    if projection is not None:
        for chunk, u in result.chunks():
            along += projection.direction[chunk] @ u
    for chunk, u in result.chunks():
        fixed[chunk] += u @ readout.shift.double()
        square_norm[chunk] = result.project(u, chunk).square().sum(1)
    return result


def centred(captured: Capture, values: Tensor) -> Tensor:
    """values (n, d), less each row's mean where the final norm centres."""
    return values - values.mean(1, keepdim=True) if captured.anatomy.readout.centred else values
