"""Effects of heads on groups: planted heads, ratios of sums, and standard errors spelt out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import transformers
from analyses.routing.captures import (
    split,
    two_classes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model.test_families import GATED, SHAPE, random_model, text
from scipy import stats

from rtdyn.analyses.group import Group
from rtdyn.analyses.routing.head_ablation import STRUCTURAL, AblationSums, HeadAblation, ablate_heads
from rtdyn.analyses.routing.head_effects import (
    GroupEffects,
    SplitEffects,
    effects_by_class,
    group_effects,
    halved_groups,
    signed_effects,
    split_effects,
)
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import capture
from rtdyn.intervals import t_interval
from rtdyn.model.families import anatomy
from rtdyn.names import RANDOM
from rtdyn.undefined import Undefined

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
        every = np.ones(len(evaluation.windows), dtype=bool)
        on_group = group_effects(sums, "plateau", every, np.arange(len(every)))
        assert not isinstance(on_group, Undefined)
        expected = np.zeros(5, dtype=bool)
        expected[[head, 4]] = i == which
        assert (on_group.share[expected] > 0.02).all() and (on_group.share[~expected] < 1e-6).all()
        assert (np.abs(on_group.signed[~expected]) < 1e-6).all()
        if i == which:
            np.testing.assert_allclose(on_group.share[head], on_group.share[4], rtol=1e-5)
        assert (sums.group_change["others"].sum(0) < 1e-4).all()
        if len(parts.input_rows) == 2:
            assert group_effects(sums, "others", every, np.arange(len(every))) == Undefined(
                "the group's activations are all 0"
            )
            assert np.isnan(signed_effects(sums, others[None], 0)).all()


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


def measured_effects(
    sums: AblationSums, name: str, windows: np.ndarray, cluster: np.ndarray | None = None
) -> GroupEffects:
    effects = group_effects(sums, name, windows, EACH if cluster is None else cluster)
    assert not isinstance(effects, Undefined)
    return effects


ALL, ODD, EACH = np.ones(14, dtype=bool), np.arange(14) // 2 % 2 == 1, np.arange(14)


@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_effects_are_ratios_of_sums(seed: int, factor: float) -> None:
    sums, sets = random_sums(seed), np.array([[2, 3, 9], [0, 1, 2]])
    by_part = [signed_effects(sums, sets, part) for part in (0, 1)]
    np.testing.assert_allclose(by_part[1][1], sums.growth[1][:, :3].sum(1) / sums.before[1][:3].sum())
    group = measured_effects(sums, "g", ALL)
    size = sums.before.sum(0)[sets[0]].sum()
    np.testing.assert_allclose(group.total, sums.change.sum(0)[:, sets[0]].sum(1))
    np.testing.assert_allclose(group.share, group.total / size)
    np.testing.assert_allclose(group.signed, sums.growth.sum(0)[:, sets[0]].sum(1) / size)
    np.testing.assert_allclose(measured_effects(sums, "g", ODD).signed, by_part[1][0])
    kinds = ("change", "before", "growth", "group_change", "group_before", "group_growth")
    scaled = {
        k: {"g": v["g"] * factor} if isinstance(v, dict) else v * factor for k in kinds for v in [getattr(sums, k)]
    }
    other = measured_effects(replace(sums, **scaled), "g", ALL)
    ratios = [(e.share, e.signed, e.signed_se) for e in (other, group)]
    np.testing.assert_allclose(*ratios, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.total, group.total * factor)


@pytest.mark.parametrize("cluster", [EACH, np.array([3, 0, 3, 0, 0, 0, 7, 0, 7, 0, 7, 0, 9, 0])])
def test_standard_errors_leave_out_a_cluster_at_a_time(cluster: np.ndarray) -> None:
    sums = random_sums(0)
    growth, before = sums.group_growth["g"], sums.group_before["g"]
    labels = cluster[sums.window_ids]
    held = np.unique(labels)
    left = np.array(
        [growth[labels != c].sum(0) / before[labels != c].sum() for c in held]
    )  # one leave-out at a time, spelt out
    expected = np.sqrt(((left - left.mean(0)) ** 2).sum(0) * (len(held) - 1) / len(held))
    effects = measured_effects(sums, "g", ALL, cluster)
    np.testing.assert_allclose(effects.signed_se, expected)
    assert effects.clusters == len(held)
    for windows, one in ((np.arange(14) == 0, EACH), (ALL, np.zeros(14, dtype=int))):
        alone = measured_effects(sums, "g", windows, one)
        assert np.isnan(alone.signed_se).all() and np.isfinite(alone.signed).all() and alone.clusters == 1
    assert group_effects(sums, "g", ~ALL, EACH) == Undefined("no position of the class")


@pytest.mark.parametrize("clusters", [10, 40])
def test_effects_are_covered_where_windows_of_a_document_are_alike(clusters: int) -> None:
    """The layer's effect is −0.3; documents of three windows differ in it and in how active the group is."""
    rng, covered = np.random.default_rng(0), np.zeros(2)
    document = np.repeat(np.arange(clusters), 3)
    empty, each = np.zeros((0, 0)), np.arange(len(document))
    for _ in range(400):
        before = np.exp(0.5 * rng.standard_normal(clusters))[document] * rng.uniform(0.8, 1.2, len(document))
        effect = -0.3 + 0.2 * rng.standard_normal(clusters)[document] + 0.05 * rng.standard_normal(len(document))
        by_window = ({"g": v} for v in (np.abs(before * effect)[:, None], before, (before * effect)[:, None]))
        sums = AblationSums(np.array([1, 1]), empty, empty, empty, each, *by_window)
        for k, labels in enumerate((document, each)):
            found = measured_effects(sums, "g", np.ones(len(document), dtype=bool), labels)
            low, high = t_interval(float(found.signed[0]), float(found.signed_se[0]), found.clusters)
            assert low is not None and high is not None
            covered[k] += low <= -0.3 <= high
    assert (0.9 if clusters == 10 else 0.925) <= covered[0] / 400 <= 0.975
    assert covered[1] / 400 < 0.85


