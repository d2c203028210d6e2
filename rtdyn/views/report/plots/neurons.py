"""Neurons over training: who is influential and in which regime, and a table of the most influential ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from rtdyn.names import CENSORED, COMMON, DECAY, FLATTENING_TOP, POWER_LAW, RAISED_TOP, RARE
from rtdyn.store.schema import STABLE
from rtdyn.undefined import Undefined
from rtdyn.views.number import number
from rtdyn.views.report.plots.influence import NO_INFLUENCE
from rtdyn.views.report.plots.style import plain, short_step, styled, title, wrapped
from rtdyn.views.report.run_tables import RunTables

ROWS = 256
"""Neurons in the heat map, at most."""
TABLE_ROWS = 20
REGIMES = (
    ("stable plateau", "#7a0177"),
    (RAISED_TOP, "#CC79A7"),
    (FLATTENING_TOP, "#e3c9d9"),
    ("power law", "#9ecae1"),
    ("rapid decay", "#dedede"),
    ("censored", "#ffffff"),
)
"""What a neuron is at a step, with its colour in the map."""
TABLE_COLUMNS = ("rank", "neuron", "influence on rare (nats)", "on common (nats)", "rank on common", "Δ rare (nats)",
                 "regime", "in plateau (halves)", "mediated share")  # fmt: skip
NONE = "—"


def heat_map_neurons(shown: RunTables, rows: int = ROWS) -> list[int]:
    """Those neurons that came highest at any step, `rows` at most, in order of their influence at the last step."""
    ranked = shown.neurons.with_columns(
        shown.influence(RARE).rank("ordinal", descending=True).over("step").alias("place")
    )
    best = ranked.group_by("neuron").agg(pl.col("place").min(), pl.col("place").sort_by("step").last().alias("now"))
    return best.sort("place", "neuron").head(rows).sort("now")["neuron"].to_list()


def influence_matrix(shown: RunTables, neurons: Sequence[int]) -> np.ndarray:
    """float64 (neurons, steps): influence on rare, NaN where it is 0."""
    influence = _pivot(shown, neurons, shown.influence(RARE))
    return np.where(influence > 0, influence, np.nan)


def regime_matrix(shown: RunTables, neurons: Sequence[int]) -> np.ndarray | None:
    """float64 (neurons, steps): index into REGIMES, NaN where the fit is undefined; None without the analysis."""
    if "regime" not in shown.neurons.columns:
        return None
    code = {RAISED_TOP: 1, FLATTENING_TOP: 2, POWER_LAW: 3, DECAY: 4, CENSORED: 5}
    regime = (
        pl.when(pl.col("stable_share") > STABLE)
        .then(0)
        .otherwise(pl.col("regime").replace_strict(code, default=None, return_dtype=pl.Int32))
    )
    return _pivot(shown, neurons, regime)


def _pivot(shown: RunTables, neurons: Sequence[int], value: pl.Expr) -> np.ndarray:
    steps = shown.steps
    values = shown.neurons.filter(pl.col("neuron").is_in(list(neurons))).select(
        "step", "neuron", value.cast(pl.Float64).alias("value")
    )
    result = np.full((len(neurons), len(steps)), np.nan)
    place, column = ({v: i for i, v in enumerate(values)} for values in (neurons, steps))
    rows = [place[n] for n in values["neuron"]]
    columns = [column[s] for s in values["step"]]
    result[rows, columns] = values["value"].fill_null(float("nan")).to_numpy()
    return result


def heat_map(runs: Sequence[RunTables], width: float | None = None) -> Figure | Undefined:
    """Influence on rare and regime of the neurons that came highest, over all steps; a row of axes a run.

    Runs of weights alone are passed over; where there is no other, why there is no figure.
    """
    runs = [run for run in runs if run.classes]
    if not runs:
        return NO_INFLUENCE
    with styled():
        matrices = [(run, heat_map_neurons(run)) for run in runs]
        with_regimes = any("regime" in run.neurons.columns for run in runs)
        columns = 1 + with_regimes
        figure, flat = wrapped(columns * len(runs), 4.4, 4.2, width, columns)
        rows = [flat[i : i + columns] for i in range(0, len(flat), columns)]
        for row, (run, neurons) in zip(rows, matrices, strict=True):
            logs = np.log10(influence_matrix(run, neurons))
            image = row[0].imshow(logs, aspect="auto", interpolation="nearest", cmap="cividis")
            step_columns(row[0], run)
            total = run.neurons["neuron"].n_unique()
            row[0].set_xlabel("step")
            row[0].set_ylabel(
                f"the {len(neurons)} of {total:,} neurons that ranked highest\nat any step, by influence at the last"
            )
            title(row[0], f"{plain(run.label)}: influence on rare tokens (log₁₀ nats)")
            figure.colorbar(image, ax=row[0], pad=0.02)
            regimes = regime_matrix(run, neurons)
            if with_regimes and regimes is not None:
                _regimes(figure, row[1], regimes, run)
            elif with_regimes:
                row[1].set_axis_off()
    return figure


def _regimes(figure: Figure, ax: Axes, regimes: np.ndarray, run: RunTables) -> None:
    colours = ListedColormap([colour for _, colour in REGIMES])
    norm = BoundaryNorm(np.arange(-0.5, len(REGIMES)), len(REGIMES))
    image = ax.imshow(regimes, aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    ax.set_facecolor("black")
    step_columns(ax, run)
    ax.set_yticklabels([])
    ax.set_title("regime of the rare curve" + (" (black: no fit)" if np.isnan(regimes).any() else ""))
    ax.set_xlabel("step")
    bar = figure.colorbar(image, ax=ax, pad=0.02, ticks=range(len(REGIMES)))
    bar.set_ticklabels([name for name, _ in REGIMES])
    bar.ax.tick_params(length=0)
    bar.ax.invert_yaxis()


def step_columns(ax: Axes, run: RunTables) -> None:
    """A column a step, whatever its distance; steps left out carry a cross."""
    steps = run.steps
    every = max(1, -(-len(steps) // 9))
    places = list(range(0, len(steps), every))
    ax.set_xticks(places, [short_step(steps[i]) for i in places])
    ax.grid(visible=False)
    flawed = [i for i, step in enumerate(steps) if step in run.left_out]
    if flawed:
        ax.plot(flawed, [1.01] * len(flawed), transform=ax.get_xaxis_transform(), color="black", ls="", marker="x",
                ms=3.5, clip_on=False)  # fmt: skip


def neuron_rows(shown: RunTables, step: int, rows: int = TABLE_ROWS) -> list[dict[str, Any]]:
    """The most influential neurons on rare at a step, by TABLE_COLUMNS; None where the store has no number.

    Numbers have half of their 95 % interval beside them.
    """
    frame, reach = shown.neurons.filter(step=step), shown.reach(step, RARE)
    common = COMMON if COMMON in shown.classes else None
    frame = frame.with_columns(
        shown.influence(RARE).alias("_influence"),
        shown.influence_error(step, RARE).alias("_error"),
        shown.influence(RARE).rank("ordinal", descending=True).alias("_rank"),
        *(
            [
                shown.influence(common).alias("_common"),
                shown.influence_error(step, common).alias("_common_error"),
                shown.influence(common).rank("ordinal", descending=True).alias("_common_rank"),
            ]
            if common
            else []
        ),
    ).sort("_rank")
    result = []
    for row in frame.head(rows).to_dicts():
        result.append(
            {
                "rank": row["_rank"],
                "neuron": row["neuron"],
                "influence": (row["_influence"], row["_error"]),
                "common": (row["_common"], row["_common_error"]) if common else None,
                "rank_common": row.get("_common_rank"),
                "delta": (row[f"delta_{RARE}"], _scaled(reach, row[f"se_{RARE}"])),
                "regime": row.get("regime"),
                "stable_share": row.get("stable_share"),
                "mediation": (row.get(f"mediation_{RARE}"), _scaled(reach, row.get(f"se_mediation_{RARE}"))),
            }
        )
    return result


def _scaled(reach: float, se: float | None) -> float | None:
    return None if se is None else reach * se


def cells(row: dict[str, Any]) -> list[str]:
    """One neuron as text, in the order of TABLE_COLUMNS; a dash where there is no number."""
    return [
        str(row["rank"]),
        str(row["neuron"]),
        with_interval(*row["influence"]),
        NONE if row["common"] is None else with_interval(*row["common"]),
        NONE if row["rank_common"] is None else str(row["rank_common"]),
        with_interval(*row["delta"]),
        {POWER_LAW: "power law", DECAY: "rapid decay", None: NONE}.get(row["regime"], row["regime"]),
        NONE if row["stable_share"] is None else f"{row['stable_share']:.0%}",
        with_interval(*row["mediation"]),
    ]


def with_interval(value: float | None, error: float | None) -> str:
    """A number with the interval that reaches `error` to either side of it, if that is known."""
    if value is None or not math.isfinite(value):
        return NONE
    if error is None or not 0 < error < math.inf:
        return number(value)
    return number(value, value - error, value + error)
