"""What a run measures on: windows of text, token classes, and the positions of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rtdyn.checkpoints.checkpoint import read_config
from rtdyn.checkpoints.locate import find_config, find_tokenizer
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.hub.datasets import dataset_at, is_hub
from rtdyn.hub.names import CONFIG
from rtdyn.model.layouts import WITHOUT_LIMIT
from rtdyn.names import PILE, SWEEP, position_by
from rtdyn.streams import stream
from rtdyn.suites.suite import KnownText, SuiteSpec
from rtdyn.text.clusters import TextClusters, text_clusters
from rtdyn.text.documents import Documents
from rtdyn.text.draw import DrawnWindow, draw_windows
from rtdyn.text.evaluation_text import open_text
from rtdyn.text.hub_counts import count_dataset
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.pile_counts import pile_counts
from rtdyn.text.positions import MeasuredPositions, Unmeasurable, measure, without_sparse
from rtdyn.text.pseudo_classes import pseudo_classes
from rtdyn.text.stored_text import Text
from rtdyn.text.target_kinds import TargetKinds
from rtdyn.text.token_classes import TokenClasses, classify
from rtdyn.text.token_counts import TokenCounts, count_texts, read_counts, within
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_digest, tokenizer_files_digest
from rtdyn.text.windows import EvaluationSet, pack
from rtdyn.undefined import Undefined

MIN_TOKENS = 8192


@dataclass(frozen=True)
class Evaluation:
    """What every step is measured on, and how it came about."""

    text: EvaluationSet
    counts: TokenCounts
    classes: TokenClasses
    positions: MeasuredPositions
    corpus_sha256: str
    corpus_name: str
    corpus_provenance: Mapping[str, Any]
    """What was read of a data set on the Hub; empty for a file."""
    n_logits: int
    model_config: dict[str, Any]
    """The reference step's config.json."""
    tokenizer_sha256: str | None
    """Digest of what its tokenizer.json does, if it has one."""
    seed: int
    class_by: str = "target"
    """As `EvaluationOptions` has it."""
    known_text: KnownText | None = None
    """Whether the text was held out from training, as far as is known."""
    kinds: Mapping[str, TargetKinds] = field(default_factory=dict)
    """By class, what its targets are; empty where no domains are measured."""
    domains: Mapping[str, Evaluation] = field(default_factory=dict)
    """Further texts that are measured on the same classes, by name."""
    left_out: Mapping[str, Unmeasurable] = field(default_factory=dict)
    """Those that were asked for and cannot be measured."""

    @cached_property
    def pseudo_classes(self) -> np.ndarray | Undefined:
        """bool (draws, N): positions of each pseudo-class, the same at every step, or why there are none."""
        own = None if self.class_by == "target" else self.text.windows.ravel()[self.positions.flat]
        return pseudo_classes(self.positions, seed=self.seed, token=own)

    @cached_property
    def clusters(self) -> TextClusters:
        """The independent pieces of the text, the same at every step."""
        frequency = np.append(self.counts.counts, np.ones(max(0, self.n_logits - len(self.counts.counts))))
        surprise = -np.log(np.maximum(frequency, 1.0))[self.text.targets]
        kept = self.text.kept
        return text_clusters(self.text.documents, (surprise * kept).sum(1) / np.maximum(1, kept.sum(1)))


