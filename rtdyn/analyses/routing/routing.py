"""Attention routing of one checkpoint: do heads that reach a layer's neurons treat rare tokens in a way of their own.

METHODS §7: profiles, differences and head ablation, rare targets against common ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from rtdyn.analyses.context import Context
from rtdyn.analyses.routing.attention import reaching_layers
from rtdyn.analyses.routing.differences import Difference, class_differences
from rtdyn.analyses.routing.head_ablation import HeadAblation, ablate_heads
from rtdyn.analyses.routing.head_effects import SplitEffects, effects_by_class, halved_groups
from rtdyn.analyses.routing.matching import MatchedPositions, matched_positions
from rtdyn.analyses.routing.profiles import PROFILE_OFFSETS, Profiles, attention_profiles
from rtdyn.analyses.routing.reference import PseudoSets, reference
from rtdyn.names import COMMON, RARE
from rtdyn.streams import stream
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Routing:
    """Section 7 for one layer's neurons."""

    layers: tuple[int, ...]
    """Whose heads are ablated, ascending: the layer below the neurons' own, and that."""
    attention_layers: tuple[int, ...]
    """Of `profiles`, `gini` and `bos`, ascending."""
    matched: MatchedPositions
    profiles: tuple[Profiles, ...]
    gini: tuple[Difference, ...]
    """By head, then the mean over heads."""
    bos: tuple[Difference, ...]
    """Attention to key 0, likewise."""
    ablations: tuple[HeadAblation, ...]
    """Heads ablated by `heads_to` and `heads_at`, of `halved_groups`; the parts of the windows are the halves."""
    effects: tuple[Mapping[str, Mapping[str, SplitEffects | Undefined]], ...]
    """By layer of `layers`, class and group."""


def routing(context: Context) -> Routing:
    """Profiles, Gini, attention to key 0 and head ablations of the layers that reach the neurons, rare against common.

    Where the capture holds no layer's attention there are no profiles. Raises ValueError for a capture without
    attention, InputError if the blocks' second run does not give the capture's activations.
    """
    captured, rng = context.captured, stream(context.seed, "attention")
    matched = matched_positions(captured.positions, rng)
    profiles, gini, bos = _attention(context)
    ablations = ablate_heads(
        captured,
        {RARE: matched.rare, COMMON: matched.common},
        halved_groups(context.groups),
        to=context.options.heads_to,
        at=context.options.heads_at,
        part=context.halves,
        memory_bytes=context.memory_bytes,
    )
    effects = tuple(
        effects_by_class(ablation, context.groups, context.halves, context.clusters) for ablation in ablations
    )
    return Routing(
        reaching_layers(captured), captured.attention_layers, matched, profiles, gini, bos, ablations, effects
    )


def _attention(context: Context) -> tuple[tuple[Profiles, ...], tuple[Difference, ...], tuple[Difference, ...]]:
    """Profiles, and differences of Gini and of attention to key 0, by layer."""
    captured, pseudo = context.captured, _pseudo_sets(context)
    if captured.attention is not None and not captured.attention_layers:
        return (), (), ()
    beside = partial(reference, captured.positions, context.clusters, None if isinstance(pseudo, Undefined) else pseudo)
    profiles = attention_profiles(captured, beside(least_query=PROFILE_OFFSETS), pseudo)
    return profiles, *class_differences(captured, beside(), pseudo, context.memory_bytes)


def _pseudo_sets(context: Context) -> PseudoSets | Undefined:
    members = context.evaluation.pseudo_classes
    return members if isinstance(members, Undefined) else PseudoSets(members, overlap(members))
