"""Routing against brute-force hooks on transformers' own models, closed forms, planted cases and the null."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from analyses.influence.test_ablation import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from model.test_families import CASES, GATED, SHAPE, random_model, text
from scipy import stats
from torch import Tensor

from rtdyn.analyses.routing.differences import class_difference, class_differences, gini
from rtdyn.analyses.routing.head_ablation import STRUCTURAL, AblationSums, ablate_heads, effects, group_effects
from rtdyn.analyses.routing.matching import matched_positions
from rtdyn.analyses.routing.profiles import attention_profiles
from rtdyn.analyses.routing.routing import routing
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.errors import InputError
from rtdyn.model.families import Block, anatomy
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions, MeasuredPositions

LAYERS = 3
ABLATIONS = (("zero", "query"), ("bos", "query"), ("mean", "query"), ("zero", "all"), ("bos", "all"))


def two_classes(positions: MeasuredPositions) -> MeasuredPositions:
    """Every third position rare, the others common."""
    rare = np.arange(len(positions.flat)) % 3 == 0
    classes = tuple(
        ClassPositions(name, int(own.sum()), positions.flat[own]) for name, own in (("rare", rare), ("common", ~rare))
    )
    return replace(positions, classes=classes)


def case(config: Any) -> tuple[Any, Capture, np.ndarray]:
    """A random model of three blocks, its capture, and the windows."""
    config = deepcopy(config)
    config.num_hidden_layers = LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * LAYERS
    model = random_model(config)
    evaluation, positions = text()
    return model, capture(model, evaluation, two_classes(positions), attention=True), evaluation.windows


def hooked_activations(model: Any, windows: Tensor, block: Block, change: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(windows, T, F): the final MLP's activations of a whole forward pass, head outputs passed through `change`."""
    seen: dict[str, Tensor] = {}
    handles = [anatomy(model).mlp_output.register_forward_pre_hook(lambda m, inputs: seen.update(a=inputs[0]))]
    if change is not None:
        handles.append(block.attention_output.register_forward_pre_hook(lambda m, i: (change(i[0].clone()),)))
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    return seen["a"]


def head_outputs(model: Any, windows: Tensor, block: Block, attention: Any = None) -> Tensor:
    """(windows, T, heads·head size), with every pattern of `attention` put on key 0 by its mask where it is given."""
    seen: dict[str, Tensor] = {}

    def first_key(module: Any, args: Any, kwargs: Any) -> Any:
        mask = torch.full((1, 1, windows.shape[1], windows.shape[1]), torch.finfo(torch.float32).min)
        mask[..., 0] = 0.0
        return args, {**kwargs, "attention_mask": mask}

    handles = [block.attention_output.register_forward_pre_hook(lambda m, inputs: seen.update(z=inputs[0]))]
    if attention is not None:
        handles.append(attention.register_forward_pre_hook(first_key, with_kwargs=True))
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    return seen["z"]


def brute_force(model: Any, captured: Capture, windows: np.ndarray, which: int, method: str, at: str) -> Tensor:
    """(1 + H + 1, N, F): activations at the measured positions, a whole forward pass for each position and head."""
    block, positions = captured.anatomy.blocks[which], captured.positions
    everything = torch.from_numpy(windows.astype(np.int64))
    batch, index = everything[positions.window], torch.arange(len(positions.flat))
    query = torch.from_numpy(positions.query)
    stand_in = torch.zeros(len(batch), block.heads * block.head_size)
    if method == "bos":
        stand_in = head_outputs(model, everything, block, captured.anatomy.attentions[which])[positions.window, -1]
    if method == "mean":
        mean = head_outputs(model, everything, block).flatten(0, 1)[captured.kept_flat].mean(0)
        stand_in = mean.expand(len(batch), -1)

    def change(z: Tensor, own: slice) -> Tensor:
        if at == "all":
            z[:, :, own] = stand_in[:, None, own]
        else:
            z[index, query, own] = stand_in[:, own]
        return z

    size = block.head_size
    slices = [slice(0, 0), *(slice(h * size, (h + 1) * size) for h in range(block.heads)), slice(0, None)]
    return torch.stack(
        [hooked_activations(model, batch, block, partial(change, own=own))[index, query] for own in slices]
    )


