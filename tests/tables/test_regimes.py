"""Rows of curves: corrected numbers with intervals beside plain ones, and boundaries at an edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from analyses.regimes.test_fit_values import with_boundary
from analyses.regimes.test_resampled import clusters_of, planted, refitted

from rtdyn.analyses.regimes.curve import Curve
from rtdyn.analyses.regimes.evidence import ShapeEvidence
from rtdyn.analyses.regimes.fit import Ends, ThreeSegments, fit_regimes
from rtdyn.analyses.regimes.regimes import CurveEvidence
from rtdyn.analyses.regimes.resampled import CORRECTED, Corrected, Resampled
from rtdyn.analyses.regimes.summary import PLATEAU_FRACTION, STABILITY_METRICS
from rtdyn.store.schema import AT_EDGE, Metric, metric_frame
from rtdyn.tables.regimes import regime_metrics
from rtdyn.undefined import Undefined

NO_PSEUDO = Undefined("too few common types")
SHAPE = ShapeEvidence(2.0, {"pareto": 0.01}, {"pareto": 0.5}, {"pareto": 0.2})


@pytest.fixture(scope="module")
def fitted() -> Curve:
    sums, n = clusters_of(planted(400, 15, 1.0), 40, 0.3, np.random.default_rng(0))
    regimes = fit_regimes(sums.sum(0) / n.sum(), np.zeros(400))
    return Curve(regimes, SHAPE, refitted(sums, n), Undefined("not asked for"))


def by_name(curve: Curve) -> dict[str, Metric]:
    rows = regime_metrics(CurveEvidence({"rare": curve}, NO_PSEUDO), 5)
    metric_frame(list(rows), 1, None)
    named = {row.metric: row for row in rows if row.null is None}
    assert len(named) == sum(row.null is None for row in rows)
    assert all((row.layer, row.token_class) == (5, "rare") for row in rows)
    return named


def test_corrected_numbers_have_intervals_of_clusters_and_plain_ones_none(fitted: Curve) -> None:
    rows, fit, resampled = by_name(fitted), fitted.regimes.fit, fitted.resampled
    assert isinstance(fit, ThreeSegments) and isinstance(resampled, Resampled)
    for name in (*CORRECTED, PLATEAU_FRACTION):
        row = rows[name]
        assert row.value is not None and row.ci_low is not None and row.ci_high is not None
        assert row.ci_low < row.value < row.ci_high and row.clusters == 40 and not row.at_edge
    for name in CORRECTED:
        plain = rows[f"{name}_plain"]
        assert (plain.value, plain.ci_low, plain.clusters) == (float(getattr(fit, name)), None, None)
    kappa = resampled.statistics["kappa"]
    assert isinstance(kappa, Corrected) and rows["kappa"].value == kappa.value
    assert {rows[name].value is not None for name in STABILITY_METRICS} == {True}
    assert "plateau_fraction_plain" not in rows


def test_a_boundary_at_an_edge_is_stored_as_one(fitted: Curve) -> None:
    assert isinstance(fitted.resampled, Resampled)
    assert isinstance(fitted.regimes.ends, Ends)
    least = fitted.regimes.ends.r1[0]
    at_edge = replace(fitted, resampled=with_boundary(fitted.resampled, "r1", least / 2, least, 0.3))
    rows = regime_metrics(CurveEvidence({"rare": at_edge}, NO_PSEUDO), 5)
    frame = metric_frame(list(rows), 1, None)
    edges = frame.filter(status=AT_EDGE)
    assert sorted(edges["metric"]) == ["plateau_fraction", "r1"]
    assert edges["ci_low"].to_list() == [None, None] and None not in edges["ci_high"].to_list()
    assert sorted(edges["value"]) == [least / 400, least]


def test_without_halves_of_the_text_plain_numbers_stand_alone(fitted: Curve) -> None:
    reason = "the class lies in 3 independent pieces of text, under 8"
    rows = by_name(replace(fitted, resampled=Undefined(reason)))
    for name in (*CORRECTED, PLATEAU_FRACTION, *STABILITY_METRICS):
        assert (rows[name].value, rows[name].reason) == (None, reason)
    for name in CORRECTED:
        assert rows[f"{name}_plain"].value is not None
