"""Rows of domains/ and domain_neurons/: what is measured on further texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from rtdyn.analyses.domains import RankComparison
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.statistics import as_numpy
from rtdyn.names import DOMAINS
from rtdyn.store.schema import DOMAIN_SCHEMA, Metric, metric_frame
from rtdyn.undefined import Undefined


def rank_metrics(compared: Mapping[str, RankComparison], layer: int) -> list[Metric]:
    """Correlations of the neurons' ranks, by class."""
    rows = []
    for token_class, of_class in compared.items():
        for metric, found in (
            ("rank_spearman", of_class.with_main),
            ("rank_spearman_halves", of_class.between_halves),
        ):
            if isinstance(found, Undefined):
                rows.append(Metric(DOMAINS, metric, None, token_class, layer=layer, reason=found.reason))
            else:
                row = Metric(DOMAINS, metric, found.value, token_class, layer=layer, n=found.pairs)
                rows.append(replace(row, ci_low=found.low, ci_high=found.high))
    return rows


def domain_frame(metrics: Mapping[str, Sequence[Metric]], step: int, tokens_seen: int | None) -> pl.DataFrame:
    """Rows by domain as they are stored."""
    frames = [
        metric_frame(list(rows), step, tokens_seen).with_columns(domain=pl.lit(name)) for name, rows in metrics.items()
    ]
    return pl.concat([pl.DataFrame(schema=DOMAIN_SCHEMA), *(frame.select(*DOMAIN_SCHEMA) for frame in frames)])


def domain_neuron_table(step: int, name: str, layer: int, result: Influence) -> pl.DataFrame:
    """A row a neuron: its influences on each class in one domain, with their standard errors."""
    neurons = len(next(iter(result.classes.values())).mean)
    columns = {"step": np.full(neurons, step), "domain": [name] * neurons, "layer": np.full(neurons, layer)}
    columns["neuron"] = np.arange(neurons)
    for token_class, c in result.classes.items():
        columns[f"delta_{token_class}"] = as_numpy(c.mean)
        columns[f"mean_abs_{token_class}"] = as_numpy(c.mean_abs)
        columns[f"se_{token_class}"] = as_numpy(c.mean_se)
        columns[f"se_abs_{token_class}"] = as_numpy(c.mean_abs_se)
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))