def expected_sums(found: Tensor, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = found[:, torch.from_numpy(own)].double().numpy()
    return np.abs(a[1:] - a[0]).sum(1), np.abs(a[0]).sum(0), (np.abs(a[1:]) - np.abs(a[0])).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_ablations_match_a_forward_pass_for_each_position_and_head(config: Any) -> None:
    model, captured, windows = case(config)
    positions = captured.positions
    chosen = {c.name: np.flatnonzero(positions.members(c.name)) for c in positions.classes}
    groups = {"some": np.array([1, 5, 30]), "one": np.array([7])}
    for method, at in ABLATIONS:
        results = ablate_heads(captured, chosen, groups, method=method, at=at)
        in_pieces = ablate_heads(captured, chosen, groups, method=method, at=at, memory_bytes=1)
        for which, (result, pieces) in enumerate(zip(results, in_pieces, strict=True)):
            found = brute_force(model, captured, windows, which, method, at)
            assert result.layer == LAYERS - 2 + which and result.rerun_error < 1e-4
            for name, sums in result.classes.items():
                change, before, growth = expected_sums(found, positions.members(name))
                close = partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4 * (1 + before.max()))
                close(sums.change[0], change)
                close(sums.before[0], before)
                close(sums.growth[0], growth)
                close(pieces.classes[name].change, sums.change)
                for group, own in groups.items():
                    np.testing.assert_allclose(sums.group_change[group].sum(0), sums.change[0][:, own].sum(1))
                    np.testing.assert_allclose(sums.group_growth[group].sum(0), sums.growth[0][:, own].sum(1))
            structural = which == 1 and captured.anatomy.parallel_residual
            assert result.structural == (STRUCTURAL if structural else "")
            if structural:
                # the whole forward pass agrees that no ablation reaches the activations
                assert (found == found[0]).all() and not any(s.change.any() for s in result.classes.values())
                assert not any(s.growth.any() or not s.before.any() for s in result.classes.values())
            else:
                assert all((s.change.sum((0, 2)) > 0.1).all() for s in result.classes.values())


def test_ablating_everywhere_is_another_number_where_attention_carries_it_on() -> None:
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    _, captured, _ = case(config)
    chosen = {"rare": np.arange(len(captured.positions.flat))}
    query, everywhere = (ablate_heads(captured, chosen, {}, at=at) for at in ("query", "all"))
    assert abs(query[0].classes["rare"].change / everywhere[0].classes["rare"].change - 1).max() > 0.01
    np.testing.assert_array_equal(query[1].classes["rare"].change, everywhere[1].classes["rare"].change)


PLANTED = [
    pytest.param(transformers.LlamaConfig(num_key_value_heads=2, **GATED), 1, id="llama, final layer"),
    pytest.param(transformers.LlamaConfig(num_key_value_heads=2, **GATED), 0, id="llama, layer before"),
    pytest.param(
        transformers.GPTNeoXConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                   max_position_embeddings=32, use_parallel_residual=True, **SHAPE),
        0, id="parallel gpt-neox, layer before",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "which"), PLANTED)
def test_a_planted_head_is_found_and_no_other(config: Any, which: int) -> None:
    model, head, group = random_model(config), 2, np.array([3, 11, 20])
    parts = anatomy(model)
    others = np.setdiff1d(np.arange(40), group)
    for i, block in enumerate(parts.blocks):
        silent = [h for h in range(4) if (i, h) != (which, head)]
        block.attention_output.weight.view(24, 4, 6)[:, silent] = 0.0
    for rows in parts.input_rows.values():
        rows[others] = 0.0
    evaluation, positions = text()
    captured = capture(model, evaluation, two_classes(positions), attention=True)
    everything = {"rare": np.arange(len(positions.flat))}
    for i, result in enumerate(ablate_heads(captured, everything, {"plateau": group, "others": others})):
        sums = result.classes["rare"]
        found = group_effects(sums, "plateau")
        expected = np.zeros(5, dtype=bool)
        expected[[head, 4]] = i == which
        assert (found.share[expected] > 0.02).all() and (found.share[~expected] < 1e-6).all()
        assert (np.abs(found.signed[~expected]) < 1e-6).all() and found.reason == ""
        if i == which:
            np.testing.assert_allclose(found.share[head], found.share[4], rtol=1e-5)
        quiet = group_effects(sums, "others")
        assert (quiet.total < 1e-4).all()
        if len(parts.input_rows) == 2:
            assert np.isnan(quiet.share).all() and quiet.reason == "the group's activations are all 0"
            assert np.isnan(effects(sums, others[None]).share).all()


