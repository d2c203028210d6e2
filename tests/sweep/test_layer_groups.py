"""Groups of the bundled suite's layer before the last, against float64 hooks, and beside the last layer's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from rtdyn.analyses.groups.choose import window_halves
from rtdyn.analyses.options import StepOptions
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.model.families import anatomy
from rtdyn.names import LAYERS
from rtdyn.store.definitions import LAYER_METRICS, METRICS, define
from rtdyn.store.metric_names import metric_name
from rtdyn.store.schema import StepTables
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.extend import join
from rtdyn.sweep.step import analyse_model
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.options import EvaluationOptions

STEP, LAYER, TOP, FIRST_DRAWS = 4000, 1, 32, 99
Analysed = Callable[..., StepTables]


@pytest.fixture(scope="module")
def model(takes_long: None, tiny: SuiteSpec) -> Any:
    return load_model(fetch_local(tiny, STEP), "cpu")


@pytest.fixture(scope="module")
def short(tiny: SuiteSpec, options: EvaluationOptions) -> Evaluation:
    few = replace(options, bands=("0.73:0.95",), tokens=4096, positions_per_rare=7.0, min_targets=20)
    return prepare(tiny, STEP, few)


@pytest.fixture(scope="module")
def analysed(model: Any, short: Evaluation) -> Analysed:
    def of(*analyses: str, layers: str = "-1,-2") -> StepTables:
        chosen = StepOptions(analyses=("ablation", *analyses), layers=layers, device="cpu", exact_neurons=12)
        return analyse_model(model, STEP, None, short, chosen, lambda stage: None, parity=False)

    return of


@pytest.fixture(scope="module")
def whole(analysed: Analysed) -> StepTables:
    return analysed("dimensionality", "modularity", "routing", "heavytail")


def of_layer(tables: StepTables, **where: Any) -> dict[str, Any]:
    return tables.metrics.filter(analysis=LAYERS, layer=LAYER, **where).row(0, named=True)


@pytest.mark.slow
def test_the_last_layers_rows_are_to_the_bit_those_without_the_others(analysed: Analysed, whole: StepTables) -> None:
    alone = analysed("dimensionality", layers="last")
    of_both = pl.col("analysis").is_in(alone.metrics["analysis"].unique().implode())
    assert_frame_equal(whole.metrics.filter(of_both), alone.metrics, check_exact=True)
    assert {*whole.metrics["analysis"]} - {*alone.metrics["analysis"]} == {
        LAYERS, "modularity", "routing", "heavytail"
    }  # fmt: skip
    assert_frame_equal(whole.windows, alone.windows, check_exact=True)


@pytest.mark.slow
def test_every_row_of_a_layers_groups_is_defined_and_named_once(whole: StepTables) -> None:
    rows = whole.metrics.filter(pl.col("group").is_not_null(), analysis=LAYERS)
    assert set(whole.metrics.filter(analysis=LAYERS, metric="gini_difference")["layer"]) == {0}, "1 is the last layer's"
    assert set(rows["layer"]) == {LAYER} and set(rows["group"]) == {"plateau", "top"}
    assert {name for name in rows["metric"] if define(name, METRICS[LAYERS]) is None} == set()
    last = whole.metrics.filter(pl.col("analysis") != LAYERS, group="top")
    of_top = rows.filter(group="top")["metric"]
    assert {name for name in of_top if "below" not in name} == {
        # with tiny's parallel residual the layer's own heads reach no neuron
        *(name for name in last["metric"] if not name.startswith(("head_effect_s", "head_effect_t"))), "exact_overlap"
    }  # fmt: skip
    assert {name.replace("_below", "") for name in of_top if "below" in name} == {
        *last.filter(analysis="routing")["metric"]
    }
    assert metric_name(of_layer(whole, metric="d_eff", group="top"), 2) == "layers/d_eff/rare/top/L-2"


@pytest.mark.slow
def test_analyses_that_join_a_step_add_their_rows_of_each_layer(whole: StepTables) -> None:
    def without(*analyses: str) -> StepTables:
        names = {name for analysis in analyses for d in LAYER_METRICS[analysis] for name in d.names}
        of_them = pl.col("analysis").is_in(analyses)
        in_layers = pl.col("metric").is_in(names) & (pl.col("analysis") == LAYERS)
        return replace(whole, metrics=whole.metrics.filter(~of_them & ~in_layers))

    first, second = without("modularity", "routing"), without("dimensionality", "heavytail")
    assert len(first.metrics) < len(whole.metrics) > len(second.metrics)
    for joined in (join(first, second), join(second, first)):
        assert_frame_equal(joined.metrics, whole.metrics, check_exact=True)


@pytest.mark.slow
def test_a_layers_groups_are_those_of_float64_hooks(model: Any, short: Evaluation, whole: StepTables) -> None:
    activations, delta = hooked(copy.deepcopy(model).double(), short)
    positions, halves = short.positions, window_halves(short.clusters.index)
    half = halves[positions.window]
    rare, pseudo = positions.members("rare"), short.pseudo_classes
    assert isinstance(pseudo, np.ndarray)

    def both(of: Callable[[np.ndarray, np.ndarray], float], member: np.ndarray) -> float:
        """The mean over both ways: chosen on one half by |Δ¹| at the member positions, measured on the other."""
        chosen = [np.argsort(-np.abs(delta[member & (half == h)]).mean(0))[:TOP] for h in (0, 1)]
        return float(np.mean([of(activations[half != h], top) for h, top in enumerate(chosen)]))

    for metric, of in (("participation_ratio", ratio), ("d_eff", d_eff), ("inside_share", inside_share)):
        row = of_layer(whole, metric=metric, group="top", null="selected")
        assert row["value"] == pytest.approx(both(of, rare), rel=1e-4), metric
        if of is not inside_share:  # which goes through all pairs of neurons
            null = [both(of, member) for member in pseudo[:FIRST_DRAWS]]
            # they are widened about the mean of all draws that were made, which may be more
            assert row["null_mean"] == pytest.approx(np.mean(null), rel=5e-3), metric
    weights = model.gpt_neox.layers[LAYER].mlp.dense_h_to_4h.weight.double().numpy()
    row = of_layer(whole, metric="hill_alpha_half", group="top", null="selected")
    assert row["value"] == pytest.approx(both(partial(hill_half, weights), rare), rel=1e-6)
    assert of_layer(whole, metric="exact_overlap")["value"] > 0.9
    last = whole.metrics.filter(analysis="dimensionality", metric="participation_ratio", group="top")["value"][0]
    assert abs(last - of_layer(whole, metric="participation_ratio", group="top")["value"]) > 0.1


def hooked(whole: Any, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Activations (N, F) of the layer at the measured positions, and Δ¹ (N, F) there, of every neuron."""
    positions, windows = evaluation.positions, torch.from_numpy(evaluation.text.windows.astype(np.int64))
    module, seen = anatomy(whole).mlp_outputs[LAYER].module, {}

    def keep(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["all"] = inputs[0]

    handle = module.register_forward_pre_hook(keep)
    with torch.no_grad():
        whole(windows)
    handle.remove()
    every = seen["all"].view(*windows.shape, -1)
    mean = every[torch.from_numpy(evaluation.text.kept)].mean(0)
    delta = np.empty((len(positions.flat), len(mean)))
    for window in np.unique(positions.window):
        part = torch.zeros_like(mean, requires_grad=True)
        handle = module.register_forward_pre_hook(lambda _, inputs: (inputs[0] + part * (mean - inputs[0]),))  # noqa: B023 -- it is removed in the same turn
        rows = np.flatnonzero(positions.window == window)
        logits = whole(windows[window][None]).logits[0, positions.query[rows]]
        handle.remove()
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(positions.target[rows]), reduction="none")
        for row, loss in zip(rows, losses, strict=True):
            delta[row] = torch.autograd.grad(loss, part, retain_graph=True)[0].numpy()
    return every[positions.window, positions.query].numpy(), delta


def spectrum(activations: np.ndarray, top: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.corrcoef(activations[:, top].T))[::-1]


def ratio(activations: np.ndarray, top: np.ndarray) -> float:
    values = spectrum(activations, top)
    return float(values.sum() ** 2 / (values**2).sum())


def d_eff(activations: np.ndarray, top: np.ndarray) -> float:
    values = spectrum(activations, top)
    return float(np.argmax(np.cumsum(values) >= 0.95 * values.sum()) + 1)


def inside_share(activations: np.ndarray, top: np.ndarray) -> float:
    edges = np.abs(np.corrcoef(activations.T)) >= 0.3
    np.fill_diagonal(edges, False)
    inside = edges[np.ix_(top, top)].sum() / 2
    return float(inside / (edges[top].sum() - inside))


def hill_half(weights: np.ndarray, _: np.ndarray, top: np.ndarray) -> float:
    values = np.linalg.eigvalsh(np.corrcoef(weights[top]))[::-1]
    k = TOP // 2
    return float(1 / np.log(values[:k] / values[k]).mean())
