"""Sums of a layer's changes of loss over each window's positions of each class: all to first order, some exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import clean_window
from rtdyn.analyses.earlier_layers.drawn_types import draw_types
from rtdyn.analyses.earlier_layers.exact import exact_deltas
from rtdyn.analyses.earlier_layers.first_order import FirstOrder, first_order
from rtdyn.analyses.earlier_layers.plain_continuation import rerun_bytes
from rtdyn.analyses.earlier_layers.plain_first_order import plain_first_order
from rtdyn.analyses.earlier_layers.plain_window import plain_clean_window, window_bytes
from rtdyn.analyses.threads import AHEAD, in_whole_threads_ahead
from rtdyn.capture.earlier_layers import EarlierLayers
from rtdyn.errors import InputError
from rtdyn.model.fast_products import fast_products
from rtdyn.model.plain_block import PlainBlock
from rtdyn.streams import stream
from rtdyn.text.positions import MeasuredPositions

RERUN_TOLERANCE = 1e-4
"""Nats by which a loss may differ where a window's last blocks are run again, in units of the largest loss over 1."""


@dataclass(frozen=True)
class ClassSums:
    """Sums over one class's positions in each of W windows, for F neurons; float64 (W, F), nats."""

    sum: np.ndarray
    """Σ Δ."""
    abs_sum: np.ndarray
    """Σ |Δ|."""


@dataclass(frozen=True)
class FirstOrderSums:
    """One layer's, of every neuron."""

    classes: Mapping[str, ClassSums]
    size: np.ndarray
    """float64 (W, F): Σ |Δ¹| over all measured positions."""
    slope: Mapping[str, np.ndarray]
    """float64 (F,) by class: Σ dΔ¹/dā over its positions."""
    abs_slope: Mapping[str, np.ndarray]
    """The same of Σ |Δ¹|."""


