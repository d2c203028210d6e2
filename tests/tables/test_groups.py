"""Rows of groups: numbers are means over both halves, by brute force; a row a null; a reason where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups import input_weights
from rtdyn.analyses.groups import modularity as modularity_module
from rtdyn.analyses.groups.choose import window_halves
from rtdyn.analyses.groups.dimensionality import dimensionality
from rtdyn.analyses.groups.fixed_aspect import fixed_aspect_hill, fixed_aspect_weightwatcher
from rtdyn.analyses.groups.group_spectra import group_spectra
from rtdyn.analyses.groups.heavytail import ALPHA, ENTROPY
from rtdyn.analyses.groups.input_weights import heavytail, spectra_once
from rtdyn.analyses.groups.modularity import modularity
from rtdyn.analyses.groups.squared_correlations import pieces
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import PLATEAU, RANDOM, SELECTED, TOP
from rtdyn.store.schema import Metric
from rtdyn.tables.curves import eigenvalue_curves
from rtdyn.tables.groups import dimensionality_rows, matching_metrics, modularity_rows
from rtdyn.tables.heavytail import heavytail_rows
from rtdyn.text.evaluation import Evaluation
from rtdyn.undefined import Undefined

LAYER = 2
MEMBERS = (np.arange(0, 14), np.arange(100, 114))
DRAWS = 19


@pytest.fixture(scope="module")
def one(captured: Callable[[int], Capture]) -> Capture:
    return captured(64)


@pytest.fixture(scope="module")
def halves(one: Capture) -> np.ndarray:
    return window_halves(np.arange(one.positions.window.max() + 1))


@pytest.fixture(scope="module")
def groups() -> dict[str, Group | Undefined]:
    rng = np.random.default_rng(0)
    drawn = [np.stack([np.sort(rng.choice(512, 14, replace=False)) for _ in range(DRAWS)]) for _ in range(2)]
    sets = {RANDOM: (drawn[0], drawn[1]), SELECTED: Undefined("there are no pseudo-classes")}
    three = (np.arange(3), np.arange(7, 10))
    return {
        "fourteen": Group("fourteen", MEMBERS, sets, 0.25, 0.0),
        "three": Group("three", three, {SELECTED: tuple(np.repeat(m[None], DRAWS, 0) for m in three)}, 1.0, 0.0),
        "nobody": Undefined("no neuron on one half of the windows"),
    }


@pytest.fixture(scope="module")
def context(one: Capture, halves: np.ndarray, groups: dict[str, Group | Undefined], evaluation: Evaluation) -> Context:
    options = StepOptions(("ablation",), "kept", "mean_abs", 1e-5, 1.0, "never", "cpu", 0)
    return Context(one, Influence({}, None, 0.0), evaluation, halves, groups, options)


def activations(one: Capture, halves: np.ndarray, half: int) -> np.ndarray:
    return one.activations[halves[one.positions.window] == half].double().numpy()


def rows_of(rows: list[Metric], metric: str, group: str) -> dict[str | None, Metric]:
    found = [row for row in rows if (row.metric, row.group) == (metric, group)]
    assert len({row.null for row in found}) == len(found) > 0
    assert all(row.layer == LAYER and row.token_class == "rare" for row in found)
    return {row.null: row for row in found}


def assert_beside_nulls(rows: list[Metric], metric: str, value: float, drawn: np.ndarray | None = None) -> None:
    """Of `fourteen`: the value in each row, its random null with mean and p, and why it has no selected one."""
    found = rows_of(rows, metric, "fourteen")
    assert set(found) == {RANDOM, SELECTED}, found
    for row in found.values():
        assert row.value == pytest.approx(value, rel=1e-5) and row.n == 14
    assert found[SELECTED].reason == "there are no pseudo-classes" and found[SELECTED].p_value is None
    assert found[RANDOM].reason is None and 2 / (DRAWS + 1) <= found[RANDOM].p_value <= 1
    if drawn is not None:
        assert found[RANDOM].null_mean == pytest.approx(drawn.mean(), rel=1e-5)
        assert found[RANDOM].null_sd == pytest.approx(drawn.std(ddof=1), rel=1e-4)
        least = min((drawn <= value).sum(), (drawn >= value).sum())
        assert found[RANDOM].p_value == pytest.approx(min(1, 2 * (1 + least) / (DRAWS + 1)))


def crossed(statistic: Callable[[int, np.ndarray], float], sets: tuple[np.ndarray, np.ndarray]) -> float:
    """What each half chose, measured on the other."""
    return (statistic(1, sets[0]) + statistic(0, sets[1])) / 2


def over_draws(statistic: Callable[[int, np.ndarray], float], group: Group | Undefined) -> np.ndarray:
    assert isinstance(group, Group)
    first, second = group.sets[RANDOM]
    assert not isinstance(first, Undefined) and not isinstance(second, Undefined)
    return np.array([crossed(statistic, pair) for pair in zip(first, second, strict=True)])


def test_dimensionality_is_that_of_each_halfs_choice_on_the_other(
    context: Context, one: Capture, halves: np.ndarray, groups: dict[str, Group | Undefined]
) -> None:
    rows = dimensionality_rows(dimensionality(context), context).metrics

    def spectrum(half: int, members: np.ndarray) -> np.ndarray:
        return np.linalg.eigvalsh(np.corrcoef(activations(one, halves, half)[:, members].T))[::-1]

    def participation(half: int, members: np.ndarray) -> float:
        values = spectrum(half, members)
        return values.sum() ** 2 / (values**2).sum()

    def d_eff(half: int, members: np.ndarray) -> float:
        values = spectrum(half, members)
        return 1 + np.searchsorted(np.cumsum(values), 0.95 * values.sum())

    def unbiased(half: int, members: np.ndarray) -> float:
        values, piece = (
            activations(one, halves, half)[:, members],
            pieces(context.clusters[windows[halves[windows] == half]]),
        )
        live = values.std(0) > 0
        z = (values[:, live] - values[:, live].mean(0)) / values[:, live].std(0)
        products = (z @ z.T) ** 2
        apart = piece[:, None] != piece
        return live.sum() ** 2 / (products[apart].mean() - (z**2 @ (z**2).T)[apart].mean() + live.sum())

    windows = one.positions.window
    for metric, statistic in (
        ("participation_ratio", participation),
        ("participation_ratio_unbiased", unbiased),
        ("d_eff", d_eff),
    ):
        assert_beside_nulls(rows, metric, crossed(statistic, MEMBERS), over_draws(statistic, groups["fourteen"]))
    assert rows_of(rows, "d_eff", "nobody")[None].reason == groups["nobody"].reason


def test_correlations_and_communities_are_those_of_numpy_and_networkx(
    context: Context,
    one: Capture,
    halves: np.ndarray,
    groups: dict[str, Group | Undefined],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = modularity_rows(modularity(context), context).metrics
    with np.errstate(invalid="ignore"):
        r = [np.corrcoef(activations(one, halves, half).T) for half in (0, 1)]

    def within(half: int, members: np.ndarray) -> float:
        return np.nanmean(r[half][np.ix_(members, members)][np.triu_indices(len(members), 1)])

    def segregation(half: int, members: np.ndarray) -> float:
        weights = np.nan_to_num(np.abs(r[half])) * (np.abs(r[half]) >= 0.3) * (1 - np.eye(512))
        graph = nx.from_numpy_array(weights)
        return nx.community.modularity(graph, [set(members), set(range(512)) - set(members)])

    assert_beside_nulls(rows, "correlation_within", crossed(within, MEMBERS))
    drawn = over_draws(within, groups["fourteen"])
    null = rows_of(rows, "correlation_within", "fourteen")[RANDOM]
    # of all sets of so many neurons, by a closed form: the mean of all pairs, and a deviation near that of the draws
    assert null.null_mean == pytest.approx(np.mean([np.nanmean(one[np.triu_indices(512, 1)]) for one in r]), rel=1e-5)
    assert null.null_sd == pytest.approx(drawn.std(ddof=1), rel=4 / np.sqrt(2 * DRAWS))
    least = min((drawn <= null.value).sum(), (drawn >= null.value).sum())
    assert null.p_value == pytest.approx(min(1, 2 * (1 + least) / (DRAWS + 1)))
    assert_beside_nulls(rows, "segregation_q", crossed(segregation, MEMBERS))
    q = rows_of(rows, "q_excess", "fourteen")[RANDOM]
    assert q.value is not None and 0 < q.value < 1 and q.null_mean is not None
    assert groups_edges(r, groups["fourteen"]) == rows_of(rows, "q_excess_edges", "fourteen")[None].value
    assert rows_of(rows, "q_excess_edges", "nobody")[None].reason == groups["nobody"].reason
    rewired = rows_of(rows, "q_threshold", "fourteen")["rewired"]
    permuted = rows_of(rows, "q_threshold", "fourteen")["permuted"]
    assert permuted.value == rewired.value and permuted.p_value is not None and permuted.null_mean is not None
    assert rewired.n == 14 and rewired.p_value is not None and 0.02 <= rewired.p_value <= 1
    assert rows_of(rows, "q_excess", "three")[None].reason == "only 3 of the group's neurons vary"
    assert rows_of(rows, "q_paper_code", "nobody")[None].reason == groups["nobody"].reason
    for limit in ("LARGEST_GRAPH", "LARGEST_REWIRED"):
        monkeypatch.setattr(modularity_module, limit, 13)
    rows = modularity_rows(modularity(context), context).metrics
    for metric in ("q_excess", "q_excess_edges", "q_threshold", "q_paper_code"):
        assert rows_of(rows, metric, "fourteen")[None].reason == "a group of 14 neurons, over 13"


def groups_edges(r: list[np.ndarray], group: Group | Undefined) -> int:
    """The lower median of the numbers of strong pairs in the group and its sets, on the half where there are fewer."""
    assert isinstance(group, Group)
    counts = []
    for chosen, members in enumerate(group.members):
        drawn = group.sets[RANDOM]
        assert not isinstance(drawn, Undefined)
        strong = np.abs(r[1 - chosen]) >= 0.3
        own = [np.triu(strong[np.ix_(one, one)], 1).sum() for one in [members, *drawn[chosen]]]
        counts.append(sorted(own)[(len(own) - 1) // 2])
    return int(min(counts))


@pytest.mark.slow
def test_graphs_with_fewer_edges_than_neurons_are_not_compared(context: Context, one: Capture) -> None:
    """Noise of few positions joins some 12 of 91 pairs: what is left are small trees, whose Q says nothing."""
    noise = np.random.default_rng(2).standard_normal((30, 512))
    repeated = torch.from_numpy(np.resize(noise, one.activations.shape)).float()
    rows = modularity_rows(modularity(replace(context, captured=replace(one, activations=repeated))), context).metrics
    edges = rows_of(rows, "q_excess_edges", "fourteen")[None].value
    assert edges is not None and 10 <= edges < 14
    reason = rows_of(rows, "q_excess", "fourteen")[None].reason
    assert reason is not None and reason.endswith("edges are compared, fewer than the 14 neurons")


@pytest.fixture
def tails(context: Context, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Metric]]:
    """Rows of heavy tails, weightwatcher's numbers being the rows of its matrix and a reason."""
    monkeypatch.setattr(
        input_weights, "weightwatcher_metrics", lambda matrix: {ALPHA: float(len(matrix)), ENTROPY: "no entropy"}
    )
    shown = {**context.groups, PLATEAU: context.groups["nobody"], TOP: context.groups["three"]}

    def rows() -> list[Metric]:
        whole = replace(context, groups=shown)
        return list(heavytail_rows(heavytail(whole), whole).metrics)

    return rows


