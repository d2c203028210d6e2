"""One forward pass of a checkpoint over the evaluation set, keeping what the analyses need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.capture.by_layers import by_layers
from rtdyn.capture.collect import Moments, NeuronMoments, Rows
from rtdyn.capture.layered_model import LayeredModel
from rtdyn.errors import OverflowedError
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.families import anatomy, check_reach
from rtdyn.text.positions import MeasuredPositions
from rtdyn.text.windows import EvaluationSet, check_ids

LOGIT_CHUNK_BYTES = 128 * 2**20
CACHED_CHUNK_BYTES, CHUNK_ROWS = 8 * 2**20, 512
"""On a CPU logits are made in chunks that its caches hold, as they are gone through several times. A chunk has so many
rows at least, as each goes through the unembedding."""


@dataclass(frozen=True)
class Capture:
    """What one checkpoint shows on the evaluation set; N measured positions, F neurons, width d."""

    positions: MeasuredPositions
    residual: Tensor
    """float32 (N, d): the last residual stream, before the final norm."""
    activations: Tensor
    """float32 (N, F): the final MLP's post-activations."""
    moments: NeuronMoments
    loss: Tensor
    """float32 (kept,): loss in nats at every kept position, in the order of `kept_flat`."""
    kept_flat: np.ndarray
    """int64 (kept,): indices of the kept positions into the flattened windows."""
    attention: Tensor | None
    """float32 (N, layers, heads, T): attention of each measured query to every key in `attention_layers`, where it was
    asked for."""
    anatomy: Anatomy
    mean_parts: Tensor | None = None
    """float64 (windows, F): Σ(a − ā)/n over each window's positions that ā is the mean of; over windows they sum to 0.
    None where the error of ā is not asked for."""
    stream: Tensor | None = None
    """float32 (windows, T, d): the residual stream that enters the first of `anatomy.blocks`, at every position of
    every window, where attention was asked for."""
    heads: Tensor | None = None
    """float32 (N, H·head size): the heads' outputs in that block at the measured positions, likewise. It is there for
    a model with a parallel residual alone, whose heads can be ablated by these."""
    first_heads: Tensor | None = None
    """float32 (windows, H·head size): the same at each window's first position, whose one key is key 0."""
    attention_layers: tuple[int, ...] = ()
    """Ascending: the last two layers, or of an earlier layer those that reach it and are of no capture before it."""

    @property
    def measured_loss(self) -> Tensor:
        """float32 (N,): loss at the measured positions."""
        return self.loss[torch.from_numpy(np.searchsorted(self.kept_flat, self.positions.flat))]


def capture(
    model: Any,
    evaluation: EvaluationSet,
    positions: MeasuredPositions,
    *,
    mean_over: str = "kept",
    attention: bool = False,
    batch_tokens: int = 4096,
) -> Capture:
    """Runs `model` once over the windows, in batches of about `batch_tokens` tokens.

    model: transformers' own, or a LayeredModel, of which the last two layers stay in memory, without attention one.
    mean_over: `kept`, or `all` for the mean over every position of every window. attention: keep the last two
    layers' attention, and the stream that enters them. Memory beyond the model: one batch's hidden states and the
    arrays that are returned, on its device. These are (N, d + F), with attention (N, 2·heads·T) and (windows·T, d), and
    with a parallel residual (N + windows, d) too. Raises InputError for token ids the model has no row for, windows
    longer than its attention reaches, and activations that overflow.
    """
    text = (evaluation, positions)
    return next(captures(model, [text], mean_over=mean_over, attention=attention, batch_tokens=batch_tokens))


