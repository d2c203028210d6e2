"""First orders of pseudo-classes (METHODS §3(d)), from the same backward passes as those of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.sums import ClassSums, FirstOrderSums, Window, first_order_sums
from rtdyn.analyses.influence.ablation import PseudoInfluence
from rtdyn.capture.earlier_layers import EarlierLayers
from rtdyn.model.plain_block import PlainBlock

MEMORY_PART = 8
"""Positions of windows that are held together take this part of the memory, beside the backward passes."""


@dataclass(frozen=True)
class PseudoClasses:
    """Which of the N measured positions each pseudo-class holds."""

    members: np.ndarray
    """bool (draws, N)."""
    halves: np.ndarray
    """int64 (windows,): the half, 0 or 1, that each window of the text belongs to."""


def first_orders(
    earlier: EarlierLayers,
    windows: Sequence[Window],
    pseudo: PseudoClasses | None,
    memory_bytes: int,
    blocks: Sequence[PlainBlock] = (),
) -> tuple[dict[int, FirstOrderSums], dict[int, PseudoInfluence]]:
    """By layer, what `first_order_sums` gives, and the sums of Δ¹ and |Δ¹| over pseudo-classes, none without them."""
    if pseudo is None:
        return first_order_sums(earlier, windows, memory_bytes, blocks), {}
    draws = len(pseudo.members)
    sums = {layer: _empty(draws, len(captured.moments.mean)) for layer, captured in earlier.layers.items()}
    parts: dict[int, list[FirstOrderSums]] = {layer: [] for layer in sums}
    for some in _chunks(windows, sum(of.sum.shape[2] for of in sums.values()), memory_bytes):
        places = [_place(k) for k in range(max(len(w.rows) for w in some))]
        found = first_order_sums(earlier, [_with_places(w, places) for w in some], memory_bytes, blocks)
        for layer, of_layer in found.items():
            for number, window in enumerate(some):
                # (n, F): Δ¹ at each of the window's positions
                delta = np.stack([of_layer.classes[p].sum[number] for p in places[: len(window.rows)]])
                member = pseudo.members[:, window.rows].astype(np.float64)
                half = pseudo.halves[window.index]
                sums[layer].sum[half] += torch.from_numpy(member @ delta)
                sums[layer].abs_sum[half] += torch.from_numpy(member @ np.abs(delta))
                sums[layer].n[half] += torch.from_numpy(member.sum(1)).long()
            parts[layer].append(_of_classes(of_layer, windows[0].members))
    return {layer: _joined(of_layer) for layer, of_layer in parts.items()}, sums


def _empty(draws: int, neurons: int) -> PseudoInfluence:
    zeros = torch.zeros(2, 2, draws, neurons, dtype=torch.float64)
    return PseudoInfluence(torch.zeros(2, draws, dtype=torch.int64), zeros[0], zeros[1])


def _chunks(windows: Sequence[Window], neurons: int, memory_bytes: int) -> Iterator[Sequence[Window]]:
    """Consecutive windows that may be held position by position: two float64 each, of so many neurons of all layers."""
    longest = max(len(w.rows) for w in windows)
    together = max(1, memory_bytes // (MEMORY_PART * 16 * longest * neurons))
    for start in range(0, len(windows), together):
        yield windows[start : start + together]


def _place(k: int) -> str:
    return f"position {k}"


def _with_places(window: Window, places: Sequence[str]) -> Window:
    """Each of its positions a class of its own too, of which sums over any class can be made."""
    each = np.eye(len(places), len(window.rows), dtype=bool)
    return replace(window, members={**window.members, **dict(zip(places, each, strict=True))})


def _of_classes(sums: FirstOrderSums, names: Mapping[str, np.ndarray]) -> FirstOrderSums:
    """Those of the classes alone."""
    slope, abs_slope = ({name: values[name] for name in names} for values in (sums.slope, sums.abs_slope))
    return FirstOrderSums({name: sums.classes[name] for name in names}, sums.size, slope, abs_slope)


def _joined(parts: Sequence[FirstOrderSums]) -> FirstOrderSums:
    """One layer's sums of windows that follow each other."""
    names = parts[0].classes
    return FirstOrderSums(
        {
            name: ClassSums(
                np.concatenate([part.classes[name].sum for part in parts]),
                np.concatenate([part.classes[name].abs_sum for part in parts]),
            )
            for name in names
        },
        np.concatenate([part.size for part in parts]),
        {name: sum((part.slope[name] for part in parts), np.zeros(())) for name in names},
        {name: sum((part.abs_slope[name] for part in parts), np.zeros(())) for name in names},
    )
