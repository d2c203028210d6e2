"""Groups of the bundled suite's layer before the last, against float64 hooks, and beside the last layer's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from analyses.routing.captures import hooked_activations
from polars.testing import assert_frame_equal

from rtdyn.analyses.groups.choose import window_halves
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.routing.matching import matched_positions
from rtdyn.checkpoints.checkpoint import Checkpoint, load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.model.families import anatomy
from rtdyn.names import LAYERS
from rtdyn.store.definitions import LAYER_METRICS, METRICS, define
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.metric_names import metric_name
from rtdyn.store.run import config_digest, lacking, open_run, write_step
from rtdyn.store.schema import StepTables
from rtdyn.streams import stream
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.extend import analyse_lacking, join
from rtdyn.sweep.step import analyse_model
from rtdyn.sweep.sweep import Sweep
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
        chosen = StepOptions(analyses=("ablation", *analyses), layers=layers, device="cpu")
        return analyse_model(model, STEP, None, short, chosen, lambda stage: None, parity=False)

    return of


@pytest.fixture(scope="module")
def whole(analysed: Analysed) -> StepTables:
    return analysed("dimensionality", "modularity", "routing", "heavytail", "mediation")


@pytest.fixture(scope="module")
def in_double(model: Any, short: Evaluation) -> tuple[Any, np.ndarray, np.ndarray]:
    """The model in float64, and what `hooked` finds of the layer there."""
    exact = copy.deepcopy(model).double()
    return exact, *hooked(exact, short)


Both = Callable[[Callable[[int, np.ndarray], float]], float]


@pytest.fixture(scope="module")
def both_ways(short: Evaluation, in_double: tuple[Any, np.ndarray, np.ndarray]) -> Both:
    """The mean over both ways of what is found on a half for the top that |Δ¹| on rare targets chooses on the other."""
    half, rare = window_halves(short.clusters.index)[short.positions.window], short.positions.members("rare")
    chosen = [np.argsort(-np.abs(in_double[2][rare & (half == h)]).mean(0))[:TOP] for h in (0, 1)]

    def mean(of: Callable[[int, np.ndarray], float]) -> float:
        return float(np.mean([of(1 - h, top) for h, top in enumerate(chosen)]))

    return mean


def of_layer(tables: StepTables, **where: Any) -> dict[str, Any]:
    return tables.metrics.filter(analysis=LAYERS, layer=LAYER, **where).row(0, named=True)


@pytest.mark.slow
def test_the_last_layers_rows_are_to_the_bit_those_without_the_others(analysed: Analysed, whole: StepTables) -> None:
    alone = analysed("dimensionality", layers="last")
    of_both = pl.col("analysis").is_in(alone.metrics["analysis"].unique().implode())
    assert_frame_equal(whole.metrics.filter(of_both), alone.metrics, check_exact=True)
    assert {*whole.metrics["analysis"]} - {*alone.metrics["analysis"]} == {
        LAYERS, "modularity", "routing", "heavytail", "mediation"
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
    # with tiny's parallel residual the layer's own heads reach no neuron
    named = {name for name in last["metric"] if not name.startswith(("head_effect_s", "head_effect_t"))}
    direct = {"mediation", "entropy_change", "kl_change"}
    assert {name for name in of_top if "below" not in name} == {
        *named - direct, *(f"direct_{name}" for name in direct), "exact_overlap"
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

    first, second = without("modularity", "routing"), without("dimensionality", "heavytail", "mediation")
    assert len(first.metrics) < len(whole.metrics) > len(second.metrics)
    for joined in (join(first, second), join(second, first)):
        assert_frame_equal(joined.metrics, whole.metrics, check_exact=True)


@pytest.mark.slow
def test_a_step_of_a_version_without_routing_of_layers_gains_it(
    analysed: Analysed, whole: StepTables, tiny: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = ("routing", "mediation")
    names = [name for analysis in later for d in LAYER_METRICS[analysis] for name in d.names]
    in_layers = (pl.col("analysis") == LAYERS) & pl.col("metric").is_in(names)
    of_layers = [name for name in whole.neurons.columns if name.startswith("direct_") and "mediation" in name]
    stored = replace(whole, metrics=whole.metrics.filter(~in_layers), neurons=whole.neurons.drop(of_layers))
    every = ("ablation", "dimensionality", "modularity", "routing", "heavytail", "mediation")
    config = {"layers": "-1,-2"}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="tiny", config=config, config_digest=config_digest(config))
    run, record = open_run(tmp_path / "run", manifest), CheckpointRecord(revision="r", commit="a", digests={})
    write_step(run, STEP, record, stored)
    assert lacking(run, STEP, every) == later
    monkeypatch.setattr(Sweep, "analyse", lambda sweep, *rest: analysed(*sweep.options.analyses[1:]))
    sweep = Sweep(tiny, None, {}, config, StepOptions(analyses=every, layers="-1,-2"))
    joined = analyse_lacking(sweep, run, Checkpoint(STEP, tmp_path, "r", "a", {}), lambda stage: None, parity=False)
    assert_frame_equal(joined.metrics, whole.metrics, check_exact=True)
    assert_frame_equal(joined.neurons, whole.neurons, check_exact=True, check_column_order=False)
    write_step(run, STEP, record, joined)
    assert lacking(run, STEP, every) == ()


@pytest.mark.slow
def test_a_layers_groups_are_those_of_float64_hooks(
    model: Any, short: Evaluation, whole: StepTables, in_double: tuple[Any, np.ndarray, np.ndarray]
) -> None:
    _, activations, delta = in_double
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


@pytest.mark.slow
def test_heads_below_do_to_a_layers_top_what_float64_hooks_find(
    short: Evaluation, whole: StepTables, in_double: tuple[Any, np.ndarray, np.ndarray], both_ways: Both
) -> None:
    exact, activations, _ = in_double
    positions, windows = short.positions, torch.from_numpy(short.text.windows.astype(np.int64))
    half = window_halves(short.clusters.index)[positions.window]
    matched = matched_positions(positions, stream(0, "attention"))
    block = anatomy(exact).every_block[LAYER - 1]
    slices = [slice(h * block.head_size, (h + 1) * block.head_size) for h in range(block.heads)]
    for own, name, head in [(slice(0, None), "layer_effect_below", None), (slices[2], "head_effect_signed_below", 2)]:

        def ablated(z: torch.Tensor, own: slice = own) -> torch.Tensor:
            z[..., own] = 0  # with tiny's parallel residual other positions cannot matter
            return z

        after = hooked_activations(exact, windows, block, ablated, LAYER)[positions.window, positions.query].numpy()
        for rows, suffix in ((matched.rare, ""), (matched.common, "_common")):

            def signed(measured_on: int, top: np.ndarray, rows: np.ndarray = rows, after: np.ndarray = after) -> float:
                some = rows[half[rows] == measured_on][:, None]
                before, then = np.abs(activations[some, top]).sum(), np.abs(after[some, top]).sum()
                return float((then - before) / before)

            where = {"head": head} if head is not None else {"null": "selected"}
            row = of_layer(whole, metric=name + suffix, group="top", **where)
            assert row["value"] == pytest.approx(both_ways(signed), abs=1e-5) and abs(row["value"]) > 0.01


@pytest.mark.slow
def test_a_layers_mediation_is_of_its_direct_effect_as_float64_finds_it(
    short: Evaluation, whole: StepTables, in_double: tuple[Any, np.ndarray, np.ndarray], both_ways: Both
) -> None:
    exact, activations, _ = in_double
    positions, rare = short.positions, short.positions.members("rare")
    half = window_halves(short.clusters.index)[positions.window[rare]]
    parts, windows = anatomy(exact), torch.from_numpy(short.text.windows.astype(np.int64))
    seen: dict[str, torch.Tensor] = {}
    handles = [
        parts.final_norm.register_forward_pre_hook(lambda _, inputs: seen.update(r=inputs[0])),
        parts.mlp_outputs[LAYER].module.register_forward_pre_hook(lambda _, inputs: seen.update(a=inputs[0])),
    ]
    with torch.no_grad():
        exact(windows)
    for handle in handles:
        handle.remove()
    mean = seen["a"].view(*windows.shape, -1)[torch.from_numpy(short.text.kept)].mean(0)
    residual = seen["r"][positions.window[rare], positions.query[rare]]
    target = torch.from_numpy(positions.target[rare])
    log_f = torch.zeros(parts.readout.unembedding.shape[0], dtype=torch.float64)
    counts = short.counts.counts
    log_f[: len(counts)] = torch.from_numpy(np.log(counts + 1) - np.log(counts + 1).mean())
    unit = log_f / log_f.norm()

    @torch.no_grad()
    def logits(r: torch.Tensor) -> torch.Tensor:
        return exact.get_output_embeddings()(exact.gpt_neox.final_layer_norm(r))

    def loss(of: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.cross_entropy(of, target, reduction="none").numpy()

    before = logits(residual)
    total, frozen = np.empty((2, int(rare.sum()), len(mean)))
    for i, row in enumerate(parts.mlp_outputs[LAYER].rows):
        change = mean[i] - torch.from_numpy(activations[rare, i])
        moved = logits(residual + change[:, None] * row) - before
        moved -= moved.mean(1, keepdim=True)
        total[:, i] = loss(before + moved) - loss(before)
        frozen[:, i] = loss(before + moved - (moved @ unit)[:, None] * unit) - loss(before)
    total, frozen = np.abs(total), np.abs(frozen)
    neurons = whole.neurons.filter(layer=LAYER)
    bound = neurons["direct_error_bound_mediation_rare"].to_numpy()
    found = neurons["direct_mediation_rare"].to_numpy()
    defined = np.isfinite(found)
    assert defined.mean() > 0.9
    expected = 1 - frozen.mean(0) / total.mean(0)
    assert (np.abs(found - expected) <= bound + 1e-4 * np.abs(expected) + 1e-3)[defined].all()

    def share(measured_on: int, top: np.ndarray) -> float:
        return float(1 - frozen[half == measured_on][:, top].sum() / total[half == measured_on][:, top].sum())

    row = of_layer(whole, metric="direct_mediation", group="top", null="selected")
    assert row["value"] == pytest.approx(both_ways(share), abs=2e-3)
    direct = neurons["direct_mean_abs_rare"].to_numpy()
    np.testing.assert_allclose(direct, total.mean(0), atol=2e-5)


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
