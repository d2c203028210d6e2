"""The analysis of a model in memory: the same numbers as of its checkpoint in a run."""

from __future__ import annotations

from typing import Any

from rtdyn.analyses.compile_ahead import compile_ahead, when_compiled, with_layers
from rtdyn.analyses.groups.weightwatcher import begin_weightwatcher
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.model_copy import model_copy
from rtdyn.errors import InputError, OverflowedError
from rtdyn.model.families import may_be_capped
from rtdyn.names import WEIGHTS_ONLY
from rtdyn.store.schema import StepTables
from rtdyn.sweep.step import analyse_model
from rtdyn.text.documents import Documents
from rtdyn.text.evaluation import prepare_in_memory
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.token_counts import TokenCounts
from rtdyn.text.tokenizer import tokenizer_of


def analyse_in_memory(
    model: Any,
    tokenizer: Any,
    documents: Documents,
    counts: TokenCounts | None,
    measured_on: EvaluationOptions,
    options: StepOptions,
    step: int,
    tokens_seen: int | None,
) -> StepTables:
    """The tables of transformers' model with its tokenizer, without a fingerprint; the model stays as it is.

    counts: None for those of the documents. The model is first compared with transformers' own forward pass. Raises
    ParityError where the two differ, and InputError for a model, tokenizer or text that cannot be used.
    """
    if set(options.analyses) <= set(WEIGHTS_ONLY):
        raise InputError(f"{', '.join(WEIGHTS_ONLY)} alone reads no text; add ablation to the analyses")
    copied = model_copy(model, options.device)
    config = model.config.to_dict()
    evaluation = prepare_in_memory(tokenizer_of(tokenizer, "the tokenizer"), config, documents, counts, measured_on)
    if "heavytail" in options.analyses:
        begin_weightwatcher()
    compile_ahead(with_layers(options), options.device, may_be_capped(config))
    try:
        stage = when_compiled(lambda stage: None)
        return analyse_model(copied, step, tokens_seen, evaluation, options, stage, parity=True)
    except OverflowedError as error:
        raise InputError(f"the model cannot be measured: {error}") from error
