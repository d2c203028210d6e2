"""Captures with attention that tests of routing share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from analyses.influence.test_ablation import synthetic
from model.test_families import random_model, text
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.model.anatomy import Block
from rtdyn.model.families import anatomy
from rtdyn.text.clusters import TextClusters
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.undefined import Undefined

LAYERS = 3
NO_PSEUDO = Undefined("too few common types")


def two_classes(positions: MeasuredPositions) -> MeasuredPositions:
    """Every third position rare, the others common."""
    rare = np.arange(len(positions.flat)) % 3 == 0
    classes = tuple(
        ClassPositions(name, int(own.sum()), positions.flat[own]) for name, own in (("rare", rare), ("common", ~rare))
    )
    return replace(positions, classes=classes)


def case(config: Any, layers: int = LAYERS) -> tuple[Any, Capture, np.ndarray]:
    """A random model of so many blocks, its capture, and the windows."""
    config = deepcopy(config)
    config.num_hidden_layers = layers
    for each_layers in ("layer_types", "no_rope_layers"):  # a list of the configuration, an entry a layer
        if getattr(config, each_layers, None):
            setattr(config, each_layers, (getattr(config, each_layers) * layers)[:layers])
    model = random_model(config)
    evaluation, positions = text()
    return model, capture(model, evaluation, two_classes(positions), attention=True), evaluation.windows


def split(name: str, *members: np.ndarray, sets: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None) -> Group:
    """A group that both halves chose, the same members unless two are given, with these sets as its nulls."""
    return Group(name, (members[0], members[-1]), sets or {}, 0.0, 0.0)


def context(
    captured: Capture,
    groups: Mapping[str, Group | Undefined],
    *,
    halves: np.ndarray | None = None,
    seed: int = 0,
    cluster: np.ndarray | None = None,
    pseudo: np.ndarray | Undefined = NO_PSEUDO,
    heads_to: str = "zero",
    heads_at: str = "query",
) -> Context:
    """What routing reads of a context: it looks at no influence; each window is a cluster unless they are given."""
    unread: Any = None
    options = StepOptions(
        ("ablation", "routing"), "kept", "mean_abs", 1e-5, 1.0, "never", "cpu", seed, heads_to, heads_at
    )
    n_windows = int(captured.positions.window.max()) + 1
    pieces = TextClusters(np.arange(n_windows) if cluster is None else cluster, "documents")
    evaluation: Any = SimpleNamespace(clusters=pieces, pseudo_classes=pseudo)
    return Context(
        captured, unread, evaluation, np.arange(n_windows) % 2 if halves is None else halves, groups, options
    )


def measured_positions(query: np.ndarray, rare: np.ndarray, window: np.ndarray, length: int) -> MeasuredPositions:
    """Positions (N,) of windows of this length, ascending, each in one of the two classes and with its own target."""
    flat = window * length + query
    order = np.argsort(flat)
    assert (np.diff(flat[order]) > 0).all()
    classes = tuple(
        ClassPositions(name, len(flat), np.sort(flat[own])) for name, own in (("rare", rare), ("common", ~rare))
    )
    return MeasuredPositions(flat[order], window[order], query[order], np.arange(len(flat)), classes)


def attention_capture(attention: np.ndarray, query: np.ndarray, rare: np.ndarray, per_window: int = 10) -> Capture:
    """A capture whose attention is (N, layers, heads, T), every position in one of the two classes."""
    window = np.arange(len(query)) // per_window
    order = np.argsort(window * attention.shape[-1] + query)
    base = synthetic(0, n=len(query))
    return replace(
        base,
        positions=measured_positions(query, rare, window, attention.shape[-1]),
        attention=torch.from_numpy(attention[order].astype(np.float32)),
        attention_layers=tuple(range(attention.shape[1])),
    )


def random_attention(
    rng: np.random.Generator, n: int = 300, heads: int = 2, length: int = 24, share: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention (n, 2, heads, T) with one expected profile for all, distinct queries in each ten, and a share rare."""
    query = np.concatenate([rng.choice(np.arange(8, length), 10, replace=False) for _ in range(n // 10)])
    back = query[:, None] - np.arange(length)
    shape = np.where(back >= 0, 1 + 2.0 / (1 + np.abs(back)), 0.0)
    weights = rng.exponential(size=(n, 2, heads, length)) * shape[:, None, None]
    return weights / weights.sum(-1, keepdims=True), query, rng.random(n) < share


def hooked_activations(
    model: Any, windows: Tensor, block: Block, change: Callable[[Tensor], Tensor] | None, layer: int = -1
) -> Tensor:
    """(windows, T, F): a layer's MLP activations in a whole forward pass, head outputs passed through `change`."""
    seen: dict[str, Tensor] = {}
    mlp = anatomy(model).mlp_outputs[layer].module
    handles = [mlp.register_forward_pre_hook(lambda m, inputs: seen.update(a=inputs[0]))]
    if change is not None:
        handles.append(block.attention_output.register_forward_pre_hook(lambda m, i: (change(i[0].clone()),)))
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    return seen["a"].view(*windows.shape, -1)
