"""What a view shows of one run: its tables as frames, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from rtdyn.intervals import t_quantile
from rtdyn.judge.trajectories import MIN_STEPS
from rtdyn.names import COMMON, RARE
from rtdyn.store.run import Run, read_table
from rtdyn.store.schema import CURVE_SCHEMA
from rtdyn.sweep.paper import OWN, PAPER

LABEL = 48
"""Characters of a label that names settings; a longer one names the run's directory instead."""
DERIVED = ("suite", "location", "evaluation_set", "domains")
"""Parts of a configuration that follow from others."""


@dataclass(frozen=True)
class RunTables:
    """One run's frames over all of its stored steps, in the form of the store's tables."""

    label: str
    """The run's name among others."""
    run: Run
    metrics: pl.DataFrame
    neurons: pl.DataFrame
    curves: pl.DataFrame
    earlier_neurons: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Rows of neurons/ of layers before the last."""

    @property
    def left_out(self) -> Mapping[int, str]:
        """Steps that trajectories leave out, each with the reason."""
        return self.run.manifest.left_out

    @cached_property
    def steps(self) -> list[int]:
        """All stored steps, ascending."""
        return self.metrics["step"].unique().sort().to_list()

    @property
    def sound_steps(self) -> list[int]:
        """Those that are observations of their own."""
        return [step for step in self.steps if step not in self.left_out]

    @property
    def last(self) -> int:
        """The step that stands for the run: the last sound one, or the last where none is."""
        return (self.sound_steps or self.steps)[-1]

    def spread(self, count: int) -> list[int]:
        """Up to `count` sound steps, the first and the last among them, that divide the list evenly."""
        steps = self.sound_steps or self.steps
        places = {round(i * (len(steps) - 1) / max(count - 1, 1)) for i in range(count)}
        return [steps[i] for i in sorted(places)]

    def named(self, step: int) -> str:
        """A step as figures name it, with a mark where trajectories leave it out."""
        return f"step {step:,}" + (" (left out)" if step in self.left_out else "")

    @property
    def has_trajectories(self) -> bool:
        """Whether there are steps enough for a trajectory."""
        return len(self.sound_steps) >= MIN_STEPS

    @property
    def layer(self) -> int | None:
        """The layer whose neurons are measured: the last, where there are several."""
        return self.neurons["layer"].max() if self.neurons.height else None  # type: ignore[return-value]  # an Int64 column

    @property
    def classes(self) -> list[str]:
        """Token classes with influences, `rare` and `common` first; none in a run of weights alone."""
        with_influence = [c.removeprefix("mean_abs_") for c in self.neurons.columns if c.startswith("mean_abs_")]
        named = [c for c in with_influence if not c.startswith("frozen_")]
        return sorted(named, key=lambda c: (c != RARE, c != COMMON, named.index(c)))

    def influence(self, token_class: str) -> pl.Expr:
        """The influence that ranks neurons, as the run was told."""
        return pl.col(f"delta_{token_class}").abs() if self._ranks_by_mean else pl.col(f"mean_abs_{token_class}")

    def influence_error(self, step: int, token_class: str) -> pl.Expr:
        """Half of its 95 % interval at a step."""
        return self.reach(step, token_class) * pl.col(f"{'se' if self._ranks_by_mean else 'se_abs'}_{token_class}")

    def reach(self, step: int, token_class: str) -> float:
        """Standard errors on either side of a neuron's number: Student's t of the class's clusters; NaN without."""
        return t_quantile(self._clusters.get((step, token_class)) or 1)

    @cached_property
    def _clusters(self) -> dict[tuple[int, str], int | None]:
        rows = self.metrics.filter(analysis="ablation", metric="influence_mean")
        return {(step, name): n for step, name, n in rows.select("step", "token_class", "clusters").iter_rows()}

    @property
    def _ranks_by_mean(self) -> bool:
        """Whether neurons rank by |mean Δ|, not by mean |Δ|."""
        return self.run.manifest.config.get("rank_by") == "abs_mean"

    def value(self, step: int, metric: str, token_class: str) -> float | None:
        """One number of the analysis `regimes` at a step; None where it is undefined or was not asked for."""
        return self._regimes.get((step, metric, token_class))

    @cached_property
    def _regimes(self) -> dict[tuple[int, str, str], float | None]:
        rows = self.metrics.filter(analysis="regimes").select("step", "metric", "token_class", "value")
        return {(step, metric, token_class): value for step, metric, token_class, value in rows.iter_rows()}


_DESIGN = {OWN: "rtdyn's design", PAPER: "the papers' design"}


def show(run: Run, label: str | None = None) -> RunTables:
    """Reads a run's tables. Raises InputError if no step is done."""
    neurons = read_table(run, "neurons")
    layer = neurons["layer"].max()
    curves = pl.concat([pl.DataFrame(schema=CURVE_SCHEMA), read_table(run, "curves")])
    return RunTables(
        label or run.manifest.suite,
        run,
        read_table(run, "metrics"),
        neurons.filter(pl.col("layer") == layer),
        curves,
        neurons.filter(pl.col("layer") < layer),
    )


def labels(runs: list[Run]) -> list[str]:
    """A name for each run: its suite; where runs share it, its design, few settings that differ, or its directory."""
    suites = [run.manifest.suite for run in runs]
    if len(set(suites)) == len(suites):
        return suites
    designed = [f"{run.manifest.suite}, {_DESIGN.get(run.manifest.design, '')}" for run in runs]
    if all(run.manifest.design in _DESIGN for run in runs) and len(set(designed)) == len(designed):
        return designed
    configs = [run.manifest.config for run in runs]
    differing = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if key not in DERIVED and len({repr(config.get(key)) for config in configs}) > 1
    ]
    named = [
        ", ".join([suite, *(f"{key} {config.get(key)}" for key in differing)])
        for suite, config in zip(suites, configs, strict=True)
    ]
    if len(set(named)) == len(named) and max(map(len, named)) <= LABEL:
        return named
    folders = [run.path.resolve() for run in runs]
    are_distinct = len({folder.name for folder in folders}) == len(folders)
    return [
        f"{suite} ({folder.name if are_distinct else folder})" for suite, folder in zip(suites, folders, strict=True)
    ]