def captures(
    model: Any,
    texts: Sequence[tuple[EvaluationSet, MeasuredPositions]],
    *,
    mean_over: str = "kept",
    attention: bool = False,
    batch_tokens: int = 4096,
) -> Iterator[Capture]:
    """The capture of each text in turn, as `capture` has it: of a LayeredModel one run through the layers for all.

    Windows of all texts have one length. Each capture is made when it is asked for.
    """
    batches = []
    for evaluation, _ in texts:
        check_ids(evaluation, model.get_output_embeddings().weight.shape[0])
        n_windows, length = evaluation.windows.shape
        check_reach((model.skeleton if isinstance(model, LayeredModel) else model).config, length)
        batches.append(torch.arange(n_windows).split(max(1, batch_tokens // length)))
    windows = (torch.from_numpy(evaluation.windows.astype(np.int64)) for evaluation, _ in texts)
    ids = [of_text[rows] for of_text, own in zip(windows, batches, strict=True) for rows in own]
    run = by_layers if isinstance(model, LayeredModel) else in_memory
    parts, last_hidden_states = run(model, ids, 2 if attention else 1)
    for text, own in zip(texts, batches, strict=True):
        yield _collected(parts, *text, own, islice(last_hidden_states, len(own)), mean_over, attention)


def _collected(
    parts: Anatomy,
    evaluation: EvaluationSet,
    positions: MeasuredPositions,
    batches: Sequence[Tensor],
    last_hidden_states: Iterator[Tensor],
    mean_over: str,
    attention: bool,
) -> Capture:
    """One text's capture. batches: the windows of each; last_hidden_states: of each, computed as it is taken."""
    n_windows, length = evaluation.windows.shape
    kept = torch.from_numpy(evaluation.kept)
    measured = torch.zeros(n_windows * length, dtype=torch.bool)
    measured[torch.from_numpy(positions.flat)] = True
    measured = measured.view(n_windows, length)
    targets = torch.from_numpy(evaluation.targets.astype(np.int64))
    device = parts.output_rows.device
    n, neurons = int(measured.sum()), parts.output_rows.shape[0]
    width = parts.readout.unembedding.shape[1]
    moments = Moments(neurons, device)
    residuals, activations = Rows((n, width), device), Rows((n, neurons), device)
    patterns = streams = heads = first_heads = None
    if attention:
        patterns = Rows((n, len(parts.blocks), parts.blocks[-1].heads, length), device)
        streams = Rows((n_windows, length, width), device)
    if attention and parts.parallel_residual:
        of_heads = parts.blocks[0].heads * parts.blocks[0].head_size
        heads, first_heads = Rows((n, of_heads), device), Rows((n_windows, of_heads), device)
    losses, window_sums, window_n = [], [], []
    with torch.inference_mode(), _recorded(parts, attention) as seen:
        for rows, hidden in zip(batches, last_hidden_states, strict=True):
            keep, take = kept[rows].to(device), measured[rows].to(device)
            of_neurons = seen["activations"].view(*keep.shape, -1)
            residuals.add(seen["residual"][take])
            activations.add(of_neurons[take])
            moments.add(of_neurons.flatten(0, 1) if mean_over == "all" else of_neurons[keep])
            counted = torch.ones_like(keep) if mean_over == "all" else keep
            window_sums.append((counted[:, None].float() @ of_neurons)[:, 0].double())
            window_n.append(counted.sum(1))
            losses.append(_losses(hidden[keep], targets[rows].to(device)[keep], parts))
            if patterns is not None and streams is not None:
                patterns.add(torch.stack([a.transpose(1, 2)[take] for a in seen["attentions"]], dim=1))
                streams.add(seen["stream"])
            if heads is not None and first_heads is not None:
                heads.add(seen["heads"][take])
                first_heads.add(seen["heads"][:, 0])
            seen.clear()
    averages, counts = moments.result(), torch.cat(window_n)
    captured = Capture(
        positions=positions,
        residual=residuals.array,
        activations=activations.array,
        moments=averages,
        loss=torch.cat(losses).cpu(),
        kept_flat=np.flatnonzero(evaluation.kept.ravel()),
        attention=None if patterns is None else patterns.array,
        anatomy=parts,
        mean_parts=(torch.cat(window_sums) - counts[:, None] * averages.mean) / averages.n,
        stream=None if streams is None else streams.array,
        heads=None if heads is None else heads.array,
        first_heads=None if first_heads is None else first_heads.array,
        attention_layers=tuple(range(parts.layer + 1))[-len(parts.blocks) :] if attention else (),
    )
    for name, values in (
        ("residual stream", captured.residual),
        ("activations", captured.activations),
        ("losses", captured.loss),
        ("activations", captured.moments.variance),
    ):
        if not all(map(math.isfinite, values.aminmax())):  # without an array as large
            raise OverflowedError(f"the final layer's {name} overflow to infinity or NaN")
    return captured


def in_memory(model: Any, batches: Sequence[Tensor], stay: int) -> tuple[Anatomy, Iterator[Tensor]]:
    """As `by_layers`, of a model that is in memory, where all of it stays."""
    parts = anatomy(model)
    device = parts.output_rows.device
    return parts, (parts.backbone(batch.to(device), use_cache=False).last_hidden_state for batch in batches)


@contextmanager
def _recorded(parts: Anatomy, attention: bool) -> Iterator[dict[str, Any]]:
    """Hooks that leave each forward pass's final residual, activations and attention in a dictionary."""
    seen: dict[str, Any] = {}

    def keep_input(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    def keep_weights(module: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
        seen.setdefault("attentions", []).append(output[1])

    handles = [
        parts.final_norm.register_forward_pre_hook(keep_input("residual")),
        parts.mlp_output.register_forward_pre_hook(keep_input("activations")),
        *(b.attention.register_forward_hook(keep_weights) for b in (parts.blocks if attention else ())),
        *(b.module.register_forward_pre_hook(keep_input("stream")) for b in (parts.blocks[:1] if attention else ())),
        *(
            b.attention_output.register_forward_pre_hook(keep_input("heads"))
            for b in (parts.blocks[:1] if attention and parts.parallel_residual else ())
        ),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _losses(hidden: Tensor, targets: Tensor, parts: Anatomy) -> Tensor:
    """Loss in nats of each row, in chunks so that the logits stay small."""
    unembedding = parts.readout.unembedding
    row_bytes = unembedding.shape[0] * 4
    rows = max(1, LOGIT_CHUNK_BYTES // row_bytes)
    if unembedding.device.type == "cpu":
        rows = min(rows, max(CHUNK_ROWS, CACHED_CHUNK_BYTES // row_bytes))
    return (
        torch.cat(
            [
                nn.functional.cross_entropy(parts.readout.logits(h), t, reduction="none")
                for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
            ]
        )
        if len(hidden)
        else hidden.new_empty(0)
    )
