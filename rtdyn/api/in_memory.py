"""The analyses of a model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rtdyn.analyses.options import StepOptions
from rtdyn.api.keywords import parsed, refuse_others, takes_options
from rtdyn.api.track import TRACK
from rtdyn.cli_jobs import evaluation_options, filled
from rtdyn.cli_presets import check_one_design
from rtdyn.counted import counted
from rtdyn.errors import UsageError
from rtdyn.names import RARE
from rtdyn.store.schema import StepTables
from rtdyn.sweep.in_memory import analyse_in_memory
from rtdyn.sweep.sweep import device_here
from rtdyn.text.documents import Documents, documents_of, read_documents
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.token_counts import TokenCounts, counts_of, read_counts

_TEXT = ("rare", "tokens", "rare_targets", "window", "bos", "class_by", "min_targets", "positions_per_rare")
_INFLUENCE = (*_TEXT, "mean_over", "tolerance", "memory_gib", "device", "seed")
_ALL = (*_INFLUENCE, "analyses", "preset", "rank_by", "heads_to", "heads_at", "unigram", "layers", "exact_neurons")
"""The command's options that mean something for a model in memory."""


@takes_options(TRACK, _ALL)
def analyse(
    model: Any,
    tokenizer: Any,
    text: str | Path | Sequence[str],
    *,
    frequencies: np.ndarray | Path | str | None = None,
    step: int = 0,
    tokens_seen: int | None = None,
    **options: Any,
) -> StepTables:
    """Analyses a transformers model that is in memory, and returns the tables that a run would store of it.

    model:
        A causal language model of transformers, on any device and of any floating type. It stays as it is: what is
        measured is a copy in float32 on `device`.
    tokenizer:
        The model's tokenizer.
    text:
        What the model is measured on: one document, a sequence of documents, or the Path of a .txt, .jsonl or .parquet
        file.
    frequencies:
        How often each token type occurs in the training corpus: an array of counts (V,) by token id, or a .npy or
        .parquet file. None counts the text itself, which then has to be long.
    step:
        The column `step` of the tables.
    tokens_seen:
        The column `tokens_seen` of the tables: how many tokens the model was trained on.

    Returns a StepTables. Its `metrics`, `neurons`, `windows` and `curves` are polars frames with the columns of a run.
    For the same weights, text, frequencies and options they are equal to a run's. Nothing is written to disk.

    Raises rtdyn.errors.ParityError where rtdyn does not read the model as transformers runs it. Raises
    rtdyn.errors.UsageError for options that the command would refuse. Raises rtdyn.errors.InputError for a model,
    tokenizer or text that cannot be used.

        tables = rtdyn.analyse(model, tokenizer, Path("held_out.txt"), analyses=["ablation", "regimes"])
        tables.metrics.filter(pl.col("analysis") == "regimes")
    """
    measured_on, settings = _settings(_ALL, options)
    counts = _counts(frequencies)
    return analyse_in_memory(model, tokenizer, _documents(text), counts, measured_on, settings, step, tokens_seen)


@dataclass(frozen=True, repr=False)
class NeuronInfluence:
    """How much ablating each neuron of the final MLP changes the loss on one class of tokens, in nats.

    F is the number of neurons. Every array is float64 (F,). `numpy.asarray` of the whole gives `values`.
    """

    token_class: str
    """The class whose targets are measured."""
    positions: int
    """Measured positions of the class."""
    clusters: int
    """Independent pieces of text that hold these positions; intervals and standard errors come from them."""
    values: np.ndarray
    """(F,) mean |Δ|: how much the loss at a position changes when the neuron's activation becomes its mean."""
    low: np.ndarray
    """(F,) lower end of the 95 % interval of `values` over the text; NaN where there is none."""
    high: np.ndarray
    """(F,) upper end of that interval."""
    error_bound: np.ndarray
    """(F,) how far `values` and `mean` may lie from what exact arithmetic gives on this text."""
    mean: np.ndarray
    """(F,) mean Δ: positive where the neuron helps the class."""
    mean_se: np.ndarray
    """(F,) standard error of `mean` over the text."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """`values` (F,)."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        largest = int(self.values.argmax())
        return (
            f"<influence of {counted(len(self.values), 'neuron')} on {self.token_class}, "
            f"{counted(self.positions, 'position')} in {counted(self.clusters, 'piece')} of text: "
            f"largest {self.values[largest]:.3g} nats, neuron {largest}>"
        )


