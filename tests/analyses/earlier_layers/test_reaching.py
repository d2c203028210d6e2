"""Heads that reach earlier layers, ablated, against float64 hooks on transformers' own models."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from analyses.routing.captures import case, context, split
from analyses.routing.test_head_ablation import assert_sums, brute_force
from model.test_families import CASES, text
from torch import Tensor

from rtdyn.analyses.earlier_layers.reaching import captures_with_streams
from rtdyn.analyses.routing.head_ablation import STRUCTURAL, ablate_heads
from rtdyn.analyses.routing.head_effects import SplitEffects
from rtdyn.analyses.routing.routing import routing
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.names import RANDOM, TOP
from rtdyn.tables.routing import layer_routing_rows
from rtdyn.undefined import Undefined

BLOCKS, EARLIER = 4, (0, 1, 2)


def reached(config: Any) -> tuple[Any, dict[int, Capture], np.ndarray]:
    """A random model of BLOCKS blocks, its earlier layers with a stream each of their own, and the windows."""
    model, last, windows = case(config, BLOCKS)
    evaluation, _ = text()
    earlier = capture_earlier(model, evaluation, last, EARLIER, attention=True)
    own = {layer: replace(c, stream=copied(c)) for layer, c in captures_with_streams(earlier)}
    return model, own, windows


def copied(captured: Capture) -> Tensor:
    assert captured.stream is not None
    return captured.stream.clone()


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_ablations_match_float64_hooks_for_each_position_and_head(config: Any) -> None:
    model, captures, windows = reached(config)
    exact = deepcopy(model).double()
    for layer, captured in captures.items():
        positions = captured.positions
        chosen = {c.name: np.flatnonzero(positions.members(c.name)) for c in positions.classes}
        for to, at in (("zero", "query"), ("bos", "all")):
            results = ablate_heads(captured, chosen, {}, to=to, at=at)
            assert [r.layer for r in results] == ([layer - 1, layer] if layer else [0])
            for which, result in enumerate(results):
                found = brute_force(exact, captured, windows, which, to, at, layer)
                own = captured.anatomy.parallel_residual and result.layer == layer
                assert result.structural == (STRUCTURAL if own else None)
                assert own == bool((found == found[0]).all()), "hooks agree that no ablation reaches the neurons"
                for name, sums in result.classes.items():
                    assert_sums(sums, found, positions.members(name))


def sequential() -> Any:
    return next(c.values[0] for c in CASES if c.id == "llama-0")


def test_a_model_of_the_layers_up_to_one_measures_it_alike() -> None:
    """Layer 2 of four is the last of three: what the last layer's own routing finds there is found here."""
    model, captures, _ = reached(sequential())
    shorter = deepcopy(model)
    shorter.model.layers = shorter.model.layers[:3]
    shorter.config.num_hidden_layers = 3
    evaluation, _ = text()
    last = capture(shorter, evaluation, captures[2].positions, attention=True)
    groups = {TOP: split(TOP, np.arange(5), np.arange(3, 9))}
    theirs, ours = (routing(context(captured, groups)) for captured in (last, captures[2]))
    assert theirs.layers == ours.layers == (1, 2)
    for there, here in zip(theirs.ablations, ours.ablations, strict=True):
        for name, sums in there.classes.items():
            np.testing.assert_allclose(here.classes[name].change, sums.change, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(here.classes[name].growth, sums.growth, rtol=1e-4, atol=1e-5)
    # attention 2 is kept by the last of four layers, attention 1 with layer 1
    both = [routing(context(captures[layer], groups)) for layer in (1, 2)]
    assert (both[0].attention_layers, both[1].attention_layers) == ((1,), ())
    for ours_of, theirs_of in zip((both[0].gini, both[0].bos), (theirs.gini, theirs.bos), strict=True):
        np.testing.assert_allclose(ours_of[0].difference, theirs_of[0].difference, rtol=1e-4, atol=1e-6)


def test_rows_have_the_neurons_layer_and_those_of_attention_their_own() -> None:
    _, captures, _ = reached(sequential())
    sets = tuple(np.stack([np.random.default_rng(h).choice(40, 5, replace=False) for _ in range(19)]) for h in (0, 1))
    groups = {TOP: split(TOP, np.arange(5), np.arange(3, 8), sets={RANDOM: (sets[0], sets[1])})}
    for layer, captured in captures.items():
        of_layer = context(captured, groups)
        result = routing(of_layer)
        rows = layer_routing_rows(result, of_layer).metrics
        of_group = [row for row in rows if row.group == TOP]
        assert {row.layer for row in of_group} == {layer}
        # of the last two layers' attention the last layer's rows are, here of 2 and 3
        assert {row.layer for row in rows if row.group is None} == {*captured.attention_layers} <= {layer} - {2}
        ends = {0: [""], 1: ["_below", ""], 2: ["_below", ""]}[layer]
        for end, by_class in zip(ends, result.effects, strict=True):
            for token_class, suffix in (("rare", end), ("common", f"{end}_common")):
                effect = by_class[token_class][TOP]
                assert isinstance(effect, SplitEffects)
                value, low, null = next(
                    (r.value, r.ci_low, r.null) for r in of_group if r.metric == f"layer_effect{suffix}"
                )
                assert (value, low, null) == (effect.layer.value.value, effect.layer.interval[0], RANDOM)
                heads = [r.value for r in of_group if r.metric == f"head_effect_signed{suffix}"]
                np.testing.assert_array_equal(heads, effect.signed)
        assert "matched_positions" not in {row.metric for row in rows}


def test_a_parallel_layers_own_attention_is_structural_and_the_one_below_is_not() -> None:
    config = next(c.values[0] for c in CASES if c.id == "gpt_neox-0")
    _, captures, _ = reached(config)
    assert captures[1].anatomy.parallel_residual
    groups = {TOP: split(TOP, np.arange(5))}
    for layer, captured in captures.items():
        *below, own = routing(context(captured, groups)).effects
        assert all(of_group[TOP] == STRUCTURAL for of_group in own.values())
        assert len(below) == (1 if layer else 0)
        for by_class in below:
            assert not isinstance(by_class["rare"][TOP], Undefined)


def test_layers_captured_without_attention_have_no_heads_to_ablate() -> None:
    model, last, _ = case(sequential(), BLOCKS)
    earlier = capture_earlier(model, text()[0], last, EARLIER)
    with pytest.raises(ValueError, match="without attention"):
        next(captures_with_streams(earlier))
    with pytest.raises(ValueError, match="without attention"):
        routing(context(earlier.layers[1], {}))
