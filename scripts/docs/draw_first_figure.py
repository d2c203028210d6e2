"""Draws docs/first-figure.png, the README's figure, from a run of the bundled suite.

    python scripts/docs/draw_first_figure.py RUN

The figure of `rtdyn report` has fits, intervals and their terms. This one has the curves and the null band alone, in
words that need no glossary.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import rtdyn
from rtdyn.names import COMMON, RARE
from rtdyn.store.schema import PSEUDO_INFLUENCE
from rtdyn.views.report.plots.style import COLOURS, NULL

STEPS = (0, 32, 1000, 4000)
FIGURE = Path(__file__).parents[2] / "docs/first-figure.png"
BAND = "where rare words would lie, were they like common ones"


def draw(run: Path, to: Path) -> None:
    """A panel a step: all neurons by rank, on rare and on common words, and the band of common words in their place."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    frames = rtdyn.open_run(run)
    at = [frames.steps.index(step) for step in STEPS]
    influence = {name: -np.sort(-frames.influence(name)[at]) for name in (COMMON, RARE)}
    bands = frames.curves.filter(kind=PSEUDO_INFLUENCE).sort("x").collect()
    figure, axes = plt.subplots(1, len(STEPS), figsize=(11, 2.9), sharey=True, layout="constrained")
    for k, (panel, step) in enumerate(zip(axes, STEPS, strict=True)):
        band = bands.filter(step=step)
        panel.fill_between(band["x"], band["low"], band["high"], color=NULL, alpha=0.45, lw=0, label=BAND)
        for name, ranked in influence.items():
            panel.plot(1 + np.arange(ranked.shape[1]), ranked[k], color=COLOURS[name], label=f"{name} words")
        panel.set(xscale="log", yscale="log", title=f"training step {step:,}", xlabel="neurons, most influential first")
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of the loss")
    axes[0].set_ylim(bottom=np.quantile(influence[RARE], 0.005))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(to, dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), FIGURE)
