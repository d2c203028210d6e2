"""Domains of one checkpoint: the numbers of a run on that text, and rows that are defined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import LATE
from scipy import stats
from text.test_domains import chapters

from rtdyn.analyses.options import StepOptions
from rtdyn.capture.layered_model import open_model
from rtdyn.checkpoints.checkpoint import Checkpoint, load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.errors import OverflowedError, UsageError
from rtdyn.names import COMMON, DOMAINS
from rtdyn.store.definitions import COLUMNS, METRICS, define
from rtdyn.store.schema import DOMAIN_SCHEMA, StepTables
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.domains import with_domains
from rtdyn.sweep.extend import join
from rtdyn.sweep.step import analyse_model, analyse_step
from rtdyn.sweep.sweep import prepare_sweep
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.options import EvaluationOptions

pytestmark = pytest.mark.slow
SETTINGS = StepOptions(analyses=("ablation", "regimes"), device="cpu")


def silent(stage: str) -> None:
    """Told a stage."""


@pytest.fixture(scope="module")
def measured(tiny: SuiteSpec, options: EvaluationOptions, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("texts")
    named = (("law", chapters(folder / "law.jsonl", 0, 100)), ("gospel", chapters(folder / "gospel.jsonl", 150, 237)))
    return prepare_with_domains(tiny, LATE, replace(options, named_texts=named))


@pytest.fixture(scope="module")
def checkpoint(tiny: SuiteSpec) -> Checkpoint:
    return fetch_local(tiny, LATE)


@pytest.fixture(scope="module")
def tables(checkpoint: Checkpoint, measured: Evaluation) -> Iterator[StepTables]:
    yield analyse_step(checkpoint, 7, measured, SETTINGS, silent)


def of_domain(tables: StepTables, name: str) -> pl.DataFrame:
    assert tables.domains is not None
    return tables.domains.filter(domain=name).drop("domain")


def test_a_domain_has_the_numbers_that_its_text_has_as_a_main_text(
    checkpoint: Checkpoint, measured: Evaluation, tables: StepTables
) -> None:
    model, name = load_model(checkpoint, "cpu"), "gospel"
    alone = analyse_model(model, LATE, 7, measured.domains[name], SETTINGS, silent, parity=False)
    rows, compared = of_domain(tables, name), ["analysis", "metric", "token_class", "value", "ci_low", "ci_high", "n"]
    assert set(rows["step"]) == {LATE} and set(rows["tokens_seen"]) == {7}
    # the shape nulls take as many draws as they need here, and likelihoods and common's curve are not fitted
    drawn = pl.col("metric").is_in(["shape_p_value", "shape_statistic"])
    own = rows.filter((pl.col("analysis") != DOMAINS) & ~drawn).select(compared)
    contrast = pl.col("metric").str.contains("^contrast_|^tail_|_over_(lognormal|truncated)$") | (
        (pl.col("analysis") == "regimes") & (pl.col("token_class") == COMMON)
    )
    assert own.equals(alone.metrics.filter(~drawn & ~contrast).select(compared))
    p = {frame.filter(metric="shape_p_value", token_class="rare")["value"].item() for frame in (rows, alone.metrics)}
    assert max(p) - min(p) < 0.05
    assert tables.domain_neurons is not None
    neurons = tables.domain_neurons.filter(domain=name)
    for column in neurons.columns[4:]:
        assert neurons[column].equals(alone.neurons[column], null_equal=True), column


def test_ranks_are_compared_with_the_main_text_and_between_halves(tables: StepTables) -> None:
    assert tables.domain_neurons is not None
    for name in ("law", "gospel"):
        rows, own = of_domain(tables, name).filter(analysis=DOMAINS), tables.domain_neurons.filter(domain=name)
        for c in ("rare", "common"):
            main, halves = rows.filter(token_class=c).sort("metric").iter_rows(named=True)
            r = stats.spearmanr(tables.neurons[f"mean_abs_{c}"], own[f"mean_abs_{c}"]).statistic
            assert main["metric"] == "rank_spearman" and main["value"] == pytest.approx(r)
            assert main["ci_low"] < r < main["ci_high"] and main["n"] == 512
            assert 0.3 < halves["value"] < 1.0, "halves of one text rank alike, but for noise"


def test_the_main_text_is_measured_as_without_domains(
    checkpoint: Checkpoint, measured: Evaluation, tables: StepTables
) -> None:
    alone = analyse_step(checkpoint, 7, replace(measured, domains={}), SETTINGS, silent)
    assert alone.domains is None and alone.domain_neurons is None
    for table in ("metrics", "neurons", "windows", "curves"):
        assert getattr(alone, table).equals(getattr(tables, table))


def test_a_model_by_layers_is_read_once_for_all_domains_and_gives_the_same(
    checkpoint: Checkpoint, measured: Evaluation, tables: StepTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(SETTINGS, analyses=("ablation",))
    model = open_model(checkpoint, "cpu", by_layers=True, memory_bytes=options.memory_bytes)
    first = analyse_model(model, LATE, 7, measured, options, silent, parity=False)
    filled: list[object] = []
    fill = type(model).fill
    monkeypatch.setattr(type(model), "fill", lambda self, *modules: (filled.extend(modules), fill(self, *modules))[1])
    layered = with_domains(first, model, LATE, 7, measured, options, silent)
    assert len(filled) == len(set(filled)), "weights were read twice"
    for name in ("law", "gospel"):
        a, b = (of_domain(t, name).filter(analysis="ablation", metric="influence_mean") for t in (tables, layered))
        assert np.allclose(a["value"], b["value"], rtol=1e-5)


def test_every_row_and_column_is_defined(measured: Evaluation, tables: StepTables) -> None:
    assert tables.domains is not None and tables.domain_neurons is not None
    assert tables.domains.columns == list(DOMAIN_SCHEMA) and set(tables.domains["domain"]) == set(measured.domains)
    assert define("domain", COLUMNS["domains"]) is not None
    for analysis, metric in tables.domains.select("analysis", "metric").unique().iter_rows():
        assert define(metric, METRICS[analysis]) is not None, metric
    stored = {m for a, m in tables.domains.select("analysis", "metric").iter_rows() if a == DOMAINS}
    assert stored == {name for d in METRICS[DOMAINS] for name in d.names}
    for column in tables.domain_neurons.columns:
        assert define(column, COLUMNS["domain_neurons"], ["rare", "common"]) is not None, column


def test_stored_domains_stay_where_other_analyses_are_added(tables: StepTables) -> None:
    further = replace(tables, domains=None, domain_neurons=None)
    kept = join(tables, further)
    assert kept.domains is tables.domains and kept.domain_neurons is tables.domain_neurons
    assert join(further, tables).domains is tables.domains


def test_the_domain_whose_activations_overflow_is_named(
    checkpoint: Checkpoint, measured: Evaluation, tables: StepTables
) -> None:
    model = load_model(checkpoint, "cpu")
    model.gpt_neox.layers[-1].mlp.dense_4h_to_h.bias.data[0] = float("inf")
    with pytest.raises(OverflowedError, match="overflow to infinity or NaN, on the domain law"):
        with_domains(tables, model, LATE, 7, measured, SETTINGS, silent)


def test_weights_alone_have_no_domains_and_the_configuration_names_them(
    tiny: SuiteSpec, options: EvaluationOptions, tmp_path: Path
) -> None:
    law = (("law", chapters(tmp_path / "law.jsonl", 0, 100)), ("few", chapters(tmp_path / "few.jsonl", 0, 1)))
    with pytest.raises(UsageError, match="add ablation to measure domains"):
        prepare_sweep(tiny, LATE, replace(options, named_texts=law), StepOptions(analyses=("heavytail",)))
    sweep = prepare_sweep(tiny, LATE, replace(options, named_texts=law), SETTINGS)
    assert sweep.evaluation is not None
    assert sweep.config["domains"] == [f"law={sweep.evaluation.domains['law'].text.sha256}", "few=left-out"]
    assert "domains" not in prepare_sweep(tiny, LATE, options, SETTINGS).config
