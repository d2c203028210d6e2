"""The design of the papers' released code, beside which a suite may be measured: its text, classes and settings.

Source: github.com/Jing-L97/target_neuron_ablation at commit 2948e24, the code of [ES], [NC] and [DS] (docs/paper.md has
it line by line). What it does to numbers and not to settings is measured in any run: `paper_code_*`, `q_paper_code`,
`head_effect_total`, `hill_alpha_tenth` and `profile_r_plain`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rtdyn.names import PILE
from rtdyn.suites.suite import SuiteSpec

PAPER = "paper"
OWN = "own"
DESIGNS = (OWN, PAPER)
"""In the order in which a suite is measured by them."""

C4 = "hf://datasets/allenai/c4@1588ec454efa1a09f29cd18ddd04fe05fc8653a2/en/c4-validation.00000-of-00008.json.gz"
"""The beginning of C4's validation split. The papers' code reads that of its training split, in `stas/c4-en-10k`."""
SEQUENCES, LENGTH = 10, 256
PAPER_SETTINGS: Mapping[str, Any] = {
    "documents": 500,
    "tokens": SEQUENCES * LENGTH,
    "bands": ("0.5:elbow",),
    "class_by": "query",
    # it measures whatever there is of a class, and every position of the others
    "min_targets": 2,
    "positions_per_rare": float(SEQUENCES * LENGTH),
    "mean_over": "all",
    "heads_to": "bos",
    "heads_at": "query",
    "unigram": "longtail",
}
"""By the names of the command's parameters."""
_PYTHIA = re.compile(r"pythia-(?P<size>[0-9.]+[mb])\b(?P<rest>.*)")


def paper_suite(suite: SuiteSpec) -> SuiteSpec:
    """The suite with the papers' default text and counts; a bundled one keeps its own, which needs no network.

    Their code ranks tokens by the counts of the whole Pile for deduplicated Pythia suites too.
    """
    if suite.is_bundled:
        return suite
    return replace(suite, corpus=C4, frequencies=PILE if _PYTHIA.match(suite.name) else suite.frequencies)


def paper_notes(suite: SuiteSpec, corpus: str | None, known: Collection[str]) -> list[str]:
    """What to say before a suite is measured by the papers' design.

    corpus: the text that was asked for, None for the suite's own. known: names of suites.
    """
    if suite.is_bundled and corpus is None:
        return [f"{suite.name}: both designs are measured on the suite's own text; C4 is for other vocabularies"]
    found = _PYTHIA.match(suite.name)
    if found is None or "deduped" in found["rest"]:
        return []
    sibling = f"pythia-{found['size']}-deduped"
    which = f"; --model {sibling} is one" if sibling in known else ""
    return [f"{suite.name}: the papers measured models of the deduplicated Pile, and this is none{which}"]
