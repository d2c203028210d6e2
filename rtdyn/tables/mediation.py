"""Mediation through token frequency, confidence and null space as rows of metrics/ and columns of neurons/."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.groups.measure import Statistic, measure
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.mediation.confidence import CONFIDENCE, _by_half, _mean_of_sets, _pooled, confidence
from rtdyn.analyses.mediation.frozen import FrozenInfluence, frozen_influence, mediation, unigram_direction
from rtdyn.analyses.mediation.null_space import null_space
from rtdyn.analyses.statistics import _numpy
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import normal_interval
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.groups import with_nulls
from rtdyn.undefined import Undefined

CONFIDENCE_METRICS = ("entropy_change", "kl_change")


def mediation_results(
    captured: Capture,
    result: Influence,
    counts: np.ndarray,
    groups: Mapping[str, Group | Undefined],
    halves: np.ndarray,
    memory_bytes: int,
    seed: int,
    layer: int,
) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Rows for the groups and columns (F,) for every neuron. counts: (types,); halves: (windows,)."""
    rows: list[Metric] = []
    columns: dict[str, np.ndarray] = {}
    projection = unigram_direction(counts, captured.anatomy.readout.unembedding.shape[0])
    if isinstance(projection, str):
        rows += [_lacking("mediation", name, projection, layer) for name in groups]
    else:
        frozen = frozen_influence(captured, projection, result.classes, memory_bytes=memory_bytes)
        for name, c in result.classes.items():
            found = mediation(c, frozen[name])
            columns |= {
                f"mean_abs_frozen_{name}": _numpy(frozen[name].mean_abs),
                f"mediation_{name}": _numpy(found.value),
                f"se_mediation_{name}": _numpy(found.se),
                f"error_bound_mediation_{name}": _numpy(found.error_bound),
            }
        rows += _mediation_rows(result, frozen[RARE], groups, halves, layer)
    share = null_space(captured)
    columns["null_space_share"] = _numpy(share.squared_share)
    rows.append(Metric("mediation", "null_space_directions", float(share.k), layer=layer))
    rows += _null_space_rows(columns["null_space_share"], groups, layer)
    more, changes = _confidence_rows(captured, counts, groups, halves, memory_bytes, seed, layer)
    return [*rows, *more], columns | changes


def _lacking(metric: str, group: str, reason: str, layer: int) -> Metric:
    return Metric("mediation", metric, None, token_class=RARE, group=group, layer=layer, reason=reason)


def _mediation_rows(
    result: Influence, frozen: FrozenInfluence, groups: Mapping[str, Group | Undefined], halves: np.ndarray, layer: int
) -> list[Metric]:
    """Share of a group's summed influence that goes through frequency, each half's choice on the other half."""
    rare = result.classes[RARE]
    half_of = halves[_numpy(rare.window_ids)]
    sums = [
        [_numpy(values)[half_of == half].sum(0) for half in (0, 1)]
        for values in (frozen.window_abs_sum, rare.window_abs_sum)
    ]

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        part, whole = (values[half][sets].sum(1) for values in sums)
        return {"mediation": 1 - np.divide(part, whole, out=np.full(len(sets), np.nan), where=whole > 0)}

    return _rows("mediation", groups, statistic, layer)


def _null_space_rows(share: np.ndarray, groups: Mapping[str, Group | Undefined], layer: int) -> list[Metric]:
    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"null_space_share": share[sets].mean(1)}

    return _rows("null_space_share", groups, statistic, layer)


def _rows(metric: str, groups: Mapping[str, Group | Undefined], statistic: Statistic, layer: int) -> list[Metric]:
    rows = []
    for name, group in groups.items():
        if isinstance(group, Undefined):
            rows.append(_lacking(metric, name, group.reason, layer))
        else:
            values = measure(group, statistic)
            rows += with_nulls("mediation", metric, name, values[metric], (None, None), layer)
    return rows


def _confidence_rows(
    captured: Capture,
    counts: np.ndarray,
    groups: Mapping[str, Group | Undefined],
    halves: np.ndarray,
    memory_bytes: int,
    seed: int,
    layer: int,
) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Changes of entropy and of KL to the unigram distribution for `plateau` and `top` beside a pool of others."""
    neurons = captured.activations.shape[1]
    pooled: dict[str, Group | Undefined] = {}
    wanted = [np.empty(0, dtype=np.int64)]
    for number, name in enumerate(("plateau", "top")):
        group = groups[name]
        rng = np.random.default_rng([seed, CONFIDENCE + number])
        chosen = pooled[name] = group if isinstance(group, Undefined) else _pooled(group, neurons, rng)
        if not isinstance(chosen, Undefined):
            drawn = [s for s in chosen.sets.values() if not isinstance(s, Undefined)]
            wanted += [*chosen.members, *(one.ravel() for pair in drawn for one in pair)]
    needed = np.unique(np.concatenate(wanted))
    if len(needed) == 0:
        reasons = {name: group.reason for name, group in pooled.items() if isinstance(group, Undefined)}
        return [_lacking(m, name, why, layer) for m in CONFIDENCE_METRICS for name, why in reasons.items()], {}
    found = confidence(captured, counts, needed, memory_bytes=memory_bytes)
    columns = {}
    for name, c in found.classes.items():
        for metric, values in (("entropy_change", c.entropy_change), ("kl_change", c.kl_change)):
            column = np.full(neurons, np.nan)
            column[needed] = _numpy(values)
            columns[f"{metric}_{name}"] = column
    rare = found.classes[RARE]
    rows = []
    for metric, value, se in (("entropy", rare.entropy, rare.entropy_se), ("kl_to_unigram", rare.kl, rare.kl_se)):
        row = partial(Metric, "mediation", metric, value, token_class=RARE, layer=layer, n=rare.n)
        low, high = normal_interval(value, se)
        rows.append(row(ci_low=low, ci_high=high))
    by_half = _by_half(found, rare, halves, neurons)
    for metric in CONFIDENCE_METRICS:
        rows += _rows(metric, pooled, partial(_mean_of_sets, metric, by_half[metric]), layer)
    return rows, columns
