"""Do the corrected means of sampled neurons hold what all windows give? From two runs of the same text.

    python scripts/calibration/sampled_neurons.py RUN TRUTH

RUN is a folder of `rtdyn track --layers all`, TRUTH one of the same with `--exact-neurons F`, F the layer's neurons.
For each step, layer and class it prints how many neurons RUN only sampled. Then comes the share of them whose estimate
± `sample_error` holds TRUTH, of mean Δ and of mean |Δ|. The mean error follows, in units of its own standard error.
Last is the largest difference, in nats, of neurons that both measured on all windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rtdyn.names import COMMON, RARE
from rtdyn.store.run import read_run, read_table

COLUMNS = {"mean Δ": ("delta", "sample_error"), "mean |Δ|": ("mean_abs", "sample_error_abs")}


@dataclass(frozen=True)
class Held:
    """Of one step, layer, class and number."""

    name: str
    neurons: int
    """That were only sampled."""
    share: float
    """Of them whose interval holds the truth."""
    mean_error: float
    """In units of its standard error, over neurons."""
    measured: float
    """Nats, the largest difference of the others."""


def held(run: pl.DataFrame, truth: pl.DataFrame) -> Iterator[Held]:
    """run, truth: the tables of neurons, of the same steps and layers."""
    both = run.join(truth, on=["step", "layer", "neuron"], suffix="_true", maintain_order="left")
    for (step, layer), rows in both.group_by("step", "layer", maintain_order=True):
        sampled = (rows["measured"] != "all windows").to_numpy()
        for of_class in (RARE, COMMON):
            for number, (value, error) in COLUMNS.items():
                found, true, width = (
                    rows[f"{name}_{of_class}{of}"].to_numpy()
                    for name, of in ((value, ""), (value, "_true"), (error, ""))
                )
                off = (found - true)[sampled]
                yield Held(
                    f"step {step}, layer {layer}, {of_class}, {number}",
                    int(sampled.sum()),
                    float((np.abs(off) <= width[sampled]).mean()),
                    float(off.mean() / (off.std(ddof=1) / np.sqrt(len(off)))),
                    float(np.abs(found - true)[~sampled].max()),
                )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("truth", type=Path)
    args = parser.parse_args()
    tables = [read_table(read_run(folder), "neurons") for folder in (args.run, args.truth)]
    last = pl.col("layer") < pl.col("layer").max()
    for row in held(*(table.filter(last) for table in tables)):
        print(
            f"{row.name:40} sampled {row.neurons}  held {row.share:.3f}  mean error {row.mean_error:+.1f} se"
            f"  measured to {row.measured:.1e} nats"
        )


if __name__ == "__main__":
    main()
