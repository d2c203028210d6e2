"""A stored run for a notebook: its tables as polars frames, its trajectories, its scorecard and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from rtdyn.errors import InputError, UsageError
from rtdyn.judge.domains import domain_rows, domain_summary
from rtdyn.judge.observations import is_recorded, read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.judge.scorecard_frame import claim_frame, claims_table
from rtdyn.judge.trajectories import trajectories
from rtdyn.names import RARE
from rtdyn.parquet import read_parquet, scan_parquet
from rtdyn.store.manifest import Manifest
from rtdyn.store.run import MANIFEST, Run, done_steps, table_file, tables_of
from rtdyn.views.terminal.summary import summary_rows

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class RunFrames:
    """The steps that a run held when it was opened; open it again to see more."""

    run: Run
    """The run directory and its manifest, as the other rooms take them."""
    steps: tuple[int, ...]
    """Steps that are stored whole, ascending."""
    is_recorded: bool
    """Whether the manifest knows these steps: not while the run goes on, nor after it was killed."""

    def _repr_html_(self) -> str:
        """What a notebook shows: the run in a line, and the last step's main numbers."""
        if not self.steps:
            return f"<p>{escape(repr(self))}</p>"
        table = self.summary()
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.iter_rows()
        )
        return f"<p>{escape(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

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

    @property
    def domains(self) -> pl.LazyFrame:
        """The rows of `metrics` on further texts, each with its domain. Raises InputError of a run without domains."""
        return self._scan("domains")

    @property
    def domain_neurons(self) -> pl.LazyFrame:
        """A row a domain, neuron and step: influence on each class there, its errors. Raises as `domains`."""
        return self._scan("domain_neurons")

    def domain_summary(self) -> pl.DataFrame:
        """A row a text and band at the last sound step, the main text (domain null) first, as `rtdyn claims` has it."""
        return domain_summary(domain_rows(self.run))

    def trajectories(self) -> pl.DataFrame:
        """The metrics of the steps that are observations of their own. Raises InputError for fewer than three."""
        return trajectories(self.run)

    def claims(self) -> pl.DataFrame:
        """The scorecard: a row for each claim, and for each layer, matrix and sort of heads that it is judged for.

        The column `stand_in` says whether the group `top` is shown in the plateau's place. Raises InputError for fewer
        than three distinct steps.
        """
        return claims_table(scorecard(self.run))

    def claim_checks(self) -> pl.DataFrame:
        """The scorecard, a row for each criterion; `check` 0 is the statistic of the claim. Raises as `claims`."""
        return claim_frame(scorecard(self.run))

    def summary(self) -> pl.DataFrame:
        """The last step's main numbers with their intervals, as text: a row a number, a column a token class."""
        if not self.steps:
            raise InputError(f"{self.path} holds no finished step yet")
        classes, rows = summary_rows(read_parquet(table_file(self.run, "metrics", self.steps[-1])))
        return pl.DataFrame(rows, schema=[f"step {self.steps[-1]}", *classes], orient="row")

    def influence(self, token_class: str = RARE) -> np.ndarray:
        """float64 (steps, F): mean |Δ| of each neuron of the final MLP on a class, in nats, by `steps` and neuron.

        Raises UsageError for a class that the run has no influences on.
        """
        frame = self._final_layer()
        name = f"mean_abs_{token_class}"
        if name not in frame.collect_schema():
            classes = [c.removeprefix("mean_abs_") for c in frame.collect_schema() if c.startswith("mean_abs_")]
            has = f"has them on {', '.join(classes)}" if classes else "has none"
            raise UsageError(f"the run has no influences on {token_class!r}; it {has}")
        values = frame.sort("step", "neuron").select(name).collect().to_series().to_numpy()
        return values.reshape(len(self.steps), -1)

    def neuron(self, neuron: int) -> pl.DataFrame:
        """One neuron of the final MLP through training, a row a step. Raises UsageError if there is no such neuron."""
        rows = self._final_layer().filter(neuron=neuron).sort("step").collect()
        if not rows.height:
            count = self._final_layer().select(pl.col("neuron").max()).collect().item() + 1
            raise UsageError(f"there is no neuron {neuron}; the final MLP has 0 to {count - 1}")
        return rows

    def plot(
        self, name: str = "emergence-influence", at: Sequence[int] | None = None, ax: Axes | None = None
    ) -> Figure:
        """A figure of the run's report, or one of its charts in axes of your own.

        name:
            A figure by its file's name: rank-influence, emergence-groups, regime-sizes and so on. With `ax` a chart by
            its name on the page: loss, excess, kappa and so on.
        at:
            Steps to draw, as for `rtdyn report`.
        ax:
            Axes of yours that one metric over training is drawn into.

        Raises UsageError for a name or step that is not there, and says which are. Raises InputError where the run
        holds nothing to draw.
        """
        # matplotlib is slow to import
        from rtdyn.views.report.figures import draw_panel, one_figure
        from rtdyn.views.report.run_tables import show

        if ax is not None:
            if at is not None:
                raise UsageError("a metric over training has all steps; give ax or at")
            return draw_panel(show(self.run), name, ax)
        return one_figure(show(self.run), name, at)

    def _final_layer(self) -> pl.LazyFrame:
        return self.neurons.filter(pl.col("layer") == pl.col("layer").max())

    def _scan(self, table: str) -> pl.LazyFrame:
        if not self.steps:
            raise InputError(f"{self.path} holds no finished step yet")
        if table not in tables_of(self.run):
            raise InputError(f"{self.path} measures no domains; --domains and --corpus NAME=ADDRESS measure them")
        return scan_parquet([table_file(self.run, table, step) for step in self.steps])


def read_frames(path: Path) -> RunFrames:
    """The run at `path`. Raises InputError if there is none or its store schema is not this version's."""
    run = read_judged(path)
    stored = done_steps(run)
    return RunFrames(run, tuple(stored), is_recorded(run, stored))


def matching(pattern: str) -> list[Path]:
    """The path of this very name, or else the run directories that the pattern names, in order; the name if none."""
    if Path(pattern).exists():
        return [Path(pattern)]
    named = map(Path, glob(pattern))  # noqa: PTH207 - pathlib's own takes no absolute pattern
    return sorted(path for path in named if (path / MANIFEST).is_file()) or [Path(pattern)]


def compare(a: RunFrames, b: RunFrames) -> pl.DataFrame:
    """Every number that both runs hold at a step, a row each: its value and interval in a and b, and b − a.

    The difference has no interval: runs that are measured on the same text are not independent.
    """
    keys = ["step", "analysis", "metric", "token_class", "group", "null", "layer", "head"]
    numbers = ["value", "ci_low", "ci_high"]
    left, right = (
        run.metrics.select(*keys, *(pl.col(n).alias(f"{n}_{name}") for n in numbers))
        for run, name in ((a, "a"), (b, "b"))
    )
    joined = left.join(right, on=keys, how="inner", nulls_equal=True).sort(keys).collect()
    return joined.with_columns(difference=pl.col("value_b") - pl.col("value_a"))
