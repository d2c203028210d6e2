"""What ablating attention heads does to a layer's MLP activations a, which become a' (METHODS §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.options import HEADS_AT, HEADS_TO
from rtdyn.analyses.routing.attention import MEMORY_BYTES, reaching_layers
from rtdyn.analyses.routing.rerun import CleanQueries, CleanWindow, ablated_activations, clean_pass, clean_queries
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import InputError
from rtdyn.names import BY_STRUCTURE
from rtdyn.undefined import Undefined

RERUN_TOLERANCE = 1e-3
"""Largest error of the blocks' second run, relative to the largest activation."""
STRUCTURAL = Undefined(f"{BY_STRUCTURE}: with a parallel residual a layer's attention cannot reach its own MLP")


@dataclass(frozen=True)
class AblationSums:
    """Sums over one class's positions for each ablation of one layer: its H heads, then all of them."""

    n: np.ndarray
    """int64 (parts,): positions in each part of the windows."""
    change: np.ndarray
    """float64 (parts, H + 1, F): Σ |a' − a|."""
    before: np.ndarray
    """float64 (parts, F): Σ |a|."""
    growth: np.ndarray
    """float64 (parts, H + 1, F): Σ (|a'| − |a|)."""
    window_ids: np.ndarray
    """int64 (w,): windows with positions of the class."""
    group_change: Mapping[str, np.ndarray]
    """By group, float64 (w, H + 1): Σ |a' − a| over the group's neurons and each window's positions."""
    group_before: Mapping[str, np.ndarray]
    """By group, float64 (w,)."""
    group_growth: Mapping[str, np.ndarray]
    """By group, float64 (w, H + 1)."""


@dataclass(frozen=True)
class HeadAblation:
    """The heads of one layer, ablated each and together."""

    layer: int
    classes: Mapping[str, AblationSums]
    structural: Undefined | None
    """Why the effects are 0 without having been measured; None where they were."""
    rerun_error: float
    """Largest |difference| between the capture's activations and the second run's, unablated."""


def ablate_heads(
    captured: Capture,
    chosen: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    *,
    to: str = "zero",
    at: str = "query",
    part: np.ndarray | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[HeadAblation, ...]:
    """What ablating each head of `reaching_layers`, and all of a layer, does to the activations of the capture's MLP.

    chosen: by class, indices (n,) into the measured positions. groups: neurons (n,) of that MLP by name. part:
    int64 (windows,), labels from 0 of the parts of the windows whose sums are kept apart. to, at: as `StepOptions` has
    `heads_to` and `heads_at`. memory_bytes: what a batch may take; a position with all its ablations always goes in one
    batch. The output projection's bias stays. Raises ValueError for a capture without attention or another `to` or
    `at`, InputError if the blocks' second run does not give the capture's activations.
    """
    if to not in HEADS_TO or at not in HEADS_AT:
        raise ValueError(f"to is one of {HEADS_TO} and at one of {HEADS_AT}, not {to!r} and {at!r}")
    if captured.stream is None:
        raise ValueError("the capture was made without attention")
    parts, positions = captured.anatomy, captured.positions
    rows = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *chosen.values()]))
    n_windows, neurons = len(captured.stream), captured.activations.shape[1]
    labels = np.zeros(n_windows, dtype=np.int64) if part is None else part
    members = {name: np.isin(np.arange(len(positions.flat)), indices) for name, indices in chosen.items()}
    sums = [
        {
            name: _Sums(block.heads + 1, neurons, int(labels.max(initial=0)) + 1, groups, captured.activations.device)
            for name in chosen
        }
        for block in parts.blocks
    ]
    errors = [0.0] * len(parts.blocks)
    with torch.inference_mode():
        for window in np.unique(positions.window[rows]):
            here = rows[positions.window[rows] == window]
            clean = _clean(captured, int(window), here)
            for i, block in enumerate(parts.blocks):
                totals = {name: _Total(block.heads + 1, neurons, captured.activations.device) for name in chosen}
                for some, activations in ablated_activations(
                    parts, clean, i, positions.query[here], to, at, memory_bytes
                ):
                    before = captured.activations[torch.from_numpy(here[some]).to(activations.device)]
                    errors[i] = max(errors[i], float((activations[:, 0] - before).abs().max()))
                    for name, total in totals.items():
                        total.add(activations[torch.from_numpy(members[name][here[some]]).to(activations.device)])
                for name, total in totals.items():
                    sums[i][name].add(int(window), int(labels[window]), total)
    largest = float(captured.activations.abs().max()) if captured.activations.numel() else 0.0
    if max(errors, default=0.0) > RERUN_TOLERANCE * largest:
        raise InputError(
            f"the blocks, run again, give activations that differ by up to {max(errors):.2g} from the forward "
            "pass; this model's attention heads cannot be ablated"
        )
    structural = [
        STRUCTURAL if parts.parallel_residual and i == len(parts.blocks) - 1 else None for i in range(len(sums))
    ]
    return tuple(
        HeadAblation(layer, {name: total.result() for name, total in by_class.items()}, reason, error)
        for layer, by_class, reason, error in zip(reaching_layers(captured), sums, structural, errors, strict=True)
    )