def random_sums(seed: int, windows: int = 7, heads: int = 3, neurons: int = 12) -> AblationSums:
    rng = np.random.default_rng(seed)
    change, growth = rng.random((windows, heads + 1, neurons)), rng.normal(size=(windows, heads + 1, neurons))
    before = rng.random((windows, neurons)) + 0.5
    label = np.arange(windows) % 2
    by_part = [np.stack([v[label == k].sum(0) for k in (0, 1)]) for v in (change, before, growth)]
    group = np.array([2, 3, 9])
    return AblationSums(
        np.array([4, 3]), *by_part, np.arange(windows) * 2,
        *({"g": v[..., group].sum(-1)} for v in (change, before, growth)),
    )  # fmt: skip


@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_effects_are_ratios_of_sums(seed: int, factor: float) -> None:
    sums, sets = random_sums(seed), np.array([[2, 3, 9], [0, 1, 2]])
    both = effects(sums, sets)
    np.testing.assert_allclose(both.total[1], sums.change.sum(0)[:, :3].sum(1))
    np.testing.assert_allclose(both.share[1], sums.change.sum(0)[:, :3].sum(1) / sums.before.sum(0)[:3].sum())
    halves = [effects(sums, sets, part) for part in (0, 1)]
    np.testing.assert_allclose(halves[0].total + halves[1].total, both.total)
    group = group_effects(sums, "g")
    np.testing.assert_allclose(group.share, both.share[0])
    np.testing.assert_allclose(group.signed, both.signed[0])
    odd = group_effects(sums, "g", np.arange(14) // 2 % 2 == 1)
    np.testing.assert_allclose(odd.share, halves[1].share[0])
    kinds = ("change", "before", "growth", "group_change", "group_before", "group_growth")
    scaled = {
        k: {"g": v["g"] * factor} if isinstance(v, dict) else v * factor for k in kinds for v in [getattr(sums, k)]
    }
    other = group_effects(replace(sums, **scaled), "g")
    np.testing.assert_allclose([other.share, other.share_se], [group.share, group.share_se], rtol=1e-9)
    np.testing.assert_allclose([other.total, other.total_se], np.multiply([group.total, group.total_se], factor))


def test_standard_errors_leave_out_a_window_at_a_time() -> None:
    sums = random_sums(0)
    group = group_effects(sums, "g")
    change, before = sums.group_change["g"], sums.group_before["g"]
    left = np.array(
        [np.delete(change, i, 0).sum(0) / np.delete(before, i).sum() for i in range(7)]
    )  # one leave-out at a time, spelt out
    np.testing.assert_allclose(group.share_se, np.sqrt(((left - left.mean(0)) ** 2).sum(0) * 6 / 7))
    np.testing.assert_allclose(group.total_se, change.std(0, ddof=1) * np.sqrt(7))
    alone = group_effects(sums, "g", np.arange(14) == 0)
    assert (
        np.isnan(alone.share_se).all()
        and alone.reason.startswith("one window alone holds all")
        and np.isfinite(alone.share).all()
    )
    assert group_effects(sums, "g", np.zeros(14, dtype=bool)).reason == "no position of the class"


def test_gini_of_known_distributions() -> None:
    k = 8
    rows = np.zeros((4, 12), dtype=np.float32)
    rows[0, :k] = 1 / k
    rows[1, 3] = 1.0
    rows[2, :k] = np.arange(1, k + 1)
    found = gini(torch.from_numpy(rows), torch.full((4,), k))
    np.testing.assert_allclose(found[:3], [0.0, (k - 1) / k, (k - 1) / (3 * k)], atol=1e-7)
    assert found[3].isnan()
    assert gini(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == 0


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-3, 1.0)), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_gini_is_half_the_relative_mean_difference(x: np.ndarray, padding: int, seed: int) -> None:
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    shuffled = np.random.default_rng(seed).permutation(x) * (1 + seed)
    for values in (x, shuffled):
        padded = torch.from_numpy(np.pad(values, (0, padding)))
        np.testing.assert_allclose(gini(padded, torch.tensor(len(x))), expected, atol=1e-12)


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """No difference between classes, but windows have values of their own, and half of them are all rare."""
    windows = np.repeat(np.arange(24), 4)
    rare = rng.permutation(24) < 12
    values = rng.normal(size=24)[windows] + 0.5 * rng.normal(size=96)
    return values[:, None], rare[windows], np.tile([0, 0, 1, 1], 24), windows


