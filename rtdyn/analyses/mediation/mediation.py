"""Mediation through token frequency, confidence and null space, of neurons and of their groups (METHODS §2(c))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.measure import GroupValue, Statistic, measure
from rtdyn.analyses.mediation.confidence import Confidence, confidence
from rtdyn.analyses.mediation.equal_numbers import equal_numbers
from rtdyn.analyses.mediation.frozen import (
    FrozenInfluence,
    MediatedShare,
    frozen_influence,
    mediated_share,
    unigram_direction,
)
from rtdyn.analyses.mediation.null_space import LowestDirections, NullSpace, null_space
from rtdyn.analyses.mediation.pool import pooled
from rtdyn.analyses.statistics import as_numpy
from rtdyn.names import PLATEAU, RARE, TOP
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

MEDIATION, NULL_SPACE_SHARE = "mediation", "null_space_share"
ENTROPY_CHANGE, KL_CHANGE = "entropy_change", "kl_change"
POOLED = (PLATEAU, TOP)
"""Groups whose changes of confidence are computed."""


@dataclass(frozen=True)
class ThroughFrequency:
    """What of each neuron's influence goes through the unigram direction, by class."""

    frozen: Mapping[str, FrozenInfluence]
    share: Mapping[str, MediatedShare]


@dataclass(frozen=True)
class Mediation:
    """How far neurons and groups act through token frequency, the scale of the logits and the null space."""

    frequency: ThroughFrequency | Undefined
    null_space: NullSpace
    confidence: Confidence | Undefined
    """Of the pooled groups' neurons and of those in their nulls."""
    groups: Mapping[str, Mapping[str, GroupValue | Undefined]]
    """By metric and group, measured on `rare`."""


def mediation(context: Context, lowest: LowestDirections | None = None) -> Mediation:
    """All of it for one layer, at equal numbers of positions of every class where it costs O(V) a pair.

    Of an earlier layer all is of the direct effect, which the context's influence has to be. lowest: the model's, where
    they are known.
    """
    frequency = _through_frequency(context)
    null = null_space(context.captured, lowest)
    pools = _pools(context)
    changes = _changes(context, pools)
    share = as_numpy(null.squared_share)
    return Mediation(
        frequency,
        null,
        changes,
        {
            MEDIATION: _mediation_of_groups(context, frequency),
            NULL_SPACE_SHARE: _means(NULL_SPACE_SHARE, context.groups, (share, share)),
            ENTROPY_CHANGE: _means(ENTROPY_CHANGE, pools, _by_half(context, changes, ENTROPY_CHANGE)),
            KL_CHANGE: _means(KL_CHANGE, pools, _by_half(context, changes, KL_CHANGE)),
        },
    )


def _through_frequency(context: Context) -> ThroughFrequency | Undefined:
    captured, classes = context.captured, context.influence.classes
    counts, logits = context.evaluation.counts.counts, len(captured.anatomy.readout.unembedding)
    band = context.evaluation.classes.named(RARE).types if context.options.unigram == "longtail" else None
    projection = unigram_direction(counts, logits, band)
    if isinstance(projection, Undefined):
        return projection
    frozen = frozen_influence(equal_numbers(captured), projection, classes, memory_bytes=context.memory_bytes)
    return ThroughFrequency(
        frozen, {name: mediated_share(of_class, context.clusters) for name, of_class in frozen.items()}
    )


def _mediation_of_groups(
    context: Context, frequency: ThroughFrequency | Undefined
) -> dict[str, GroupValue | Undefined]:
    """Share of a group's summed influence that goes through frequency, each half's choice on the other half."""
    if isinstance(frequency, Undefined):
        return dict.fromkeys(context.groups, frequency)
    rare = context.influence.classes[RARE]
    half_of = context.halves[as_numpy(rare.window_ids)]
    of_rare = frequency.frozen[RARE]
    frozen, whole = (
        [as_numpy(sums)[half_of == half].sum(0) for half in (0, 1)]
        for sums in (of_rare.window_abs_sum, of_rare.whole.window_abs_sum)
    )

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        left, total = frozen[half][sets].sum(1), whole[half][sets].sum(1)
        return {MEDIATION: 1 - np.divide(left, total, out=np.full(len(sets), np.nan), where=total > 0)}

    return _measured(MEDIATION, context.groups, statistic)


def _pools(context: Context) -> dict[str, Group | Undefined]:
    """The groups whose changes of confidence are computed, each with a pool of others for its null."""
    pools: dict[str, Group | Undefined] = {}
    for name in POOLED:
        group = context.groups[name]
        rng = stream(context.seed, "pools", name)
        neurons = context.captured.activations.shape[1]
        pools[name] = group if isinstance(group, Undefined) else pooled(group, neurons, rng)
    return pools


def _changes(context: Context, pools: Mapping[str, Group | Undefined]) -> Confidence | Undefined:
    """What ablating the neurons of the groups and of their nulls does to confidence, at equal numbers of positions."""
    groups = [group for group in pools.values() if not isinstance(group, Undefined)]
    if not groups:
        return Undefined("no group has neurons whose changes of confidence could be computed")
    drawn = [sets for group in groups for sets in group.sets.values() if not isinstance(sets, Undefined)]
    neurons = [members for group in groups for members in group.members] + [s.ravel() for pair in drawn for s in pair]
    return confidence(
        equal_numbers(context.captured),
        context.evaluation.counts.counts,
        np.unique(np.concatenate(neurons)),
        cluster=context.clusters,
        memory_bytes=context.memory_bytes,
    )


def _by_half(context: Context, changes: Confidence | Undefined, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean change (F,) over each half of the windows with rare positions; NaN for neurons that were not asked for."""
    first, second = np.full((2, context.captured.activations.shape[1]), np.nan)
    if not isinstance(changes, Undefined):
        rare = changes.classes[RARE]
        half_of, n = context.halves[as_numpy(rare.window_ids)], as_numpy(rare.window_n)
        sums = as_numpy(rare.window_entropy_change if metric == ENTROPY_CHANGE else rare.window_kl_change)
        for half, values in enumerate((first, second)):
            windows = half_of == half
            if windows.any():
                values[changes.neurons] = sums[windows].sum(0) / n[windows].sum()
    return first, second


def _means(
    metric: str, groups: Mapping[str, Group | Undefined], values: tuple[np.ndarray, np.ndarray]
) -> dict[str, GroupValue | Undefined]:
    """Mean over each group of values (F,), those of either half."""

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        return {metric: values[half][sets].mean(1)}

    return _measured(metric, groups, statistic)


def _measured(
    metric: str, groups: Mapping[str, Group | Undefined], statistic: Statistic
) -> dict[str, GroupValue | Undefined]:
    return {
        name: group if isinstance(group, Undefined) else measure(group, statistic)[metric]
        for name, group in groups.items()
    }