def _clean(captured: Capture, window: int, rows: np.ndarray) -> CleanWindow | CleanQueries:
    """One window as it is, at the measured positions rows (n,) at least."""
    stream, heads, first = captured.stream, captured.heads, captured.first_heads
    assert stream is not None
    if not captured.anatomy.parallel_residual:
        return clean_pass(captured.anatomy, stream[window : window + 1])
    assert heads is not None and first is not None
    at_rows = heads[torch.from_numpy(rows).to(heads.device)]
    return clean_queries(captured.anatomy, stream[window], captured.positions.query[rows], at_rows, first[window])


class _Total:
    """Sums of |Δa|, |a| and |a'| − |a| over one class's positions in one window."""

    def __init__(self, ablations: int, neurons: int, device: torch.device) -> None:
        self.n = 0
        self.before = torch.zeros(neurons, dtype=torch.float64, device=device)
        self.change, self.growth = torch.zeros(2, ablations, neurons, dtype=torch.float64, device=device)

    def add(self, activations: Tensor) -> None:
        """activations: (positions, 1 + ablations, F), unablated first, or that alone where nothing has an effect."""
        self.n += len(activations)
        size = activations.abs()
        self.before += size[:, 0].sum(0, dtype=torch.float64)
        if activations.shape[1] == 1:
            return
        self.change += (activations[:, 1:] - activations[:, :1]).abs().sum(0, dtype=torch.float64)
        self.growth += (size[:, 1:] - size[:, :1]).sum(0, dtype=torch.float64)


class _Sums:
    """What `AblationSums` holds, window after window."""

    def __init__(
        self, ablations: int, neurons: int, labels: int, groups: Mapping[str, np.ndarray], device: torch.device
    ) -> None:
        self.n = np.zeros(labels, dtype=np.int64)
        self.before = torch.zeros(labels, neurons, dtype=torch.float64, device=device)
        self.change, self.growth = torch.zeros(2, labels, ablations, neurons, dtype=torch.float64, device=device)
        self.windows: list[int] = []
        self.names = tuple(groups)
        self.members = torch.zeros(neurons, len(groups), dtype=torch.float64, device=device)
        for column, members in zip(self.members.T, groups.values(), strict=True):
            column[torch.from_numpy(members).to(device)] = 1.0
        # by window, of the columns of `members`: change and growth (H + 1, groups), before (groups,)
        self.by_window: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        self.ablations = ablations

    def add(self, window: int, label: int, total: _Total) -> None:
        if total.n == 0:
            return
        self.n[label] += total.n
        self.before[label] += total.before
        self.change[label] += total.change
        self.growth[label] += total.growth
        self.windows.append(window)
        for kept, of_neurons in zip(self.by_window, (total.change, total.before, total.growth), strict=True):
            kept.append(of_neurons @ self.members)

    def result(self) -> AblationSums:
        groups = len(self.names)
        shapes = ((0, self.ablations, groups), (0, groups), (0, self.ablations, groups))
        arrays = (
            torch.stack(kept).cpu().numpy() if kept else np.empty(shape)
            for kept, shape in zip(self.by_window, shapes, strict=True)
        )
        change, before, growth = ({name: v[..., k] for k, name in enumerate(self.names)} for v in arrays)
        return AblationSums(
            self.n,
            self.change.cpu().numpy(),
            self.before.cpu().numpy(),
            self.growth.cpu().numpy(),
            np.array(self.windows, dtype=np.int64),
            change,
            before,
            growth,
        )