def prepare(
    suite: SuiteSpec, step: int, options: EvaluationOptions, say: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Evaluation windows, token classes and measured positions of a run; tokenizer and config are `step`'s.

    `say` is told of what takes long, and of what is switched off in the tokenizer.
    """
    tokenizer_folder = find_tokenizer(suite, step)
    tokenizer = load_tokenizer(tokenizer_folder, say)
    config_folder = find_config(suite, step)
    model_config = read_config(config_folder)
    limits = limits_of(tokenizer, model_config, options, str(config_folder / CONFIG))
    opened = open_text(
        suite, options.corpus, options.text_field, options.seed, say, options.text_where, options.documents
    )
    source = options.frequencies or suite.frequencies
    # a data set is not read whole, so its own counts are those of a sample, as of any other
    source = opened.corpus if source == "corpus" and opened.hub is not None else source
    if is_hub(source):
        counts = _hub_counts(source, tokenizer, tokenizer_files_digest(tokenizer_folder), options, say)
    elif source == "corpus":
        counts = count_texts(opened.documents.texts, tokenizer, limits.n_logits, opened.documents.name)
    elif source == PILE:
        counts = pile_counts(tokenizer)
    else:
        counts = read_counts(_counts_file(source, suite, options))
    drawn = _draw(opened.blocks, tokenizer, counts, limits, options, say)
    documents, provenance = opened.documents, opened.provenance
    digest = tokenizer_digest(tokenizer_folder)
    evaluation = _evaluation(drawn, documents, provenance, model_config, digest, options, opened.known)
    rare = evaluation.positions.classes[0].available
    if options.tokens is None and rare < options.wanted:
        held = counted(rare, f"rare {position_by(options.class_by)}")
        say(f"the text holds {held} of the {options.wanted:,} asked for, and is measured whole")
    size = drawn.text.windows.size
    if options.tokens is not None and size < options.tokens:
        say(f"the text holds {counted(size, 'token')} of the {options.tokens:,} asked for, and is measured whole")
    return evaluation


def prepare_in_memory(
    tokenizer: Tokenizer,
    model_config: dict[str, Any],
    documents: Documents,
    counts: TokenCounts | None,
    options: EvaluationOptions,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """The same of what is in memory. counts: None for those of the documents themselves; options: what names a source
    is passed over."""
    limits = limits_of(tokenizer, model_config, options, "the model's configuration")
    if counts is None:
        counts = count_texts(documents.texts, tokenizer, limits.n_logits, documents.name)
    drawn = _draw([documents.texts], tokenizer, counts, limits, options, say)
    return _evaluation(drawn, documents, {}, model_config, None, options)


@dataclass(frozen=True)
class Limits:
    """What the model sets to the text."""

    n_logits: int
    bos: int | None
    """What each window begins with."""
    eos: int | None


def limits_of(tokenizer: Tokenizer, model_config: dict[str, Any], options: EvaluationOptions, where: str) -> Limits:
    """What the model sets to the text. where: what names the configuration in an InputError."""
    n_logits = _whole_number(model_config, ("vocab_size",), where)
    if model_config.get("model_type") not in WITHOUT_LIMIT:
        context = _whole_number(model_config, ("max_position_embeddings", "n_positions"), where)
        if options.window > context:
            raise InputError(f"--window {options.window} exceeds the model's context of {counted(context, 'token')}")
    eos = tokenizer.eos if tokenizer.eos is not None else model_config.get("eos_token_id")
    if eos is not None and eos >= n_logits:
        raise InputError(
            f"the EOS token, id {eos:,}, is beyond the model's {n_logits:,} logits; "
            "give the tokenizer that the model was trained with"
        )
    return Limits(n_logits, _bos(options.bos, tokenizer, model_config, n_logits), eos)


@dataclass(frozen=True)
class _Drawn:
    """Windows of the text, with the counts and classes that they are measured by."""

    text: EvaluationSet
    counts: TokenCounts
    classes: TokenClasses
    n_logits: int


def _draw(
    blocks: Iterable[Sequence[Text]],
    tokenizer: Tokenizer,
    counts: TokenCounts,
    limits: Limits,
    options: EvaluationOptions,
    say: Callable[[str], None],
) -> _Drawn:
    counts = within(counts, limits.n_logits)
    classes = classify(counts, options.bands, limits.n_logits)
    body = options.window - (limits.bos is not None)
    drawn = draw_windows(blocks, tokenizer, body, limits.eos, stream(options.seed, "documents"))
    windows = checked(drawn, tokenizer, limits.n_logits)
    text = pack(windows, options.window, limits.bos, limits.eos, Enough(classes, options))
    return _Drawn(text, counts, without_sparse_bands(text, classes, options, say), limits.n_logits)


def _evaluation(
    drawn: _Drawn,
    documents: Documents,
    provenance: Mapping[str, Any],
    model_config: dict[str, Any],
    tokenizer_sha256: str | None,
    options: EvaluationOptions,
    known: KnownText | None = None,
) -> Evaluation:
    return Evaluation(
        drawn.text,
        drawn.counts,
        drawn.classes,
        measure(
            drawn.text,
            drawn.classes,
            options.class_by,
            options.positions_per_rare,
            options.min_targets,
            options.seed,
        ),
        documents.sha256,
        documents.name,
        provenance,
        drawn.n_logits,
        model_config,
        tokenizer_sha256,
        options.seed,
        options.class_by,
        known,
    )


def _whole_number(config: dict[str, Any], keys: tuple[str, ...], where: str) -> int:
    value = next((config[key] for key in keys if key in config), None)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{where} gives no usable {' or '.join(keys)}; correct it")
    return value


def _counts_file(source: str, suite: SuiteSpec, options: EvaluationOptions) -> Path:
    if options.frequencies is None and suite.path is not None:
        return suite.path / source
    return Path(source)


def _hub_counts(
    source: str,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    options: EvaluationOptions,
    say: Callable[[str], None],
) -> TokenCounts:
    try:
        address, _, id_column = source.partition("::")
        dataset = dataset_at(address)
        tokens, field = options.frequency_tokens, options.text_field
        return count_dataset(dataset, tokenizer, tokenizer_sha256, field, tokens, options.seed, say, id_column or None)
    except InputError as error:
        if options.frequencies is not None:
            raise
        raise InputError(f"{error}; or give --frequencies a file of counts, or `corpus`") from error


def without_sparse_bands(
    text: EvaluationSet, classes: TokenClasses, options: EvaluationOptions, say: Callable[[str], None]
) -> TokenClasses:
    """The classes without the bands of a sweep that the text holds too few positions of; `say` is told of each."""
    swept = [band.partition("=")[0] for band in options.bands[1:] if band in SWEEP]
    kept, sparse = without_sparse(text, classes, options.class_by, options.min_targets, swept)
    for name, count in sparse.items():
        say(
            f"the band {name} has {counted(count, 'position')} in {text.windows.size:,} tokens, under the "
            f"{options.min_targets} of --min-targets, and is left out; --rare-targets N measures more text"
        )
    return kept


def checked(drawn: Iterable[DrawnWindow], tokenizer: Tokenizer, n_logits: int) -> Iterator[DrawnWindow]:
    """The windows. Raises InputError for one with an id that the model has no logit for."""
    for window in drawn:
        highest = int(window.ids.max())
        if highest >= n_logits:
            token = tokenizer.backend.convert_ids_to_tokens(highest)
            raise InputError(
                f"the evaluation text holds {token!r}, token id {highest:,}, beyond the model's {n_logits:,} logits; "
                "leave it out of the text, or give the model's own tokenizer"
            )
        yield window


def _bos(choice: str, tokenizer: Tokenizer, model_config: dict[str, Any], n_logits: int) -> int | None:
    if choice == "none":
        return None
    bos = tokenizer.bos if tokenizer.bos is not None else model_config.get("bos_token_id")
    if bos is None:
        raise InputError("the tokenizer names no BOS token; give --bos none")
    if bos >= n_logits:
        raise InputError(f"the BOS token, id {bos:,}, is beyond the model's {n_logits:,} logits; give --bos none")
    return int(bos)


class Enough:
    """Told each window, says when the evaluation text is long enough: `--tokens`, or `--rare-targets`."""

    def __init__(self, classes: TokenClasses, options: EvaluationOptions, most: float = math.inf) -> None:
        """most: tokens after which no more are taken, whatever they hold."""
        self.most = most
        self.rare = classes.named("rare").types
        self.tokens = options.tokens
        self.wanted = options.wanted
        self.by_target = options.class_by == "target"
        self.rare_targets = 0

    def __call__(self, tokens: int, window: np.ndarray, kept: np.ndarray) -> bool:
        """Whether the text ends with this window (T,), its kept positions (T,); tokens: so far."""
        if self.tokens is not None:
            return tokens >= self.tokens
        if tokens >= self.most:
            return True
        members = np.append(window[1:], 0) if self.by_target else window
        self.rare_targets += int(self.rare[members[kept]].sum())
        return self.rare_targets >= self.wanted and tokens >= MIN_TOKENS
