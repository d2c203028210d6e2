"""A stored run for a notebook: its tables as polars frames, its trajectories, its scorecard and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from rtdyn.errors import InputError
from rtdyn.judge.observations import is_recorded, read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.judge.scorecard_frame import claim_frame, claims_table
from rtdyn.judge.trajectories import trajectories
from rtdyn.parquet import scan_parquet
from rtdyn.store.manifest import Manifest
from rtdyn.store.run import Run, done_steps, table_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class RunFrames:
    """The steps that a run held when it was opened; open it again to see more."""

    run: Run
    steps: tuple[int, ...]
    """Steps that are stored whole, ascending."""
    is_recorded: bool
    """Whether the manifest knows these steps: not while the run goes on, nor after it was killed."""

    def __repr__(self) -> str:
        held = "no finished step yet"
        if self.steps:
            ends = f"{self.steps[0]} to {self.steps[-1]}" if len(self.steps) > 1 else f"{self.steps[0]}"
            held = f"{len(self.steps)} finished step{'s' if len(self.steps) > 1 else ''} ({ends})"
        state = "" if self.is_recorded else ", still running or cut off"
        left_out = f", {len(self.left_out)} left out of trajectories" if self.left_out else ""
        return f"<rtdyn run {self.manifest.suite}: {held}{left_out}{state}; {self.path}>"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def manifest(self) -> Manifest:
        """manifest.json: configuration, evaluation text, classes, versions."""
        return self.run.manifest

    @property
    def left_out(self) -> Mapping[int, str]:
        """Stored steps that are no observations of their own, each with the reason."""
        return {step: why for step, why in self.manifest.left_out.items() if step in self.steps}

    @property
    def metrics(self) -> pl.LazyFrame:
        """A row a number: analysis, metric, class, group, value, interval, null (columns of store.METRIC_SCHEMA)."""
        return self._scan("metrics")

    @property
    def neurons(self) -> pl.LazyFrame:
        """A row a neuron of the final MLP and step: influence on each class, its errors, rank, regime."""
        return self._scan("neurons")

    @property
    def windows(self) -> pl.LazyFrame:
        """Sums of influence by evaluation window and by frequency decile."""
        return self._scan("windows")

    @property
    def curves(self) -> pl.LazyFrame:
        """Lines to draw: attention profiles, spectra, the pseudo-classes' ranked influence."""
        return self._scan("curves")

    def trajectories(self) -> pl.DataFrame:
        """The metrics of the steps that are observations of their own. Raises InputError for fewer than three."""
        return trajectories(self.run)

    def claims(self) -> pl.DataFrame:
        """The scorecard, a row a claim, of each layer and matrix that it is made of.

        `stand_in`: whether the group `top` is shown in the plateau's place. Raises InputError for fewer than three
        distinct steps.
        """
        return claims_table(scorecard(self.run))

    def claim_checks(self) -> pl.DataFrame:
        """The scorecard, a row a criterion; `check` 0 is the statistic of the claim. Raises as `claims`."""
        return claim_frame(scorecard(self.run))

    def plot(self, name: str = "emergence-influence", at: Sequence[int] | None = None) -> Figure:
        """A figure of the run's report, by its file's name: rank-influence, emergence-groups, regime-sizes and so on.

        at: steps, as for `rtdyn report`. Raises UsageError for a name or step that is not there, naming those that are,
        and InputError where the run holds nothing to draw.
        """
        # matplotlib is slow to import
        from rtdyn.views.report.figures import one_figure
        from rtdyn.views.report.run_tables import show

        return one_figure(show(self.run), name, at)

    def _scan(self, table: str) -> pl.LazyFrame:
        if not self.steps:
            raise InputError(f"{self.path} holds no finished step yet")
        return scan_parquet([table_file(self.run, table, step) for step in self.steps])


def read_frames(path: Path) -> RunFrames:
    """The run at `path`. Raises InputError if there is none or its store schema is not this version's."""
    run = read_judged(path)
    stored = done_steps(run)
    return RunFrames(run, tuple(stored), is_recorded(run, stored))