@takes_options(TRACK, _INFLUENCE)
def influence(
    model: Any,
    tokenizer: Any,
    text: str | Path | Sequence[str],
    *,
    frequencies: np.ndarray | Path | str | None = None,
    token_class: str = RARE,
    **options: Any,
) -> NeuronInfluence:
    """The influence of every neuron of a model's final MLP on one class of tokens, an array (F,) with its bounds.

    model:
        As for `rtdyn.analyse`.
    tokenizer:
        As for `rtdyn.analyse`.
    text:
        As for `rtdyn.analyse`.
    frequencies:
        As for `rtdyn.analyse`.
    token_class:
        `rare`, `common`, or the name of a band that `rare` gives.

    Returns a NeuronInfluence: `values` (F,), the ends of their 95 % interval, and the bound of their numerical error.
    They are those of `rtdyn.analyse(…).neurons`.

    Raises as `rtdyn.analyse`, and rtdyn.errors.UsageError for a class that is not there.

        found = rtdyn.influence(model, tokenizer, Path("held_out.txt"))
        found.values.argsort()[::-1][:10]
    """
    measured_on, settings = _settings(_INFLUENCE, options, analyses="ablation")
    tables = analyse_in_memory(
        model, tokenizer, _documents(text), _counts(frequencies), measured_on, settings, step=0, tokens_seen=None
    )
    row = tables.metrics.filter((pl.col("metric") == "influence_mean") & (pl.col("token_class") == token_class))
    if row.is_empty():
        classes = tables.metrics.filter(pl.col("metric") == "influence_mean")["token_class"].to_list()
        raise UsageError(f"there is no class {token_class!r}; there are {', '.join(classes)}")
    columns = tables.neurons.with_columns(pl.col(pl.Float64).fill_null(np.nan))
    return NeuronInfluence(
        token_class=token_class,
        positions=row["n"].item(),
        clusters=row["clusters"].item(),
        values=columns[f"mean_abs_{token_class}"].to_numpy(),
        low=columns[f"ci_low_abs_{token_class}"].to_numpy(),
        high=columns[f"ci_high_abs_{token_class}"].to_numpy(),
        error_bound=columns[f"error_bound_{token_class}"].to_numpy(),
        mean=columns[f"delta_{token_class}"].to_numpy(),
        mean_se=columns[f"se_{token_class}"].to_numpy(),
    )


def _settings(names: Sequence[str], options: Mapping[str, Any], **ours: str) -> tuple[EvaluationOptions, StepOptions]:
    """The options as the command reads them, with ours, the device known.

    Raises TypeError for an option that is not among `names`.
    """
    refuse_others(options, names)
    with parsed(TRACK, {"model": ["in memory"], **options, **ours}) as (params, _):
        check_one_design("a model in memory has none")
        params["device"] = device_here(params["device"])
        return evaluation_options(params), filled(StepOptions, params)


def _documents(text: str | Path | Sequence[str]) -> Documents:
    if isinstance(text, Path):
        return read_documents(str(text))
    return documents_of([text] if isinstance(text, str) else list(text), "the text", "text in memory")


def _counts(frequencies: np.ndarray | Path | str | None) -> TokenCounts | None:
    if frequencies is None:
        return None
    if isinstance(frequencies, str | Path):
        return read_counts(Path(frequencies))
    return counts_of(np.asarray(frequencies), "frequencies")
