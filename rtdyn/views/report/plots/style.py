"""How every figure looks: colours for colour-blind readers too, axes that show step 0, how files are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rtdyn.files import replace_file
from rtdyn.names import COMMON, PLATEAU, RARE, TOP

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
    "savefig.dpi": DPI,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for the figures made inside, put back afterwards."""
    with mpl.rc_context(_RC):  # type: ignore[arg-type]  # the stubs list the keys as literals
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


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes the figure as PNG and PDF, each whole or not at all, and the same bytes for the same data."""
    files = []
    for kind in ("png", "pdf"):
        file = folder / f"{name}.{kind}"
        metadata = {"Software": "rtdyn"} if kind == "png" else {"Creator": "rtdyn", "CreationDate": None}
        with styled():
            replace_file(file, partial(figure.savefig, format=kind, metadata=metadata))
        # the second file takes the first one's layout, which is most of the time
        figure.set_layout_engine("none")
        files.append(file)
    return files
