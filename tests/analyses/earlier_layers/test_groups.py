"""Groups of planted earlier layers: what their neurons do together, and where they are not chosen at all."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from rtdyn.analyses.context import Context
from rtdyn.analyses.earlier_layers.calibration import Sampled
from rtdyn.analyses.earlier_layers.estimate import TextPieces, class_mean
from rtdyn.analyses.earlier_layers.groups import CHOSEN, LayerGroups, layer_groups
from rtdyn.analyses.earlier_layers.layer import Layer, LayerClass, _ranking
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.choose import window_halves
from rtdyn.analyses.groups.dimensionality import dimensionality
from rtdyn.analyses.groups.input_weights import heavytail
from rtdyn.analyses.groups.measure import GroupValue
from rtdyn.analyses.groups.modularity import modularity
from rtdyn.analyses.influence.ablation import PseudoInfluence
from rtdyn.analyses.statistics import Comparison
from rtdyn.names import MATCHED, PLATEAU, RANDOM, RARE, SELECTED, TOP
from rtdyn.undefined import Undefined

WINDOWS, NEURONS, WIDTH, DIMENSIONS, A_WINDOW, DRAWS = 24, 160, 20, 3, 40, 30
TOP_NEURONS = np.arange(0, 160, 5)  # the 32 that matter most
CLUSTER = np.arange(WINDOWS)
HALVES = window_halves(CLUSTER)


def layer_of(error: float = 0.02, shared: bool = True, everything: bool = False) -> Layer:
    """A layer whose top neurons' activations lie in DIMENSIONS dimensions, and whose first order errs by so much.

    shared: whether pseudo-classes rank neurons as the rare class does. everything: whether all neurons are measured.
    """
    rng = np.random.default_rng(0)
    influence = np.where(np.isin(np.arange(NEURONS), TOP_NEURONS), 1000.0, 1.0) * rng.lognormal(0, 1.0, NEURONS)
    exact = influence * rng.lognormal(0, 0.2, (WINDOWS, NEURONS))
    first = 2 * exact * rng.lognormal(0, error, NEURONS)
    top = np.argsort(-first.sum(0))[: NEURONS if everything else 32]
    sample = Sample(top, np.arange(0, NEURONS, 4), np.ones(exact.shape), np.zeros(exact.shape, dtype=bool))
    text = TextPieces(np.full(WINDOWS, 4), CLUSTER, np.zeros((WINDOWS, NEURONS)))
    mean = class_mean(first, np.where(sample.measured, exact, np.nan), first, np.zeros(NEURONS), sample, text)
    rare = cast(LayerClass, SimpleNamespace(text=text, signed=mean, absolute=mean))
    of_pseudo = influence if shared else rng.permutation(influence)
    sums = torch.from_numpy(of_pseudo * rng.lognormal(0, 0.3, (2, DRAWS, NEURONS)))
    activations = rng.normal(size=(WINDOWS * A_WINDOW, NEURONS))
    loads = rng.normal(size=(DIMENSIONS, len(TOP_NEURONS)))
    activations[:, TOP_NEURONS] = rng.normal(size=(len(activations), DIMENSIONS)) @ loads
    captured = SimpleNamespace(
        positions=SimpleNamespace(window=np.repeat(CLUSTER, A_WINDOW)),
        activations=torch.from_numpy(activations).float(),
        moments=SimpleNamespace(variance=torch.ones(NEURONS), positive=torch.rand(NEURONS)),
        anatomy=SimpleNamespace(
            output_rows=torch.randn(NEURONS, WIDTH),
            input_rows={"in": torch.randn(NEURONS, WIDTH)},
            readout=SimpleNamespace(centred=True),
            layer=1,
        ),
    )
    ranking = _ranking(rare, sample, "mean_abs")
    pseudo = PseudoInfluence(torch.full((2, DRAWS), 4), sums, sums)
    return Layer(cast(Any, captured), sample, {RARE: rare}, 0, ranking, True, pseudo)


def chosen(layer: Layer) -> LayerGroups:
    return layer_groups(layer, CLUSTER, 0.1, 0, "mean_abs")


def context(layer: Layer, groups: LayerGroups) -> Context:
    given = SimpleNamespace(
        captured=layer.captured, groups=groups.groups, halves=HALVES, clusters=CLUSTER, seed=0, layer=1
    )
    return cast(Context, given)


@pytest.mark.slow
def test_a_top_that_acts_in_three_dimensions_has_three_and_its_nulls_say_so() -> None:
    layer = layer_of()
    found = chosen(layer)
    top = found.groups[TOP]
    assert isinstance(top, Group) and [m.tolist() for m in top.members] == [TOP_NEURONS.tolist()] * 2
    assert found.exact_overlap == 1
    d_eff = dimensionality(context(layer, found)).groups[TOP]["d_eff"]
    assert isinstance(d_eff, GroupValue) and d_eff.value == DIMENSIONS
    alike, random, matched = (d_eff.nulls[null] for null in (SELECTED, RANDOM, MATCHED))
    # pseudo-classes choose the very same neurons, which random sets do not
    assert isinstance(alike, Comparison) and alike.null_mean == DIMENSIONS and alike.p_value > 0.9
    for null in (random, matched):
        assert isinstance(null, Comparison) and null.p_value < 0.01 and null.null_mean > 10
    other = layer_of(shared=False)
    apart = dimensionality(context(other, chosen(other))).groups[TOP]["d_eff"]
    assert isinstance(apart, GroupValue) and isinstance(apart.nulls[SELECTED], Comparison)
    assert apart.nulls[SELECTED].p_value < 0.07 and apart.nulls[SELECTED].null_mean > 10


@pytest.mark.slow
def test_a_top_that_noise_surrounds_keeps_its_edges_to_itself() -> None:
    layer = layer_of()
    found = chosen(layer)
    inside = modularity(context(layer, found)).whole_layer[TOP]["inside_share"]
    assert isinstance(inside, GroupValue) and inside.value == 1, "noise joins no two neurons at |r| ≥ 0.3"
    alphas = heavytail(context(layer, found)).hill["in"][TOP]
    assert isinstance(alphas["half"], GroupValue) and set(found.groups) == set(CHOSEN)


@pytest.mark.slow
def test_what_a_half_chooses_is_blind_to_the_other() -> None:
    layer = layer_of()
    rare = layer.classes[RARE]
    mine = HALVES == 0
    changed = rare.absolute.first_order_sum.copy()
    changed[~mine] = changed[~mine, ::-1]
    absolute = replace(rare.absolute, first_order_sum=changed)
    other = replace(layer, classes={RARE: SimpleNamespace(**{**vars(rare), "absolute": absolute})})  # type: ignore[dict-item]
    before, after = (chosen(which).groups[TOP] for which in (layer, other))
    assert isinstance(before, Group) and isinstance(after, Group)
    np.testing.assert_array_equal(before.members[0], after.members[0])
    assert before.members[1].tolist() != after.members[1].tolist()


@pytest.mark.parametrize("everything", [False, True])
def test_a_first_order_that_ranks_poorly_chooses_no_group_whatever_was_measured(everything: bool) -> None:
    layer = layer_of(error=4.0, everything=everything)
    assert isinstance(layer.ranking, Sampled) and layer.ranking.value < 0.8
    found = chosen(layer)
    for group in found.groups.values():
        assert isinstance(group, Undefined) and "under 0.8" in group.reason
    values = dimensionality(context(layer, found)).groups[TOP]
    assert {value.reason for value in values.values() if isinstance(value, Undefined)} == {found.groups[TOP].reason}  # type: ignore[union-attr]
    assert isinstance(found.exact_overlap, Undefined)


@pytest.mark.parametrize("everything", [False, True])
def test_a_plateau_needs_a_curve_and_the_top_does_not(everything: bool) -> None:
    """Also where all neurons were measured: the curve that chooses is the first order's."""
    groups = chosen(layer_of(error=0.25, everything=everything)).groups
    plateau, top = groups[PLATEAU], groups[TOP]
    assert isinstance(top, Group) and isinstance(plateau, Undefined)
    assert "the first order shows no curve: it may err by" in plateau.reason


def test_what_exact_effects_would_have_chosen_is_counted() -> None:
    overlap = chosen(layer_of(error=0.25)).exact_overlap
    assert overlap == 1, "the top is far stronger than all others"
    layer = layer_of()
    absolute = layer.classes[RARE].absolute
    weak = TOP_NEURONS[:8]
    value = absolute.window_sum.copy()
    value[:, weak] /= 1e6
    rare = SimpleNamespace(**{**vars(layer.classes[RARE]), "absolute": replace(absolute, window_sum=value)})
    other = replace(layer, classes={RARE: cast(LayerClass, rare)})
    assert chosen(other).exact_overlap == pytest.approx(24 / 32)
