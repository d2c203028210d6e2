"""How every figure looks: colours for colour-blind readers too, axes that show step 0, how files are written."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from rtdyn.files import replace_file
from rtdyn.names import COMMON, PLATEAU, RARE, TOP
from rtdyn.views.report.plots.fonts import families

OKABE_ITO = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "black": "#000000",
}
"""Okabe & Ito (2008), Color Universal Design; without yellow, which is too pale for lines on white."""
RUN_COLOURS = tuple(OKABE_ITO[c] for c in ("blue", "vermilion", "green", "purple", "orange", "sky", "black"))
COLOURS = {
    RARE: OKABE_ITO["vermilion"],
    COMMON: OKABE_ITO["blue"],
    TOP: OKABE_ITO["green"],
    PLATEAU: OKABE_ITO["purple"],
    "layer -1": OKABE_ITO["orange"],
    "layer -2": OKABE_ITO["sky"],
    "layer -3": OKABE_ITO["green"],
    "layer -4": OKABE_ITO["purple"],
    "matrix in": OKABE_ITO["orange"],
    "matrix gate": OKABE_ITO["orange"],
    "matrix up": OKABE_ITO["sky"],
    "matrix out": OKABE_ITO["black"],
}
NULL = "#9a9a9a"
LINE_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))
COLUMN = {"single": 3.5, "double": 7.2}
"""Inches of a figure as wide as one column of a journal, and as wide as two: 89 and 183 mm."""
FORMATS = ("png", "pdf", "svg")
DPI = 160
LONGEST = 64
_RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rtdyn",
    "savefig.dpi": DPI,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for the figures made inside, put back afterwards."""
    # the reader's own fonts have the characters that ours lack
    settings: dict[Any, Any] = {**_RC, "font.family": [*families(), *mpl.rcParams["font.family"]]}
    with mpl.rc_context(settings):
        yield


class NotebookFigure(Figure):
    """A figure that no window holds, and that a notebook shows whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        with styled():
            self.savefig(file, format="png")
        return file.getvalue()


def grid(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns); width and height of one, in inches."""
    figure = NotebookFigure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def wrapped(
    count: int, width: float, height: float, total: float | None, most: int | None = None, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure and `count` axes in rows, for `width` and `height` inches each.

    total: inches of the whole figure, whose rows hold as many axes as fit at two thirds of their width. By default up
    to `most` stand in a row, at their own width. Places that are left over stay empty.
    """
    columns = min(count, most or count)
    if total is not None:
        columns = max(1, min(columns, int(total // (2 / 3 * width))))
    rows = math.ceil(count / columns)
    figure, axes = grid(rows, columns, width if total is None else total / columns, height, **shared)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:count])


def label_edges(axes: Sequence[Axes], x: str, y: str) -> None:
    """Names the shared axes of `wrapped` once: x below the lowest axes of each column, y beside the first."""
    columns = axes[0].get_gridspec().ncols  # type: ignore[union-attr]  # axes of subplots have one
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(y)
        if i + columns >= len(axes):
            ax.set_xlabel(x)
            ax.tick_params(labelbottom=True)


def title(ax: Axes, text: str) -> None:
    """An axis's title, each line of it in as many as the axis has room for."""
    figure, columns = ax.get_figure(root=True), ax.get_gridspec().ncols  # type: ignore[union-attr]  # as above
    assert figure is not None
    room = int(figure.get_size_inches()[0] / columns * 10.5)
    ax.set_title("\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, room)))


def head(figure: Figure, title: str, *, capital: bool = False) -> None:
    """The figure's title, in lines that it has room for. capital: it begins with no name of a run."""
    if capital:
        title = title[0].upper() + title[1:]
    room = int(figure.get_size_inches()[0] * 13)
    figure.suptitle("\n".join(textwrap.wrap(title, room)), fontsize=9, fontweight="bold")


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """What is drawn, below the axes, in as many columns as the figure has room for."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = int(figure.get_size_inches()[0] / (0.062 * longest + 0.45))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=max(1, min(columns, 4, len(handles))))


def plain(text: str) -> str:
    """Text from outside, whose dollars are no formula, in one line of at most LONGEST characters."""
    line = " ".join(text.split())
    return (line if len(line) <= LONGEST else line[: LONGEST - 1] + "…").replace("$", r"\$")


def run_colour(index: int) -> str:
    """The colour of the index-th of several runs."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def step_axis(axes: Axes, steps: Iterable[int]) -> None:
    """Steps on a scale that is linear to 1 and logarithmic beyond, so that step 0 has a place."""
    at = sorted(set(steps))
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(at[0] - 0.15, max(1, at[-1]) * 1.15)
    ticks = [0, *(10**k for k in range(7) if 10**k <= at[-1])]
    axes.set_xticks(ticks, labels=[short_step(t) for t in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("step")


def short_step(step: int) -> str:
    """A step in few characters: 143k, 512."""
    return f"{step // 1000}k" if step >= 1000 and step % 1000 == 0 else str(step)


class _Powers(LogFormatterSciNotation):
    """Powers of ten in plain characters, as a formula takes ten times as long to be drawn."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        raised = re.sub(r"\^\{(.*)\}", lambda exponent: exponent[1].translate(_RAISED), formula)
        return raised.replace(r"\times", "×").replace("-", "−")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_scale(axes: Axes, which: str) -> None:
    """Makes the axes named in `which`, of x and y, logarithmic."""
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in which:
            axes.set(**{f"{name}scale": "log"})
            axis.set_major_formatter(_Powers())
            axis.set_minor_formatter(_Powers())


def symlog(axes: Axes, values: np.ndarray) -> None:
    """A y axis for values of both signs, linear up to the power of ten next below half their largest size.

    It stays linear where values of one sign lie within a factor of ten.
    """
    known = values[np.isfinite(values)]
    sizes = np.abs(known)
    largest = float(sizes.max(initial=0))
    if largest == 0 or (np.ptp(np.sign(known)) == 0 and largest < 10 * sizes.min()):
        return
    axes.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(largest / 2)), linscale=1)
    axes.yaxis.set_major_formatter(_Powers())


_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": "rtdyn"},
    "pdf": {"Creator": "rtdyn", "CreationDate": None},
    "svg": {"Creator": "rtdyn", "Date": None},
}


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = FORMATS[:2]) -> list[Path]:
    """Writes the figure in each of FORMATS, whole or not at all, and the same bytes for the same data."""
    files = []
    with styled():
        # once for all files, and without an engine none is drawn an extra time to find the layout
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in formats:
            file = folder / f"{name}.{kind}"
            replace_file(file, partial(figure.savefig, format=kind, metadata=_METADATA[kind]))
            files.append(file)
    return files
