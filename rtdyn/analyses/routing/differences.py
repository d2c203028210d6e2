"""Differences of attention between the classes: Gini coefficients and attention to key 0 (METHODS §7).

Gini of a query's attention x over the k keys it may see is, with x ascending,

    G = 2·Σ_j j·x_(j) / (k·Σ x) − (k + 1)/k.

It is 0 where uniform, and (k − 1)/k where all is on one key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.routing.attention import MEMORY_BYTES, captured_attention
from rtdyn.analyses.routing.reference import PseudoSets, Reference
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import t_interval
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Difference:
    """Class means of K numbers, rare minus common; float64 (K,), the last of them the mean of the others."""

    rare: np.ndarray
    common: np.ndarray
    difference: np.ndarray
    se: np.ndarray
    """Of independent pieces of text."""
    against: tuple[Comparison | Undefined, ...]
    """(K,): each difference among those of pseudo-classes, or why it has no place there."""
    n: int
    """Rare positions."""
    clusters: int
    """Independent pieces of text that hold them."""

    def interval(self, k: int) -> tuple[float | None, float | None]:
        """95 % interval of the k-th difference; (None, None) without a standard error."""
        return t_interval(float(self.difference[k]), float(self.se[k]), self.clusters)


def gini(attention: Tensor, keys: Tensor) -> Tensor:
    """float64 (...): Gini coefficient of each row over its first `keys` entries; NaN where they are all 0.

    attention: (..., T) ≥ 0 and 0 beyond the first keys (...) entries, as causal attention is.
    """
    on_cpu = attention.device.type == "cpu"
    # NumPy's sort, which looks for no indices, takes a tenth of torch's
    ordered = torch.from_numpy(np.sort(attention.numpy(), axis=-1)) if on_cpu else attention.sort(dim=-1).values
    ascending = ordered.double()
    length, keys = attention.shape[-1], keys.double()
    total = ascending.sum(-1)
    # the T − k entries beyond the keys are 0, so they come first and only shift the ranks
    ranked = ascending @ torch.arange(1, length + 1, dtype=torch.float64, device=attention.device)
    value = 2 * (ranked - (length - keys) * total) / (keys * total) - (keys + 1) / keys
    return torch.where(total > 0, value, torch.nan)


def class_differences(
    captured: Capture, beside: Reference, pseudo: PseudoSets | Undefined, memory_bytes: int = MEMORY_BYTES
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Differences of Gini, and of attention to key 0, by layer; each by head, then the mean over heads.

    beside: with a row for each of the pseudo-classes. Raises ValueError for a capture without attention.
    """
    attention, query, rows = captured_attention(captured), captured.positions.query, beside.rows
    _, layers, heads, length = attention.shape
    chunk = max(1, memory_bytes // (32 * layers * heads * length))
    values = np.empty((2, len(rows), layers, heads))
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        of_rows = attention[torch.from_numpy(some).to(attention.device)]
        keys = torch.from_numpy(query[some] + 1).to(attention.device)
        values[0, start : start + chunk] = gini(of_rows, keys[:, None, None]).cpu().numpy()
        values[1, start : start + chunk] = of_rows[..., 0].double().cpu().numpy()
    values = np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)
    gini_by_layer, first_key_by_layer = (
        tuple(class_difference(measured[:, i], beside, pseudo) for i in range(layers)) for measured in values
    )
    return gini_by_layer, first_key_by_layer


def class_difference(values: np.ndarray, beside: Reference, pseudo: PseudoSets | Undefined) -> Difference:
    """Difference of class means of values (r, K), of the positions of `beside`."""
    if beside.n == 0:
        nothing = np.full(values.shape[1], np.nan)
        reason = Undefined("no rare position has a common one at its place")
        return Difference(nothing, nothing, nothing, nothing, (reason,) * values.shape[1], 0, 0)
    dark = ~np.isfinite(values).all(0)
    values = np.where(dark, 0.0, values)
    own, common = beside.own @ values, beside.common @ values
    difference, count = own - common, beside.clusters
    of_rare, of_common = beside.residuals(values, own[0], common[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(((of_rare - of_common) ** 2).sum(0) * np.divide(count, count - 1) if count > 1 else np.nan)
    against = tuple(
        Undefined("a query's attention is 0 everywhere") if dark[k]
        else pseudo if isinstance(pseudo, Undefined)
        else contrast(float(difference[0, k]), difference[1:, k], pseudo.overlap)
        for k in range(values.shape[1])
    )  # fmt: skip
    rare, beside_it, apart, error = (
        np.where(dark, np.nan, v) for v in (own[0], common[0], difference[0], np.broadcast_to(se, dark.shape))
    )
    return Difference(rare, beside_it, apart, error, against, beside.n, count)