def test_p_values_are_uniform_where_classes_do_not_differ_and_windows_do() -> None:
    rng, draws = np.random.default_rng(0), 300
    p, naive, covered = [], [], []
    for _ in range(draws):
        values, rare, strata, windows = clustered(rng)
        one = class_difference(values, rare, strata, windows, rng, permutations=199)
        p.append(one.p_value[0])
        covered.append(abs(one.difference[0]) < 1.96 * one.se[0])
        naive.append(class_difference(values, rare, strata, np.arange(96), rng, 199, blocks=96).p_value[0])
    assert stats.kstest(p, "uniform").statistic < 1.95 / np.sqrt(draws)  # the critical value at 0.001
    assert 0.87 < np.mean(covered) < 0.99
    assert np.mean(np.array(naive) < 0.05) > 0.15  # the dependence matters: without blocks the test is wrong


def test_a_planted_difference_is_found_with_its_size() -> None:
    rng = np.random.default_rng(1)
    values, _, strata, windows = clustered(rng)
    balanced = np.tile([True, False], 48)
    shifted = np.hstack([values, values + 0.8 * balanced[:, None]])
    found = class_difference(shifted, balanced, strata, windows, rng)
    assert found.p_value[0] > 0.05 and found.p_value[1] == 0.001
    assert abs(found.difference[1] - found.difference[0] - 0.8) < 1e-12
    assert abs(found.difference[1] - 0.8) < 3 * found.se[1] and found.n == 48 and found.blocks == 24


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_differences_turn_with_the_labels_and_ignore_the_scale(seed: int, factor: float, shift: float) -> None:
    values, rare, strata, windows = clustered(np.random.default_rng(seed))
    measure = partial(class_difference, strata=strata, windows=windows, permutations=99, blocks=10)
    one = measure(values, rare, rng=np.random.default_rng(seed))
    turned = measure(values, ~rare, rng=np.random.default_rng(seed))
    moved = measure(values * factor + shift, rare, rng=np.random.default_rng(seed))
    assert one.blocks == 10
    np.testing.assert_allclose(turned.difference, -one.difference)
    np.testing.assert_allclose([turned.se, turned.p_value], [one.se, one.p_value])
    np.testing.assert_allclose(moved.difference, one.difference * factor, atol=1e-9)
    np.testing.assert_allclose(moved.p_value, one.p_value)


