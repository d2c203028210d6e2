"""The analysis of one checkpoint: weights in, tables out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.ablation import ClassInfluence, influence
from rtdyn.analyses.regimes import Regimes, fit_regimes
from rtdyn.capture import capture
from rtdyn.checkpoints.checkpoint import Checkpoint, load_model, read_config
from rtdyn.errors import InputError
from rtdyn.evaluation import Evaluation
from rtdyn.store import StepTables, metric_frame
from rtdyn.tables import CLEAR_SE, ablation_metrics, loss_metrics, neuron_table, regime_metrics, window_table
from rtdyn.tokenizer import tokenizer_digest

DECILES = 10
SHAPE_KEYS = (
    "model_type",
    "hidden_size",
    "n_embd",
    "intermediate_size",
    "n_inner",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "vocab_size",
)


@dataclass(frozen=True)
class StepOptions:
    """Settings of the analyses, by the names of the command line."""

    analyses: tuple[str, ...]
    mean_over: str
    rank_by: str
    tolerance: float
    memory_gib: float
    device: str


def analyse_step(
    checkpoint: Checkpoint,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
) -> StepTables:
    """Runs the chosen analyses on one checkpoint; `stage` is told the name of each as it begins.

    Raises InputError if the weights are damaged or of another shape than the suite's.
    """
    stage("load")
    _check_same_suite(checkpoint, evaluation)
    model = load_model(checkpoint, options.device)
    logits = model.get_output_embeddings().weight.shape[0]
    if logits != evaluation.n_logits:
        raise InputError(
            f"step {checkpoint.step} has {logits:,} logits where the suite's last step has {evaluation.n_logits:,}; "
            "it belongs to another model, leave it out of --steps"
        )
    stage("capture")
    captured = capture(model, evaluation.text, evaluation.positions, mean_over=options.mean_over)
    stage("ablation")
    result = influence(
        captured,
        torch.from_numpy(frequency_deciles(evaluation.classes.rank)),
        DECILES,
        tolerance=options.tolerance,
        memory_bytes=int(options.memory_gib * 2**30),
    )
    regimes: dict[str, Regimes] = {}
    if "regimes" in options.analyses:
        stage("regimes")
        regimes = {name: _fit(c, options.rank_by) for name, c in result.classes.items()}
    stage("tables")
    layer = captured.anatomy.layer
    rows = [
        *loss_metrics(captured, evaluation.text.windows.shape[1]),
        *ablation_metrics(result, layer),
        *regime_metrics(regimes, layer),
    ]
    return StepTables(
        metrics=metric_frame(rows, checkpoint.step, tokens_seen),
        neurons=neuron_table(checkpoint.step, captured, result, regimes),
        windows=window_table(checkpoint.step, layer, result, regimes),
    )


def _check_same_suite(checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    """Raises InputError if the step's shapes or tokenizer are not those of the step the run was prepared from."""
    config = read_config(checkpoint.folder)
    differing = [key for key in SHAPE_KEYS if config.get(key) != evaluation.model_config.get(key)]
    if differing:
        changes = ", ".join(f"{k} {config.get(k)} instead of {evaluation.model_config.get(k)}" for k in differing)
        raise InputError(f"step {checkpoint.step} is of another shape than the last step asked for: {changes}")
    digest = tokenizer_digest(checkpoint.folder)
    if digest is not None and evaluation.tokenizer_sha256 not in (None, digest):
        raise InputError(f"step {checkpoint.step} has another tokenizer.json than the suite; leave it out of --steps")


def _fit(c: ClassInfluence, rank_by: str) -> Regimes:
    influence, se = (c.mean.abs(), c.mean_se) if rank_by == "abs_mean" else (c.mean_abs, c.mean_abs_se)
    return fit_regimes(influence.cpu().numpy(), (CLEAR_SE * se + c.error_bound).cpu().numpy())


def frequency_deciles(rank: np.ndarray) -> np.ndarray:
    """int64 (V,): tenth of the frequency ranks each type lies in, 0 the most frequent; −1 for padding."""
    return np.where(rank > 0, (rank - 1) * DECILES // max(1, int(rank.max())), -1)
