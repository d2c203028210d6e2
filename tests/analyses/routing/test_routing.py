"""Routing of random models and of the bundled checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from analyses.routing.captures import (
    case,
    context,
    hooked_activations,
    split,
    two_classes,
)
from model.test_families import CASES, random_model, text
from torch import Tensor

from rtdyn.analyses.routing.head_ablation import STRUCTURAL, ablate_heads
from rtdyn.analyses.routing.head_effects import GroupEffects, SplitEffects, group_effects, signed_effects
from rtdyn.analyses.routing.profiles import Correlation
from rtdyn.analyses.routing.routing import routing
from rtdyn.analyses.statistics import Comparison, Estimate
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.options import EvaluationOptions


def test_a_model_of_one_block_has_one_layer() -> None:
    config = deepcopy(next(c.values[0] for c in CASES if c.id == "gpt2-0"))
    config.num_hidden_layers = 1
    model = random_model(config)
    evaluation, positions = text()
    captured = capture(model, evaluation, two_classes(positions), attention=True)
    result = routing(context(captured, {"top": split("top", np.arange(5))}))
    assert result.layers == (0,)
    assert len(result.ablations) == len(result.effects) == len(result.gini) == len(result.profiles) == 1
    assert result.ablations[0].classes["rare"].change.any()


def test_a_seed_fixes_every_number() -> None:
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    _, captured, _ = case(config)
    groups = {"top": split("top", np.arange(5), np.arange(3, 9))}
    first, again, other = (routing(context(captured, groups, seed=seed)) for seed in (7, 7, 8))
    np.testing.assert_equal(asdict(first), asdict(again))
    assert not np.array_equal(first.matched.common, other.matched.common)


@pytest.fixture(scope="module")
def many(tiny: SuiteSpec, options: EvaluationOptions) -> Evaluation:
    """An evaluation with enough common positions for pseudo-classes."""
    return prepare(tiny, 4000, replace(options, positions_per_rare=8.0))


@pytest.fixture(scope="module")
def trained(tiny: SuiteSpec, many: Evaluation) -> Callable[[int], tuple[Any, Capture]]:
    made: dict[int, tuple[Any, Capture]] = {}

    def at(step: int) -> tuple[Any, Capture]:
        if step not in made:
            model = load_model(fetch_local(tiny, step), "cpu")
            made[step] = (model, capture(model, many.text, many.positions, attention=True))
        return made[step]

    return at


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 512, 4000])
def test_bundled_checkpoints(trained: Callable[[int], tuple[Any, Capture]], many: Evaluation, step: int) -> None:
    model, captured = trained(step)
    top = captured.activations.std(0).topk(32).indices.sort().values.numpy()
    each = np.arange(len(many.text.windows))
    half = each % 2
    pseudo = many.pseudo_classes
    result = routing(context(captured, {"top": split("top", top)}, halves=half, pseudo=pseudo))
    assert result.layers == (1, 2) and len(result.matched.rare) == len(result.matched.common) > 40
    before, last = result.ablations
    assert last.structural == STRUCTURAL and before.structural is None
    assert result.effects[1]["rare"]["top"] == STRUCTURAL
    rare = before.classes["rare"]
    assert rare.n.shape == (2,) and rare.n.sum() == len(result.matched.rare)
    sizes = group_effects(rare, "top@0", half == 1, each)
    assert isinstance(sizes, GroupEffects)
    assert (sizes.share > 0).all() and (sizes.signed_se > 0).all()
    np.testing.assert_allclose(signed_effects(rare, top[None], 1)[0], sizes.signed)
    assert sizes.share[-1] > sizes.share[:-1].max()  # the whole layer does more than any one head
    zero = group_effects(last.classes["rare"], "top@0", half == 1, each)
    assert isinstance(zero, GroupEffects)
    assert not zero.share.any() and not zero.signed.any() and zero.total.shape == (7,)
    split_over_halves = result.effects[0]["rare"]["top"]
    assert isinstance(split_over_halves, SplitEffects) and (split_over_halves.share > 0).all()
    for layer in (0, 1):
        g = result.gini[layer]
        assert ((g.rare > 0) & (g.rare < 1)).all() and (g.se > 0).all() and g.n > 40
        correlation = result.profiles[layer].with_bos
        assert isinstance(correlation, Correlation) and np.isfinite(correlation.plain_by_head).all()
        assert all(isinstance(against, Comparison) for against in (*g.against, correlation.null))
    position = captured.positions.members("rare").nonzero()[0][:1]
    row, query = int(captured.positions.window[position[0]]), int(captured.positions.query[position[0]])
    windows = torch.from_numpy(many.text.windows[row : row + 1].astype(np.int64))
    sums = ablate_heads(captured, {"rare": position}, {})[0].classes["rare"]

    def without_head_three(z: Tensor) -> Tensor:
        z[0, query, 48:64] = 0.0
        return z

    block = captured.anatomy.blocks[0]
    a, changed = (hooked_activations(model, windows, block, change)[0, query] for change in (None, without_head_three))
    np.testing.assert_allclose(sums.change[0, 3], (changed - a).abs(), atol=1e-5)


@pytest.mark.slow
def test_training_gives_heads_a_shape_that_chance_had_not(
    trained: Callable[[int], tuple[Any, Capture]], many: Evaluation
) -> None:
    early, late = (routing(context(trained(step)[1], {}, pseudo=many.pseudo_classes)) for step in (1, 4000))
    correlations = [r.profiles[0].without_bos for r in (early, late)]
    nulls = [r.null for r in correlations if isinstance(r, Correlation)]
    assert len(nulls) == 2 and all(isinstance(null, Comparison) for null in nulls)
    assert [null.null_mean > 0.9 for null in nulls if isinstance(null, Comparison)] == [False, True]
    assert (late.gini[0].rare > 2 * early.gini[0].rare).all()
    # noise lowers the plain r
    of_late = correlations[1]
    assert isinstance(of_late, Correlation) and isinstance(of_late.mean, Estimate) and of_late.mean.low is not None
    assert of_late.mean.low < of_late.mean.value and of_late.mean.value > of_late.plain_mean > 0.8
