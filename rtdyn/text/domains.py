"""Further texts, each a domain: measured on the same token classes as the main text, by the same tokenizer.

Frequencies stay those of the main run, so that `rare` means the same types everywhere and the text alone changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from rtdyn.checkpoints.locate import find_config, find_tokenizer
from rtdyn.counted import counted
from rtdyn.errors import UsageError
from rtdyn.hub.names import CONFIG
from rtdyn.names import position_by
from rtdyn.streams import stream
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.draw import draw_windows
from rtdyn.text.evaluation import Enough, Evaluation, Limits, checked, limits_of, prepare, without_sparse_bands
from rtdyn.text.evaluation_text import EvaluationText, known_text, open_text
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.parts import Part, open_parts
from rtdyn.text.positions import Unmeasurable, measure, unmeasurable
from rtdyn.text.target_kinds import target_kinds
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer
from rtdyn.text.windows import pack

LONGEST = 8
"""Times the main text's tokens that a domain is searched for rare targets, which some hold hardly any of."""


def prepare_with_domains(
    suite: SuiteSpec, step: int, options: EvaluationOptions, say: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """The evaluation of a run as `prepare` has it, with those of its domains.

    Raises InputError, beside what `prepare` raises, for a domain whose text cannot be read.
    """
    main = prepare(suite, step, options, say)
    if not options.named_texts and options.domains is None:
        return main
    tokenizer = load_tokenizer(find_tokenizer(suite, step))
    limits = limits_of(tokenizer, main.model_config, options, str(find_config(suite, step) / CONFIG))
    domains: dict[str, Evaluation] = {}
    left_out: dict[str, Unmeasurable] = {}
    for name, text in _texts(suite, options, say):
        found = _domain(name, text, main, tokenizer, limits, options, say)
        if isinstance(found, Unmeasurable):
            left_out[name] = found
        else:
            domains[name] = found
    return replace(_with_kinds(main, tokenizer), domains=domains, left_out=left_out)


def _texts(
    suite: SuiteSpec, options: EvaluationOptions, say: Callable[[str], None]
) -> Iterator[tuple[str, EvaluationText | Part]]:
    for name, corpus in options.named_texts:
        yield name, open_text(suite, corpus, options.text_field, options.seed, say)
    if options.domains is None:
        return
    parts = open_parts(options.domains, options, say)
    known = known_text(suite, parts.address, say)
    for name in parts.names():
        if name in dict(options.named_texts):
            raise UsageError(f"a part of {parts.address} is called {name!r}, as a --corpus is; give that another name")
        yield name, Part(parts, name, known)
        parts.close(name)
    parts.keep()


def _domain(
    name: str,
    text: EvaluationText | Part,
    main: Evaluation,
    tokenizer: Tokenizer,
    limits: Limits,
    options: EvaluationOptions,
    say: Callable[[str], None],
) -> Evaluation | Unmeasurable:
    """The evaluation of one domain, or why it is left out."""
    most = LONGEST * main.text.windows.size
    body = options.window - (limits.bos is not None)
    drawn = draw_windows(text.blocks, tokenizer, body, limits.eos, stream(options.seed, "documents", name))
    windows = checked(drawn, tokenizer, limits.n_logits)
    first = next(windows, None)
    if first is None:
        return Unmeasurable(0, f"its text is shorter than one window of {options.window} tokens", "give more text")
    enough = Enough(main.classes, options, most)
    packed = pack(chain([first], windows), options.window, limits.bos, limits.eos, enough)
    classes = without_sparse_bands(packed, main.classes, options, lambda said: say(f"{name}: {said}"))
    read = text.documents
    fault = unmeasurable(packed, classes, options.class_by, options.min_targets)
    if fault is not None:
        return fault
    evaluation = replace(
        main,
        text=packed,
        classes=classes,
        positions=measure(
            packed, classes, options.class_by, options.positions_per_rare, options.min_targets, options.seed
        ),
        corpus_sha256=read.sha256,
        corpus_name=read.name,
        corpus_provenance=text.provenance,
        known_text=text.known,
    )
    rare, size = evaluation.positions.classes[0].available, packed.windows.size
    if options.tokens is not None and size < options.tokens:
        say(f"{name} holds {counted(size, 'token')} of the {options.tokens:,} asked for, all that was read of it")
    if options.tokens is None and rare < options.wanted:
        searched = f"{LONGEST} times the main text's" if size >= most else "all that was read of it"
        held = counted(rare, f"rare {position_by(options.class_by)}")
        say(f"{name} holds {held} of the {options.wanted:,} asked for in {counted(size, 'token')}, {searched}")
    return _with_kinds(evaluation, tokenizer)


def _with_kinds(evaluation: Evaluation, tokenizer: Tokenizer) -> Evaluation:
    kinds = target_kinds(evaluation.text, evaluation.positions, evaluation.class_by, tokenizer)
    return replace(evaluation, kinds=kinds)
