"""Settings of what a model is measured on."""

from __future__ import annotations

from dataclasses import dataclass

from rtdyn.errors import UsageError

RARE_TARGETS = 200


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings of the evaluation set, by the names of the command line and with its defaults."""

    corpus: str | None = None
    """Evaluation text: a built-in one's name, a file, or an address on the Hub; None for the suite's own."""
    text_field: str = "text"
    """The column or key that holds the text in rows and lines of JSON."""
    frequencies: str | None = None
    """Reference counts: a file, an address on the Hub, `pile` or `corpus`; None for the suite's own."""
    frequency_tokens: int = 1 << 27
    """Tokens to count of a data set on the Hub."""
    bands: tuple[str, ...] = ("paper-text",)
    """Bands of frequency ranks, as `classify` reads them; the first is the rare one."""
    tokens: int | None = None
    """Length of the evaluation text; None for as many as hold `rare_targets`."""
    window: int = 256
    """Tokens of a window."""
    bos: str = "prepend"
    """`prepend` for BOS at the start of each window, or `none`."""
    class_by: str = "target"
    """Whose class a position has: `target`, the next token, or `query`, its own."""
    min_targets: int = 50
    """The fewest positions that a class may have."""
    positions_per_rare: float = 10.0
    """The most positions measured of another class, over those of the rare one."""
    seed: int = 0
    """Of all random draws."""
    rare_targets: int | None = None
    """Positions of the rare class that the text is to hold, at least MIN_TOKENS long; None for RARE_TARGETS."""

    text_where: tuple[str, ...] = ()
    """Conditions `FIELD=VALUE` on the corpus's rows, all to be met."""
    named_texts: tuple[tuple[str, str], ...] = ()
    """Texts that are measured beside the corpus: the name of each, and where it is, as `corpus` has it."""
    domains: str | None = None
    """A text whose parts are measured beside the corpus: `pile`, or ADDRESS::FIELD, whose values tell them apart."""
    documents: int | None = None
    """The text's first so many documents are measured alone; None for all."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.rare_targets is not None:
            raise UsageError("--tokens and --rare-targets both say how long the evaluation text is; give one of them")
        twice = next((name for i, (name, _) in enumerate(self.named_texts) if name in dict(self.named_texts[:i])), None)
        if twice is not None:
            raise UsageError(f"two texts are called {twice!r}; give --corpus another NAME=ADDRESS")

    @property
    def wanted(self) -> int:
        """Rare targets that the text is to hold where its length in tokens is not given."""
        return RARE_TARGETS if self.rare_targets is None else self.rare_targets
