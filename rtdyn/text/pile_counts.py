"""Exact counts of the Pile's tokens, which come with the package; data/pile/README.md says where they are from."""

from __future__ import annotations

from dataclasses import replace

from rtdyn.errors import InputError
from rtdyn.names import PILE
from rtdyn.suites.suite import PACKAGE
from rtdyn.text.token_counts import TokenCounts, read_counts
from rtdyn.text.tokenizer import Tokenizer

COUNTS_FILE = PACKAGE / "data" / "pile" / "token_counts.parquet"
KNOWN_TOKENS = {
    2: "!", 253: "Ġthe", 3000: "Ġwords", 6000: "ĠEvery", 9000: "Ġapopt", 12000: "ĠCas", 15000: "ĠSports",
    18000: "Ġdeciding", 21000: "Ã±o", 24000: "bis", 27000: "Ġmellitus", 30000: "Admin", 33000: "Ġ309", 36000: "ĠSnap",
    39000: "$}", 42000: "Ġdrafts", 45000: "atoes", 48000: "ogi", 50253: "ĠOutcomes",
}  # fmt: skip
"""Tokens of the GPT-NeoX-20B tokenizer from all over its vocabulary, by id. One that has all of them is that one, be
it without the special tokens or with more."""


def pile_counts(tokenizer: Tokenizer) -> TokenCounts:
    """The Pile's counts by id. Raises InputError unless `tokenizer` is GPT-NeoX-20B's, whose tokens were counted."""
    if tokenizer.size <= max(KNOWN_TOKENS) or tokenizer.backend.convert_ids_to_tokens(list(KNOWN_TOKENS)) != list(
        KNOWN_TOKENS.values()
    ):
        raise InputError(
            f"the counts `{PILE}` are of the GPT-NeoX-20B tokenizer's tokens, and this model's tokenizer is another; "
            "give --frequencies a file of its own, or `corpus`"
        )
    counts = read_counts(COUNTS_FILE)
    return replace(counts, source=f"the Pile, all of its {int(counts.counts.sum()):,} tokens")
