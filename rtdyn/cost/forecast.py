"""How long a sweep will still take, from its first seconds on: by the stages of `rtdyn plan`, then by its own steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.capture.memory_need import Sample, sample_of
from rtdyn.cost.machine import seconds_on
from rtdyn.cost.plan import further_seconds, stage_operations
from rtdyn.errors import InputError
from rtdyn.model.sizes import model_shape
from rtdyn.sweep.sweep import Sweep

CALIBRATION = 0.03
"""Seconds of each measurement of this machine, of which there are six: a sweep is not to wait for its forecast."""


@dataclass
class Forecast:
    """Told each stage as it ends and each step as it is stored."""

    expected: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage of a step; empty where none are known."""
    ended: dict[str, float] = field(default_factory=dict)
    """Seconds that the stages of the first step took which have ended."""
    steps: int = 0
    seconds: float = 0.0
    """Steps stored so far, and the seconds from the first one's beginning to the last one's end."""

    def left(self, steps: int, since: float) -> float | None:
        """Seconds for so many steps that are not stored, of which one began `since` seconds ago; None if unknown."""
        if self.steps:
            each = self.seconds / self.steps
        elif self.expected:
            each = max(sum(self.expected.values()) * self._pace(), since)
        else:
            return None
        return max(each * steps - since, 0.0)

    def _pace(self) -> float:
        """How many times as long as expected a step will take, by the stages that have ended.

        They count beside a whole step as expected. A short stage that took long, as the first load of a process does,
        says little of the others.
        """
        known = [stage for stage in self.ended if stage in self.expected]
        whole, expected = sum(self.expected.values()), sum(self.expected[stage] for stage in known)
        return (sum(self.ended[stage] for stage in known) + whole) / (expected + whole)


def expected_seconds(sweep: Sweep) -> dict[str, float]:
    """Seconds of each stage of one step here, as `rtdyn plan` has them; none where the shape is not known."""
    try:
        model = model_shape(sweep.model_config, sweep.suite.location)
    except InputError:  # what is wrong with the model is said where it is loaded
        return {}
    sample: Sample | None = None
    domains: tuple[Sample, ...] = ()
    if sweep.evaluation is not None:
        sample = sample_of(sweep.evaluation)
        domains = tuple(map(sample_of, sweep.evaluation.domains.values()))
    seconds_of = seconds_on(sweep.options.device, CALIBRATION)
    operations = stage_operations(model, sample, sweep.options, domains)
    further, _ = further_seconds(
        model.neurons,
        sweep.options.analyses,
        sweep.weights_only,
        len(earlier_layers(sweep.options.layers, model.layers)),
        threads=torch.get_num_threads(),
    )
    return {stage: seconds_of(model, needed) for stage, needed in operations.items()} | further