def by_halves(seed: int, group: Group) -> AblationSums:
    """The random sums, with the group's members by the half that chose them."""
    rng = np.random.default_rng(seed)
    change, growth = rng.random((7, 4, 12)), rng.normal(size=(7, 4, 12))
    before = rng.random((7, 12)) + 0.5
    by_part = [np.stack([v[k::2].sum(0) for k in (0, 1)]) for v in (change, before, growth)]
    members = halved_groups({group.name: group})
    by_window = [{name: v[..., rows].sum(-1) for name, rows in members.items()} for v in (change, before, growth)]
    return AblationSums(np.array([4, 3]), *by_part, np.arange(7), *by_window)


@pytest.mark.parametrize("seed", range(5))
def test_effects_on_a_split_group_are_of_the_half_that_did_not_choose(seed: int) -> None:
    """Every head's effect, the strongest head's and the layer's, spelt out from the sums of the halves."""
    rng = np.random.default_rng(seed)
    sets = [np.stack([rng.choice(12, 3, replace=False) for _ in range(19)]) for _ in (0, 1)]
    group = split("g", np.array([2, 3, 9]), np.array([0, 5, 7]), sets={RANDOM: (sets[0], sets[1])})
    sums, halves = by_halves(seed, group), np.arange(7) % 2
    result = split_effects(sums, "g", group, halves, np.arange(7))
    assert not isinstance(result, Undefined)

    def ratio(kind: np.ndarray, members: np.ndarray, half: int) -> np.ndarray:
        return kind[half][:, members].sum(1) / sums.before[half][members].sum()

    def strongest(members: tuple[np.ndarray, np.ndarray]) -> float:
        effects = []
        for half in (0, 1):
            chosen_on = ratio(sums.growth, members[half], half)[:3]
            head = int(np.abs(chosen_on).argmax())
            effects.append(ratio(sums.growth, members[half], 1 - half)[head] * np.sign(chosen_on[head]))
        return float(np.mean(effects))

    signed = (ratio(sums.growth, group.members[0], 1) + ratio(sums.growth, group.members[1], 0)) / 2
    share = (ratio(sums.change, group.members[0], 1) + ratio(sums.change, group.members[1], 0)) / 2
    total = (sums.change[1][:, group.members[0]].sum(1) + sums.change[0][:, group.members[1]].sum(1)) / 2
    np.testing.assert_allclose(result.signed, signed[:3])
    np.testing.assert_allclose(result.share, share[:3])
    np.testing.assert_allclose(result.total, total[:3])
    np.testing.assert_allclose(result.layer.value.value, signed[3])
    np.testing.assert_allclose(result.strongest.value.value, strongest(group.members))
    measured = [measured_effects(sums, f"g@{half}", halves == 1 - half, np.arange(7)) for half in (0, 1)]
    assert [m.clusters for m in measured] == [3, 4] and result.layer.clusters == 7
    reach = stats.t.ppf(0.975, 5) * np.hypot(*(m.signed_se[3] for m in measured)) / 2
    np.testing.assert_allclose(result.layer.interval, [signed[3] - reach, signed[3] + reach])
    null = result.strongest.value.nulls[RANDOM]
    assert isinstance(null, Comparison)
    drawn = [strongest((first, second)) for first, second in zip(*sets, strict=True)]
    np.testing.assert_allclose([null.null_mean, null.null_sd], [np.mean(drawn), np.std(drawn, ddof=1)])


def test_a_group_or_a_layer_without_effects_says_why() -> None:
    group = split("g", np.array([2, 3, 9]))
    sums, halves = by_halves(0, group), np.arange(7) % 2
    nobody = Undefined("no neuron on one half of the windows")
    measured, structural = (HeadAblation(1, {"rare": sums}, reason, 0.0) for reason in (None, STRUCTURAL))
    groups = {"g": group, "nobody": nobody}
    effects = effects_by_class(measured, groups, halves, np.arange(7))["rare"]
    assert isinstance(effects["g"], SplitEffects) and effects["nobody"] == nobody
    assert effects_by_class(structural, groups, halves, np.arange(7))["rare"] == {"g": STRUCTURAL, "nobody": nobody}
    of_one_half = split_effects(sums, "g", group, np.zeros(7, dtype=np.int64), np.arange(7))
    assert of_one_half == Undefined("no position of the class")
