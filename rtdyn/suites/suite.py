"""A suite of checkpoints: where it lies, its steps, and what is known to be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rtdyn.names import HUB_SCHEME

PACKAGE = Path(__file__).parents[1]
Shape = tuple[tuple[str, int | str], ...]
"""Settings of a config.json by name, with `parameters`."""


@dataclass(frozen=True)
class Defect:
    """What is known to be wrong with some published steps of a suite, and who says so."""

    steps: tuple[int, ...]
    """Those concerned, ascending."""
    kind: str
    """`duplicate`, `final-weights`, `missing` or `discontinuous`."""
    note: str
    """What is wrong, in a clause."""
    source: str
    """Who says so."""
    belongs_to: int | None
    """The step that weights shared by several really are of, where it is known."""
    whole: bool = True
    """Whether all of the weights are concerned, not single shards."""

    @property
    def same_weights(self) -> bool:
        """Whether the steps all hold the same bytes."""
        return self.whole and self.kind in ("duplicate", "final-weights")


@dataclass(frozen=True)
class KnownText:
    """A text, and whether a suite was trained on it."""

    corpus: str
    """A built-in text's name or an address on the Hub."""
    held_out: str
    """`yes`, `no` or `not checked`."""
    source: str
    """Who says so; empty where nothing is known."""


@dataclass(frozen=True)
class SuiteSpec:
    """One training run: where its checkpoints are and what their steps mean."""

    name: str
    """What --model calls it."""
    steps: tuple[int, ...]
    """All published steps, ascending."""
    revision: str
    """The branch or folder of a step, with `{step}` in its place."""
    path: Path | None
    """The folder of the step folders; None for a suite on the Hub."""
    repo: str | None
    """The Hub repository, OWNER/NAME; None for a folder."""
    tokens_per_step: int | None
    """Training tokens of one optimiser step; None where they are not known."""
    family: str | None
    """transformers' model_type; None where only config.json says it."""
    corpus: str
    """Default evaluation text: a built-in one's name or an address on the Hub."""
    frequencies: str
    """Default reference counts: a file beside the suite, an address on the Hub, `pile` or `corpus`."""
    note: str
    """What else to know of it, in a clause; empty if nothing."""
    defects: tuple[Defect, ...]
    """What is known to be wrong with its steps."""
    shape: Shape = ()
    """As the suites file gives it; empty where it does not."""
    texts: tuple[KnownText, ...] = ()
    """Texts of which it is known whether the suite was trained on them."""

    def known_text(self, corpus: str) -> KnownText:
        """What is known of a text: by its very name or address, else by its data set whatever the file and commit."""

        def dataset(address: str) -> str:
            path = address.removeprefix(HUB_SCHEME)
            return address if path == address else "/".join(path.split("/")[:3]).partition("@")[0]

        named = [text for text in self.texts if text.corpus == corpus]
        related = [text for text in self.texts if dataset(text.corpus) == dataset(corpus)]
        return next(iter([*named, *related]), KnownText(corpus, "not checked", ""))

    @property
    def is_bundled(self) -> bool:
        """Whether its files lie inside the package."""
        return self.path is not None and self.path.is_relative_to(PACKAGE)

    @property
    def hub_repo(self) -> str:
        """Its repository, OWNER/NAME; only for a suite that lies on the Hub."""
        assert self.repo is not None
        return self.repo

    @property
    def location(self) -> str:
        """Where the checkpoints come from, as a user would write it."""
        return self.repo if self.repo is not None else str(self.path)

    def revision_of(self, step: int) -> str:
        """The branch or folder that holds `step`."""
        return self.revision.format(step=step)

    def tokens_seen(self, step: int) -> int | None:
        """Training tokens consumed before `step`'s weights were saved, if the suite says."""
        return None if self.tokens_per_step is None else step * self.tokens_per_step
