"""Warnings of what makes numbers say less than they seem to: each where it holds, and none where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rtdyn.store.schema import Metric, metric_frame
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation
from rtdyn.views.number import p_value
from rtdyn.views.terminal.cautions import FEW_TYPES, cautions, rare_is_easier


def test_a_class_of_few_types_is_named(tiny: SuiteSpec, evaluation: Evaluation) -> None:
    assert list(cautions(tiny, evaluation, None)) == []
    rare, common = evaluation.classes.classes
    few = rare.types.copy()
    few[few.nonzero()[0][FEW_TYPES - 1 :]] = False
    classes = replace(evaluation.classes, classes=(replace(rare, types=few), common))
    [said] = cautions(tiny, replace(evaluation, classes=classes), None)
    assert f"the class rare is of {FEW_TYPES - 1} types, under {FEW_TYPES}" in said


def test_a_model_of_ones_own_on_the_default_text_is_warned_of(
    tiny: SuiteSpec, evaluation: Evaluation, tmp_path: Path
) -> None:
    own = replace(tiny, name="mine", path=tmp_path)
    [said] = cautions(own, evaluation, None)
    assert "mine is measured on a text that it may never have met" in said and "by the counts" not in said
    itself = replace(evaluation, counts=replace(evaluation.counts, source=evaluation.corpus_name))
    assert "ranks are by the counts of that text itself" in next(cautions(own, itself, None))
    assert list(cautions(own, itself, "king-james")) == []


@pytest.mark.parametrize(("rare", "common", "warned"), [(3.0, 4.0, True), (4.0, 3.0, False), (None, 3.0, False)])
def test_a_rare_class_that_is_easier_than_the_common_one_is_warned_of(
    rare: float | None, common: float, warned: bool
) -> None:
    reason = "no targets" if rare is None else None
    rows = [
        Metric("capture", "loss", rare, token_class="rare", reason=reason),
        Metric("capture", "loss", common, token_class="common"),
    ]
    frame: pl.DataFrame = metric_frame(rows, 0, None)
    assert ("the loss on rare (3) is below that on common (4)" in rare_is_easier(frame)) == warned
    assert bool(rare_is_easier(frame)) == warned


def test_no_p_is_shown_as_one() -> None:
    assert [p_value(p) for p in (0.0012345, 0.25, 0.99, 0.998, 1.0)] == ["0.0012", "0.25", "0.99", "> 0.99", "> 0.99"]