def test_undefined_differences_say_why() -> None:
    rng = np.random.default_rng(0)
    values, strata = np.ones((8, 1)), np.zeros(8, dtype=int)
    rare = np.arange(8) % 2 == 0
    few = class_difference(values, rare, strata, np.arange(8) // 2, rng)
    assert few.reason == "4 blocks of windows, under 6" and np.isnan(few.p_value).all() and few.difference == 0
    values[3] = np.nan
    assert class_difference(values, rare, strata, np.arange(8), rng).reason == "a query's attention is 0 everywhere"
    empty = class_difference(values[:0], rare[:0], strata[:0], strata[:0], rng)
    assert empty.reason == "no rare position has a match" and empty.n == 0
    with pytest.raises(ValueError, match="unequal numbers"):
        class_difference(values, np.arange(8) < 3, strata, strata, rng)


def attention_capture(attention: np.ndarray, query: np.ndarray, rare: np.ndarray, per_window: int = 10) -> Capture:
    """A capture whose attention is (N, layers, heads, T), every position in one of the two classes."""
    n, one = len(query), synthetic(0, n=len(query))
    window = np.arange(n) // per_window
    flat = window * attention.shape[-1] + query
    order = np.argsort(flat)
    assert (np.diff(flat[order]) > 0).all()
    classes = (ClassPositions("rare", n, flat[rare]), ClassPositions("common", n, flat[~rare]))
    positions = MeasuredPositions(flat[order], window[order], query[order], np.zeros(n, dtype=int), classes)
    layers = tuple(torch.nn.Identity() for _ in range(attention.shape[1]))
    return replace(
        one,
        positions=positions,
        attention=torch.from_numpy(attention[order].astype(np.float32)),
        anatomy=replace(one.anatomy, attentions=layers, layer=len(layers) - 1),
    )


def random_attention(
    rng: np.random.Generator, n: int = 300, heads: int = 2, length: int = 24
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention (n, 2, heads, T) with one expected profile for all, distinct queries in each ten, and a rare fifth."""
    query = np.concatenate([rng.choice(np.arange(8, length), 10, replace=False) for _ in range(n // 10)])
    back = query[:, None] - np.arange(length)
    shape = np.where(back >= 0, 1 + 2.0 / (1 + np.abs(back)), 0.0)
    weights = rng.exponential(size=(n, 2, heads, length)) * shape[:, None, None]
    return weights / weights.sum(-1, keepdims=True), query, rng.random(n) < 0.2


def test_profiles_are_class_means_by_offset() -> None:
    rng = np.random.default_rng(5)
    attention, query, rare = random_attention(rng)
    captured = attention_capture(attention, query, rare)
    own = captured.positions.members("rare")
    found = attention_profiles(captured, rng, offsets=8, draws=99)
    assert [p.layer for p in found] == [0, 1] and captured.attention is not None
    attention, query = captured.attention.double().numpy(), captured.positions.query
    assert found[0].n == own.sum()  # there are twice as many common ones in every stratum
    for layer, p in enumerate(found):
        for head in range(2):
            rows = [[a[0], *a[q::-1][:8]] for a, q in zip(attention[own, layer, head], query[own], strict=True)]
            np.testing.assert_allclose(p.rare[head], np.mean(rows, axis=0))
            for first, r in enumerate((p.with_bos, p.without_bos)):
                assert r is not None
                expected = np.corrcoef(p.rare[head, first:], p.common[head, first:])[0, 1]
                np.testing.assert_allclose(r.by_head[head], expected)
        assert p.with_bos is not None and p.with_bos.mean is not None and p.with_bos.sd is not None
        np.testing.assert_allclose([p.with_bos.mean, p.with_bos.sd], [r(p.with_bos.by_head) for r in (np.mean, np.std)]
                                   * np.array([1, np.sqrt(2)]))  # fmt: skip


def test_profiles_and_their_null_are_of_one_size_where_common_queries_are_scarce() -> None:
    rng = np.random.default_rng(6)
    attention, query, _ = random_attention(rng)
    captured = attention_capture(attention, query, rng.random(300) < 0.5)
    own, strata = captured.positions.members("rare"), captured.positions.query // 4
    rare, common = (np.bincount(strata[rows], minlength=6) for rows in (own, ~own))
    found = attention_profiles(captured, rng, stratum=4, offsets=8, draws=99)[0]
    assert found.n == np.minimum(rare, common // 2).sum() < own.sum()
    assert found.with_bos is not None and isinstance(found.with_bos.null, Comparison)
    assert abs(found.with_bos.mean - found.with_bos.null.null_mean) < 4 * found.with_bos.null.null_sd


@pytest.mark.slow
def test_profile_p_values_are_uniform_where_classes_attend_alike() -> None:
    rng, draws = np.random.default_rng(2), 120
    p = []
    for _ in range(draws):
        attention, query, rare = random_attention(rng)
        found = attention_profiles(attention_capture(attention, query, rare), rng, offsets=8, draws=99)
        assert found[0].without_bos is not None and isinstance(found[0].without_bos.null, Comparison)
        p.append(found[0].without_bos.null.p_value)
    assert stats.kstest(p, "uniform").statistic < 1.95 / np.sqrt(draws)  # the critical value at 0.001


def test_rare_queries_that_look_elsewhere_are_found() -> None:
    rng = np.random.default_rng(3)
    attention, query, rare = random_attention(rng)
    elsewhere = np.flatnonzero(rare)
    attention[elsewhere, 0, 0, query[elsewhere] - 5] += 1.0
    attention /= attention.sum(-1, keepdims=True)
    first, second = attention_profiles(attention_capture(attention, query, rare), rng, offsets=8)
    assert first.without_bos is not None and second.without_bos is not None
    assert first.rare[0, 1:].argmax() == 5 and first.without_bos.by_head[0] < 0.5
    planted, other = first.without_bos.null_by_head[0], second.without_bos.null
    assert isinstance(planted, Comparison) and planted.p_value == 0.01
    assert isinstance(other, Comparison) and other.p_value > 0.05
    assert planted.null_mean > 0.5
    captured = attention_capture(attention, query, rare)
    differences, _ = class_differences(captured, matched_positions(captured.positions, rng, stratum=4), rng, stratum=4)
    assert differences[0].p_value[0] == 0.001 and differences[0].difference[0] > 0.1
    assert differences[1].p_value[0] > 0.01


def test_attention_without_a_shape_gives_reasons() -> None:
    rng = np.random.default_rng(4)
    attention, query, rare = random_attention(rng)
    flat = np.where(np.arange(24) <= query[:, None], 1.0, 0.0)[:, None, None]
    flat = np.broadcast_to(flat / flat.sum(-1, keepdims=True), attention.shape)
    captured = attention_capture(flat, query, rare)
    (p, _) = attention_profiles(captured, rng, offsets=8)
    assert p.without_bos is not None and p.without_bos.mean is None and p.without_bos.sd is None
    assert p.without_bos.null == "every head's attention is the same at every offset"
    matched = matched_positions(captured.positions, rng)
    (even, _), _ = class_differences(captured, matched, rng)
    np.testing.assert_allclose(even.rare, 0, atol=1e-6)
    nothing = attention_capture(np.zeros_like(attention), query, rare)
    (dark, _), _ = class_differences(nothing, matched, rng)
    assert dark.reason == "a query's attention is 0 everywhere" and np.isnan(dark.p_value).all()
    (short, _) = attention_profiles(captured, rng, offsets=24)
    assert short.with_bos is None and short.reason.startswith("0 queries of each class")
    nobody = attention_capture(attention, query, np.zeros(300, dtype=bool))
    (lonely, _), _ = class_differences(nobody, matched_positions(nobody.positions, rng), rng)
    assert lonely.reason == "no rare position has a match"


@given(seed=st.integers(0, 2**32 - 1), stratum=st.integers(1, 30), share=st.floats(0.02, 0.9))
@settings(max_examples=40, deadline=None)
def test_matched_positions_have_one_histogram(seed: int, stratum: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    attention, query, _ = random_attention(rng, n=100, heads=1)
    positions = attention_capture(attention, query, rng.random(100) < share).positions
    matched = matched_positions(positions, np.random.default_rng(seed), stratum=stratum)
    again = matched_positions(positions, np.random.default_rng(seed), stratum=stratum)
    np.testing.assert_array_equal(matched.common, again.common)
    own = positions.members("rare")
    assert own[matched.rare].all() and not own[matched.common].any()
    counts = [np.bincount(positions.query[rows] // stratum, minlength=24) for rows in (matched.rare, matched.common)]
    np.testing.assert_array_equal(*counts)
    full = [np.bincount(positions.query[rows] // stratum, minlength=24) for rows in (own, ~own)]
    np.testing.assert_array_equal(counts[0], np.minimum(*full))
    assert matched.rare_left_out == own.sum() - counts[0].sum()


def test_nothing_to_ablate_and_captures_that_cannot_be() -> None:
    config = next(c.values[0] for c in CASES if c.id == "gpt2-0")
    _, captured, _ = case(config)
    nobody = ablate_heads(captured, {"rare": np.empty(0, dtype=np.int64)}, {"top": np.arange(3)}, method="mean")
    sums = nobody[0].classes["rare"]
    assert sums.n.sum() == 0 and group_effects(sums, "top").reason == "no position of the class"
    assert np.isnan(effects(sums, np.array([[0, 1]])).share).all()
    chosen = {"rare": np.arange(3)}
    with pytest.raises(ValueError, match="method is one of"):
        ablate_heads(captured, chosen, {}, method="one")
    for missing in (replace(captured, stream=None), replace(captured, attention=None)):
        with pytest.raises(ValueError, match="without attention"):
            routing(missing, {}, np.random.default_rng(0))
    with pytest.raises(InputError, match="run again"):
        ablate_heads(replace(captured, activations=captured.activations + 1), chosen, {})


def test_a_model_of_one_block_has_one_layer() -> None:
    config = deepcopy(next(c.values[0] for c in CASES if c.id == "gpt2-0"))
    config.num_hidden_layers = 1
    model = random_model(config)
    evaluation, positions = text()
    captured = capture(model, evaluation, two_classes(positions), attention=True)
    found = routing(captured, {"top": np.arange(5)}, np.random.default_rng(0), offsets=4)
    assert found.layers == (0,) and len(found.ablations) == len(found.gini) == len(found.profiles) == 1
    assert found.ablations[0].classes["rare"].change.any()


def test_a_seed_fixes_every_number() -> None:
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    _, captured, _ = case(config)
    run = partial(routing, captured, {"top": np.arange(5)}, offsets=4, stratum=4)
    one, again, other = (run(np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_equal(asdict(one), asdict(again))
    assert not np.array_equal(one.matched.common, other.matched.common)


@pytest.fixture(scope="module")
def trained(tiny: SuiteSpec, evaluation: Evaluation) -> Callable[[int], tuple[Any, Capture]]:
    made: dict[int, tuple[Any, Capture]] = {}

    def at(step: int) -> tuple[Any, Capture]:
        if step not in made:
            model = load_model(fetch_local(tiny, step), "cpu")
            made[step] = (model, capture(model, evaluation.text, evaluation.positions, attention=True))
        return made[step]

    return at


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 512, 4000])
def test_bundled_checkpoints(trained: Callable[[int], tuple[Any, Capture]], evaluation: Evaluation, step: int) -> None:
    model, captured = trained(step)
    top = captured.activations.std(0).topk(32).indices.sort().values.numpy()
    half = np.arange(len(evaluation.text.windows)) % 2
    found = routing(captured, {"top": top}, np.random.default_rng(0), part=half, draws=99)
    assert found.layers == (1, 2) and len(found.matched.rare) == len(found.matched.common) > 40
    before, last = found.ablations
    assert last.structural == STRUCTURAL and before.structural == ""
    rare = before.classes["rare"]
    assert rare.n.shape == (2,) and rare.n.sum() == len(found.matched.rare)
    sizes = group_effects(rare, "top")
    assert (sizes.share > 0).all() and (sizes.share_se > 0).all() and sizes.reason == ""
    np.testing.assert_allclose(effects(rare, top[None]).share[0], sizes.share)
    assert sizes.share[-1] > sizes.share[:-1].max()  # the whole layer does more than any one head
    zero = group_effects(last.classes["rare"], "top")
    assert not zero.share.any() and not zero.signed.any() and zero.total.shape == (7,)
    for layer in (0, 1):
        g = found.gini[layer]
        assert g.reason == "" and ((g.rare > 0) & (g.rare < 1)).all() and (g.se > 0).all()
        correlation = found.profiles[layer].with_bos
        assert correlation is not None and np.isfinite(correlation.by_head).all()
        assert isinstance(correlation.null, Comparison)
    one = captured.positions.members("rare").nonzero()[0][:1]
    row, query = int(captured.positions.window[one[0]]), int(captured.positions.query[one[0]])
    windows = torch.from_numpy(evaluation.text.windows[row : row + 1].astype(np.int64))
    result = ablate_heads(captured, {"rare": one}, {})[0].classes["rare"]

    def without_head_three(z: Tensor) -> Tensor:
        z[0, query, 48:64] = 0.0
        return z

    block = captured.anatomy.blocks[0]
    a, changed = (hooked_activations(model, windows, block, change)[0, query] for change in (None, without_head_three))
    np.testing.assert_allclose(result.change[0, 3], (changed - a).abs(), atol=1e-5)


@pytest.mark.slow
def test_training_gives_heads_a_shape_that_chance_had_not(trained: Callable[[int], tuple[Any, Capture]]) -> None:
    early, late = (routing(trained(step)[1], {}, np.random.default_rng(0), draws=19) for step in (1, 4000))
    nulls = [r.profiles[0].without_bos.null for r in (early, late) if r.profiles[0].without_bos is not None]
    assert all(isinstance(null, Comparison) for null in nulls)
    assert [null.null_mean > 0.9 for null in nulls if isinstance(null, Comparison)] == [False, True]
    assert (late.gini[0].rare > 2 * early.gini[0].rare).all()
