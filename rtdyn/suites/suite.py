"""A suite of checkpoints: where it lies, its steps, and what is known to be wrong with them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from rtdyn.counted import counted
from rtdyn.names import HUB_SCHEME

PACKAGE = Path(__file__).parents[1]
Shape = tuple[tuple[str, int | str], ...]
"""Settings of a config.json by name, with `parameters`."""


REFS, SUBFOLDERS, COMMITS, REPOSITORIES = "refs", "subfolder", "commits", "repositories"
"""What the steps of a suite on the Hub may be: branches and tags, folders of a branch, its commits, or repositories."""
MAIN = "main"
NEARLY_IDENTICAL = "nearly-identical"
"""The kind of a defect that is told and leaves no step out: training moved few numbers, or little."""
STEP = "{step}"


@dataclass(frozen=True)
class Place:
    """Where the Hub keeps one step."""

    repo: str
    revision: str
    """A branch, a tag or a commit."""
    subfolder: str = ""
    """The folder of the step's files; empty where they lie at the top."""

    @property
    def what(self) -> str:
        """How to name it to the user."""
        return f"{self.repo}, revision {self.revision}" + (f", folder {self.subfolder}" if self.subfolder else "")


@dataclass(frozen=True)
class Defect:
    """What is known to be wrong with some published steps of a suite, and who says so."""

    steps: tuple[int, ...]
    """Those concerned, ascending."""
    kind: str
    """`duplicate`, `final-weights`, `missing`, `discontinuous`, or `nearly-identical`, which is a note and no fault."""
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
    """The branch or folder of a step, with `{step}` in its place. Of a suite that was found: what its names share."""
    path: Path | None
    """The folder of the step folders; None for a suite on the Hub."""
    repo: str | None
    """The Hub repository, OWNER/NAME; None for a folder."""
    tokens_per_step: int | None
    """Training tokens of one optimiser step; None where they are not known, or `rates` says them."""
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
    names: tuple[str, ...] = ()
    """The branch, tag, folder, commit or repository of each of `steps`, of a suite that was found.

    Empty where `revision` says it."""
    rates: tuple[tuple[int, int], ...] = ()
    """Where the batch grew on the way: from which step on, ascending from 0, a step was of how many tokens."""
    tokens_before: int = 0
    """Training tokens of stages before step 0."""
    among: str = REFS
    """What the names are of."""
    branch: str = MAIN
    """The branch whose folders or commits they are."""
    pattern: str = ""
    """Of a suite whose steps are to be found on the Hub: where, by which names. Until then `steps` is empty."""
    tokenizer: str = ""
    """The repository that has the tokenizer, OWNER/NAME[@REVISION]; empty where the steps or their main branch do."""
    tokens: tuple[int | None, ...] = ()
    """Training tokens seen at each of `steps`, None where they are not known; else `tokens_per_step` says it."""
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
    def flawed(self) -> frozenset[int]:
        """The steps that something is known to be wrong with."""
        return frozenset(step for d in self.defects if d.kind != NEARLY_IDENTICAL for step in d.steps)

    @property
    def is_bundled(self) -> bool:
        """Whether its files lie inside the package."""
        return self.path is not None and self.path.is_relative_to(PACKAGE)

    @property
    def hub_repo(self) -> str:
        """Its repository, OWNER/NAME, with `{step}` where each step has its own; only for a suite on the Hub."""
        assert self.repo is not None
        return self.repo

    @property
    def location(self) -> str:
        """Where the checkpoints come from, as a user would write it."""
        return self.repo if self.repo is not None else str(self.path)

    @property
    def unsound(self) -> frozenset[int]:
        """Steps that are known not to hold weights of their own, or none of their training run."""
        told = (defect for defect in self.defects if defect.kind != NEARLY_IDENTICAL)
        return frozenset(step for defect in told for step in defect.steps if step != defect.belongs_to)

    @property
    def series(self) -> str:
        """What the steps' names share, and of steps that count tokens the unit, which finer names make smaller."""
        if not self.tokens or "{tokens}" not in self.revision or not self.steps[-1] or self.tokens[-1] is None:
            return self.revision
        return f"{self.revision}, a step of {counted(self.tokens[-1] // self.steps[-1], 'token')}"

    def revision_of(self, step: int) -> str:
        """The branch, tag or folder that holds `step`."""
        return self.names[bisect_left(self.steps, step)] if self.names else self.revision.format(step=step)

    def place_of(self, step: int) -> Place:
        """Where the Hub keeps `step`; only for a suite that lies there."""
        name = self.revision_of(step)
        if self.among == REPOSITORIES:
            return Place(name, MAIN)
        return Place(self.hub_repo, self.branch, name) if self.among == SUBFOLDERS else Place(self.hub_repo, name)

    def tokens_seen(self, step: int) -> int | None:
        """Training tokens consumed before `step`'s weights were saved, if the suite says."""
        if self.tokens:
            return self.tokens[bisect_left(self.steps, step)]
        rates = self.rates if self.tokens_per_step is None else ((0, self.tokens_per_step),)
        if not rates:
            return None
        ends = [start for start, _ in rates[1:]] + [step]
        steps = (max(0, min(step, end) - start) for (start, _), end in zip(rates, ends, strict=True))
        return self.tokens_before + sum(of * rate for of, (_, rate) in zip(steps, rates, strict=True))
