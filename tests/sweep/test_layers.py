"""Layers that cannot be measured are refused before a sweep begins."""

from __future__ import annotations

from typing import Any

import pytest

from rtdyn.analyses.options import StepOptions
from rtdyn.errors import InputError, UsageError
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.manifest import run_config
from rtdyn.sweep.sweep import prepare_sweep
from rtdyn.text.evaluation import Evaluation
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


def test_numbers_that_rest_on_other_neurons_are_another_run(tiny: SuiteSpec, evaluation: Evaluation) -> None:
    def config(**options: Any) -> dict[str, Any]:
        return run_config(tiny, evaluation, EvaluationOptions(), StepOptions(**options))

    assert config() == config(exact_neurons=64), "the last layer rests on none of them"
    assert config(layers="-1,-2") != config(layers="-1,-2", exact_neurons=64)
