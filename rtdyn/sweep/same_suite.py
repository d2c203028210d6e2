"""Whether a step belongs to the suite that the run was prepared from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtdyn.checkpoints.checkpoint import Checkpoint, read_config
from rtdyn.errors import InputError
from rtdyn.model.sizes import model_shape
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.tokenizer import tokenizer_digest

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


def _check_same_suite(checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    """Raises InputError if the step's shapes or tokenizer are not those of the step the run was prepared from."""
    check_same_shape(read_config(checkpoint.folder), evaluation.model_config, checkpoint.step)
    digest = tokenizer_digest(checkpoint.folder)
    if digest is not None and evaluation.tokenizer_sha256 not in (None, digest):
        raise InputError(f"step {checkpoint.step} has another tokenizer.json than the suite; leave it out of --steps")


def check_same_shape(config: Mapping[str, Any], reference: Mapping[str, Any], step: int) -> None:
    """Raises InputError if a step's config.json gives other shapes than the one the run was prepared from.

    A setting that one names and the other leaves to its default is the same, and so are a setting's older names.
    """
    differing = [key for key in SHAPE_KEYS if config.get(key) != reference.get(key)]
    if not differing:
        return
    changes = ", ".join(f"{k} {config.get(k)} instead of {reference.get(k)}" for k in differing)
    refusal = InputError(f"step {step} is of another shape than the last step asked for: {changes}")
    if "model_type" in differing:
        raise refusal
    try:
        same = _sizes(config, f"step {step}") == _sizes(reference, "the last step asked for")
    except InputError as error:
        raise refusal from error
    if not same:
        raise refusal


def _sizes(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    shape = model_shape({key: value for key, value in config.items() if key != "parameters"}, where)
    return shape.layers, shape.width, shape.neurons, shape.heads, shape.logits, shape.parameters
