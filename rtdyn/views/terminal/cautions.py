"""What makes a run's numbers say less than they seem to: said before it starts, or beside its last step."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from rtdyn.counted import counted
from rtdyn.names import COMMON, CORPORA, RARE
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.clusters import FEW_CLUSTERS, TextClusters
from rtdyn.text.evaluation import Evaluation

FEW_TYPES = 50
"""Token types, under which a class is a handful of words rather than a kind of them."""


def cautions(suite: SuiteSpec, evaluation: Evaluation, corpus: str | None) -> Iterator[str]:
    """Warnings of the text and its classes. corpus: as the command line gave it, None for the suite's own."""
    if few := _few_clusters(evaluation.clusters):
        yield few
    for token_class in evaluation.classes.classes:
        types = int(token_class.types.sum())
        if types < FEW_TYPES:
            yield (
                f"caution: the class {token_class.name} is of {counted(types, 'type')}, under {FEW_TYPES}, so that its "
                "numbers are those of a few words; a wider --rare mends it"
            )
    is_own = suite.path is not None and not suite.is_bundled
    if is_own and corpus is None and evaluation.corpus_name in CORPORA:
        own_counts = evaluation.counts.source == evaluation.corpus_name
        yield (
            f"caution: {suite.name} is measured on a text that it may never have met, the default"
            f"{', and ranks are by the counts of that text itself' if own_counts else ''}; "
            "give --corpus, and --frequencies of what it was trained on"
        )


def rare_is_easier(metrics: pl.DataFrame) -> str:
    """A warning where one step's loss on rare targets lies below that on common ones; empty else."""
    rows = metrics.filter(analysis="capture", metric="loss").drop_nulls("value")
    losses = dict(rows.select("token_class", "value").iter_rows())
    if RARE not in losses or COMMON not in losses or losses[RARE] >= losses[COMMON]:
        return ""
    return (
        f"caution: the loss on {RARE} ({losses[RARE]:.3g}) is below that on {COMMON} ({losses[COMMON]:.3g}), "
        "so this model finds rare targets easy; look at --frequencies and --corpus"
    )


def _few_clusters(clusters: TextClusters) -> str:
    """A warning for a text whose intervals may not cover; empty for another."""
    if clusters.unit != "documents":
        return (
            f"caution: the text is of few documents, taken as {counted(clusters.count, 'block')} of independent text; "
            "intervals hold for this text and may be too narrow"
        )
    if clusters.count < FEW_CLUSTERS:
        return (
            f"caution: the text is of {counted(clusters.count, 'document')}, under {FEW_CLUSTERS}, so that intervals "
            "may be too narrow; a corpus of more documents mends it"
        )
    return ""