def test_hill_is_that_of_the_weights_whatever_the_half(
    one: Capture,
    groups: dict[str, Group | Undefined],
    tails: Callable[[], list[Metric]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tails()
    ((_, weights),) = one.anatomy.input_rows.items()

    def tenth(half: int, members: np.ndarray) -> float:
        values = np.linalg.eigvalsh(np.corrcoef(weights[members].double().numpy()))[::-1]
        return 1 / np.log(values[0] / values[1])

    metric = "hill_alpha_tenth"
    alpha = crossed(tenth, MEMBERS)
    assert_beside_nulls(rows, metric, alpha, over_draws(tenth, groups["fourteen"]))
    # one eigenvalue in the tail, so 2 degrees of freedom
    for row in rows_of(rows, metric, "fourteen").values():
        assert (row.ci_low, row.ci_high) == pytest.approx(tuple(alpha * chi2.ppf((0.025, 0.975), 2) / 2), rel=1e-5)
    monkeypatch.setattr(input_weights, "LARGEST_SPECTRUM", 13)
    assert rows_of(tails(), metric, "fourteen")[None].reason == "a group of 14 neurons, over 13"


def test_the_layer_comes_after_the_groups_and_weightwatchers_means_last(
    one: Capture, tails: Callable[[], list[Metric]]
) -> None:
    rows = tails()
    ((matrix, weights),) = one.anatomy.input_rows.items()
    names = [(row.metric, row.group) for row in rows if not row.metric.startswith("hill") or row.group is None]
    layer = [("hill_alpha_tenth", None), ("hill_alpha_half", None), ("hill_alpha_least_ks", None)]
    for name in (matrix, "out"):
        layer += [(f"ww_alpha_{name}", None), (f"ww_entropy_{name}", None)]
    farms = [("farms_hill_alpha_tenth", None), ("farms_hill_alpha_half", None)]
    layer += [*farms, *((f"farms_ww_alpha_{name}", None) for name in (matrix, "out"))]
    assert names[: len(layer)] == layer
    by_name = {(row.metric, row.group): row for row in rows if row.metric.startswith("ww")}
    assert by_name[f"ww_alpha_{matrix}", None].value == len(weights)
    assert by_name[f"ww_alpha_{matrix}", "fourteen"].value == 14
    assert by_name[f"ww_entropy_{matrix}", "fourteen"].reason == "no entropy"
    assert by_name[f"ww_alpha_{matrix}", PLATEAU].reason == "no neuron on one half of the windows"
    square = {(row.metric, row.group): row for row in rows if row.metric.startswith("farms")}
    assert square["farms_hill_alpha_half", None].value == fixed_aspect_hill(weights)["half"]
    assert square[f"farms_ww_alpha_{matrix}", None].value == fixed_aspect_weightwatcher(weights)
    assert square["farms_hill_alpha_half", PLATEAU].reason == "no neuron on one half of the windows"
    assert square[f"farms_ww_alpha_{matrix}", "fourteen"].reason == "the shorter side of the matrix is 14, under 16"
    whole = next(row for row in rows if row.metric == "hill_alpha_tenth" and row.group is None)
    assert whole.n == len(weights) and whole.ci_low < whole.value < whole.ci_high


def test_spectra_are_those_of_what_each_half_chose_beside_selected_sets(
    one: Capture, groups: dict[str, Group | Undefined]
) -> None:
    inputs = one.anatomy.input_rows
    (weights,) = inputs.values()
    fourteen = groups["fourteen"]
    assert isinstance(fourteen, Group)
    drawn = fourteen.sets[RANDOM]
    beside = replace(fourteen, sets={SELECTED: drawn})
    spectra_of = {name: spectra_once(rows, groups) for name, rows in inputs.items()}
    lines = eigenvalue_curves(group_spectra(spectra_of, {PLATEAU: fourteen, TOP: beside}), False, LAYER)
    # without pseudo-classes, and so without selected sets, there is nothing to look at beside it
    assert [(line["kind"], line["group"], line["half"]) for line in lines] == [
        ("eigenvalue", TOP, 0),
        ("eigenvalue", TOP, 1),
    ]

    def spectrum(members: np.ndarray) -> np.ndarray:
        return np.linalg.eigvalsh(np.corrcoef(weights[members].double().numpy()))[::-1]

    for half, line in enumerate(lines):
        values = spectrum(MEMBERS[half])
        band = np.quantile([spectrum(members) for members in drawn[half]], (0.025, 0.975), axis=0)
        assert line["x"].tolist() == list(range(1, 15))
        np.testing.assert_allclose(line["value"], values, rtol=1e-6)
        np.testing.assert_allclose((line["low"], line["high"]), band, rtol=1e-6)
        alpha = 1 / np.log(values[:7] / values[7]).mean()
        np.testing.assert_allclose(line["fit"][:8], values[7] * (8 / np.arange(1, 9)) ** (1 / alpha), rtol=1e-6)
        assert np.isnan(line["fit"][8:]).all()


def test_size_and_what_the_matched_sets_share_are_told(groups: dict[str, Group | Undefined]) -> None:
    rows = matching_metrics(groups, LAYER)
    assert [(row.group, row.metric, row.value, row.reason) for row in rows] == [
        ("fourteen", "size", 14, None),
        ("fourteen", "matched_own_share", 0.25, None),
        ("three", "size", 3, None),
        ("three", "matched_own_share", 1.0, None),
        ("nobody", "size", None, groups["nobody"].reason),
        ("nobody", "matched_own_share", None, groups["nobody"].reason),
    ]
