"""The text that a run is measured on: the suite's default or the user's, and whether it was held out from training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtdyn.blame import reading
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.git_lfs import refuse_pointer
from rtdyn.hub.datasets import dataset_at, is_hub
from rtdyn.hub.errors import is_unreachable
from rtdyn.names import KING_JAMES
from rtdyn.suites.suite import KnownText, SuiteSpec
from rtdyn.text.documents import Documents, first_of, read_documents
from rtdyn.text.hub_documents import HubText
from rtdyn.text.stored_text import Text


@dataclass(frozen=True)
class EvaluationText:
    """A text that is open: read whole from a file, or on the Hub as far as it is asked for."""

    corpus: str
    """A built-in text's name, a file, or an address on the Hub."""
    known: KnownText
    """What is known of it beside this suite."""
    hub: HubText | None
    read: Documents | None
    """None of a text on the Hub."""

    @property
    def blocks(self) -> Iterable[Sequence[Text]]:
        """Documents in blocks, in the order of drawing."""
        if self.hub is None or self.hub.first is not None:
            return [self.documents.texts]
        return self.hub

    @property
    def documents(self) -> Documents:
        """What was read; of a text on the Hub so far, which is kept. Raises InputError if that is nothing."""
        if self.hub is not None:
            if self.hub.first is not None and not self.hub.used:
                deque(self.hub, maxlen=0)
            return self.hub.finish()
        assert self.read is not None
        return self.read

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What was read of a data set on the Hub; empty for a file."""
        return {} if self.hub is None else self.hub.provenance


def open_text(
    suite: SuiteSpec,
    corpus: str | None,
    text_field: str,
    seed: int,
    say: Callable[[str], None],
    where: Sequence[str] = (),
    first: int | None = None,
) -> EvaluationText:
    """The text `corpus`, or the suite's default where it is None; its first so many documents, or all of them.

    Where the default lies on a Hub that cannot be reached, the King James Bible stands in for it and `say` is told.
    Raises InputError for a text that cannot be read.
    """
    try:
        return _open(corpus or suite.corpus, suite, text_field, seed, say, where, first)
    except InputError as error:
        if corpus is not None or where or not is_unreachable(error.__cause__):
            raise
        say(
            f"the default text {suite.corpus} is not cached, the Hub not reached: "
            "the King James Bible is measured in its place; --corpus names another text"
        )
        return _open(KING_JAMES, suite, text_field, seed, say, where, first)


def known_text(suite: SuiteSpec, corpus: str, say: Callable[[str], None]) -> KnownText:
    """What is known of a text beside this suite; `say` is told if it was trained on it."""
    known = suite.known_text(corpus)
    if known.held_out == "no":
        say(f"caution: {corpus} was part of the training of {suite.name} ({known.source}); it is not held out")
    return known


def _open(
    corpus: str,
    suite: SuiteSpec,
    text_field: str,
    seed: int,
    say: Callable[[str], None],
    where: Sequence[str],
    first: int | None,
) -> EvaluationText:
    known = known_text(suite, corpus, say)
    if is_hub(corpus):
        return EvaluationText(corpus, known, HubText(dataset_at(corpus), text_field, seed, say, where, first), None)
    if Path(corpus).is_file():
        with reading(f"the corpus {corpus}"):
            refuse_pointer(Path(corpus))
    documents = read_documents(corpus, text_field, where)
    if documents.passed_over:
        say(f"passed over {counted(documents.passed_over, 'row')} of {documents.name} without text")
    return EvaluationText(corpus, known, None, first_of(documents, first))