@dataclass(frozen=True)
class Window:
    """The measured positions of one window."""

    index: int
    """Among all windows of the text."""
    query: np.ndarray
    """int64 (n,)."""
    target: np.ndarray
    """int64 (n,)."""
    rows: np.ndarray
    """int64 (n,): which of all measured positions they are."""
    members: Mapping[str, np.ndarray]
    """bool (n,) by class."""

    def inputs(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its stream (T, d) of all windows' (windows, T, d); `query` and `target` (n,) beside it."""
        of_window = stream[self.index]
        query, target = (torch.from_numpy(v).to(of_window.device) for v in (self.query, self.target))
        return of_window, query, target


def windows_of(positions: MeasuredPositions) -> list[Window]:
    """The W windows that hold measured positions, ascending."""
    members = {c.name: positions.members(c.name) for c in positions.classes}
    result = []
    for index in np.unique(positions.window):
        rows = np.flatnonzero(positions.window == index)
        of_class = {name: member[rows] for name, member in members.items()}
        result.append(Window(int(index), positions.query[rows], positions.target[rows], rows, of_class))
    return result


def first_order_sums(
    earlier: EarlierLayers, windows: Sequence[Window], memory_bytes: int, blocks: Sequence[PlainBlock] = ()
) -> dict[int, FirstOrderSums]:
    """By layer. blocks: every block of the model, where all may run from weights alone.

    Raises InputError where the blocks' second run does not give the forward pass's losses.
    """
    means = {layer: captured.moments.mean for layer, captured in earlier.layers.items()}
    measured_loss = next(iter(earlier.layers.values())).measured_loss.double()
    sums = {layer: _FirstOrder(windows, len(mean)) for layer, mean in means.items()}
    for number, (window, (loss, found)) in enumerate(
        zip(windows, _first_orders(earlier, windows, means, memory_bytes, blocks), strict=True)
    ):
        _check(loss, measured_loss[torch.from_numpy(window.rows)])
        for layer, of_layer in found.items():
            sums[layer].add(number, window, of_layer.delta.double(), of_layer.slope.double())
    return {layer: of_layer.result() for layer, of_layer in sums.items()}


def _first_orders(
    earlier: EarlierLayers,
    windows: Sequence[Window],
    means: Mapping[int, Tensor],
    memory_bytes: int,
    blocks: Sequence[PlainBlock],
) -> Iterator[tuple[Tensor, dict[int, FirstOrder]]]:
    """Losses and Δ¹ by layer, window after window."""
    parts, first = earlier.anatomy, earlier.first
    if not blocks:
        return (first_order(parts, first, means, *w.inputs(earlier.stream), memory_bytes) for w in windows)
    threads = torch.get_num_threads()
    kept = window_bytes(parts, blocks, first, earlier.stream.shape[1])
    results = 8 * AHEAD * sum(len(mean) for mean in means.values()) * max(len(w.rows) for w in windows)
    side_by_side = _fit(windows, 2 * kept + results, memory_bytes)
    each = memory_bytes // threads - results if side_by_side else memory_bytes

    def plain(window: Window) -> tuple[Tensor, dict[int, FirstOrder]]:
        return plain_first_order(parts, blocks, first, means, *window.inputs(earlier.stream), each)

    return in_whole_threads_ahead(plain, windows) if side_by_side else map(plain, windows)


def exact_sums(
    earlier: EarlierLayers,
    windows: Sequence[Window],
    run_again: Mapping[int, np.ndarray],
    memory_bytes: int,
    seed: int,
    blocks: Sequence[PlainBlock] = (),
) -> dict[int, dict[str, ClassSums]]:
    """By layer and class, sums of the pairs that are flagged in run_again, bool (W, F) by layer; NaN elsewhere.

    seed: of the types that losses are taken from. blocks: as `first_order_sums` has them. Raises InputError as it does.
    """
    measured_loss = next(iter(earlier.layers.values())).measured_loss.double()
    empty = {layer: np.full(flags.shape, np.nan) for layer, flags in run_again.items()}
    classes = windows[0].members
    sums = {
        layer: {name: ClassSums(values.copy(), values.copy()) for name in classes} for layer, values in empty.items()
    }
    asked = [
        {layer: np.flatnonzero(flags[number]) for layer, flags in run_again.items() if flags[number].any()}
        for number in range(len(windows))
    ]
    threads = torch.get_num_threads()
    side_by_side = bool(blocks) and _fit(windows, _least(earlier, blocks), memory_bytes)
    each = memory_bytes // threads if side_by_side else memory_bytes

    def deltas(number: int) -> dict[int, tuple[np.ndarray, Tensor]]:
        return _deltas(earlier, windows[number], asked[number], each, seed, blocks)

    in_turn = in_whole_threads_ahead if side_by_side else map
    for number, found in enumerate(in_turn(deltas, range(len(windows)))):
        window = windows[number]
        for layer, (delta, loss) in found.items():
            _check(loss, measured_loss[torch.from_numpy(window.rows)])
            for name, member in window.members.items():
                sums[layer][name].sum[number, asked[number][layer]] = delta[:, member].sum(1)
                sums[layer][name].abs_sum[number, asked[number][layer]] = np.abs(delta[:, member]).sum(1)
    return sums


def _least(earlier: EarlierLayers, blocks: Sequence[PlainBlock]) -> int:
    """Bytes of a window that passes a block, and runs through one again."""
    length = earlier.stream.shape[1]
    passes = window_bytes(earlier.anatomy, blocks, len(blocks) - 1, length)
    return passes + rerun_bytes(blocks[-1], length) + blocks[-1].copied_bytes


def _fit(windows: Sequence[Window], each: int, memory_bytes: int) -> bool:
    """Whether all of torch's threads have a window, and the memory holds so many bytes for each."""
    threads = torch.get_num_threads()
    return threads <= len(windows) and threads * each <= memory_bytes


def _deltas(
    earlier: EarlierLayers,
    window: Window,
    asked: Mapping[int, np.ndarray],
    memory_bytes: int,
    seed: int,
    blocks: Sequence[PlainBlock],
) -> dict[int, tuple[np.ndarray, Tensor]]:
    """By layer: Δ (k, n) of the neurons asked for, and the losses (n,) where the window is run again as it is."""
    parts, (stream_in, query, target) = earlier.anatomy, window.inputs(earlier.stream)
    found = {}
    with fast_products():
        if blocks:
            clean = plain_clean_window(parts, blocks, earlier.first, list(asked), stream_in, query, target)
        else:
            with torch.inference_mode():
                clean = clean_window(parts, earlier.first, list(asked), stream_in, query, target)
        with torch.inference_mode():
            rng = stream(seed, "earlier layers", "types", window.index)
            types = draw_types(parts, clean, target, rng, memory_bytes)
            for layer, neurons in asked.items():
                mean, some = earlier.layers[layer].moments.mean, torch.from_numpy(neurons).to(stream_in.device)
                delta, again = exact_deltas(
                    parts, layer, clean.layers[layer], types, mean, some, query, memory_bytes, blocks
                )
                found[layer] = delta.cpu().numpy(), clean.loss.double() + again
    return found


def _check(loss: Tensor, of_pass: Tensor) -> None:
    """Raises InputError unless the losses are those of the forward pass."""
    difference = float((loss.double().cpu() - of_pass.cpu()).abs().max())
    if not difference <= RERUN_TOLERANCE * max(1.0, float(of_pass.max())):
        raise InputError(
            f"the last blocks, run again, give losses {difference:.2g} nats off the forward pass; "
            "earlier layers of this model cannot be measured, leave out --layers"
        )


class _FirstOrder:
    """What `FirstOrderSums` holds, window after window."""

    def __init__(self, windows: Sequence[Window], neurons: int) -> None:
        shape = (len(windows), neurons)
        self.size = np.zeros(shape)
        names = windows[0].members
        self.classes = {name: ClassSums(np.zeros(shape), np.zeros(shape)) for name in names}
        self.slope, self.abs_slope = ({name: np.zeros(neurons) for name in names} for _ in range(2))

    def add(self, number: int, window: Window, delta: Tensor, slope: Tensor) -> None:
        """delta, slope: float64 (n, F)."""
        self.size[number] = delta.abs().sum(0).cpu().numpy()
        signed_slope = slope * delta.sign()
        for name, member in window.members.items():
            here = torch.from_numpy(member).to(delta.device)
            self.classes[name].sum[number] = delta[here].sum(0).cpu().numpy()
            self.classes[name].abs_sum[number] = delta[here].abs().sum(0).cpu().numpy()
            self.slope[name] += slope[here].sum(0).cpu().numpy()
            self.abs_slope[name] += signed_slope[here].sum(0).cpu().numpy()

    def result(self) -> FirstOrderSums:
        return FirstOrderSums(self.classes, self.size, self.slope, self.abs_slope)
