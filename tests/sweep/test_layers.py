"""Layers that cannot be measured are refused before a sweep begins."""

from __future__ import annotations

import pytest

from rtdyn.analyses.options import StepOptions
from rtdyn.errors import InputError, UsageError
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.sweep import prepare_sweep
from rtdyn.text.options import EvaluationOptions


def test_layers_that_cannot_be_measured_are_refused_before_a_step_is_read(tiny: SuiteSpec) -> None:
    alone = StepOptions(analyses=("heavytail",))
    for layers, error, says in (
        ("all", UsageError, "add ablation to --analyses"),
        ("-1,-9", InputError, "the model has 3 layers; give numbers from -1 to -3, or all"),
    ):
        with pytest.raises(error, match=says):
            prepare_sweep(tiny, 4000, EvaluationOptions(), StepOptions(analyses=("heavytail",), layers=layers))
    assert "layers" not in prepare_sweep(tiny, 4000, EvaluationOptions(), alone).config
