"""Do the corrected means of sampled neurons hold what all windows give?

    python scripts/calibration/sampled_neurons.py --runs RUN TRUTH
    python scripts/calibration/sampled_neurons.py --step 4000 [--draws 300]

RUN is a folder of `rtdyn track --layers all`, TRUTH one of the same with `--exact-neurons F`, F the layer's neurons.
For each step, layer and class the first prints how many neurons RUN only sampled. Then comes the share of them whose
estimate ± `sample_error` holds TRUTH, of mean Δ and of mean |Δ|. The mean error follows, in units of its own standard
error. Last is the largest difference, in nats, of neurons that both measured on all windows.

The second measures all neurons of the bundled suite's earlier layers on all windows, in minutes. Then it draws the
sample again and again. It prints the mean share that was held, and the mean error's mean and standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rtdyn.analyses.earlier_layers.estimate import class_mean
from rtdyn.analyses.earlier_layers.layer import text_pieces
from rtdyn.analyses.earlier_layers.sample import budget_of, draw_sample
from rtdyn.analyses.earlier_layers.sums import exact_sums, first_order_sums, windows_of
from rtdyn.analyses.earlier_layers.trusted_blocks import trusted_blocks
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.names import COMMON, RARE
from rtdyn.store.run import read_run, read_table
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text.evaluation import prepare
from rtdyn.text.options import EvaluationOptions

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
                    standard(off),
                    float(np.abs(found - true)[~sampled].max()),
                )


def standard(errors: np.ndarray) -> float:
    """The mean of errors (n,), in units of its standard error."""
    return float(errors.mean() / (errors.std(ddof=1) / np.sqrt(len(errors))))


def redrawn(step: int, draws: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """By layer, class and number: the shares held (draws,), and the mean errors in standard errors (draws,)."""
    suite = find_suite("tiny", load_suites())
    evaluation = prepare(suite, suite.steps[-1], EvaluationOptions())
    model = load_model(fetch_local(suite, step), "cpu")
    captured = capture(model, evaluation.text, evaluation.positions)
    earlier = capture_earlier(model, evaluation.text, captured, list(range(captured.anatomy.layer)))
    windows, memory = windows_of(captured.positions), StepOptions().memory_bytes
    blocks = trusted_blocks(earlier, windows, memory)
    first = first_order_sums(earlier, windows, memory, blocks)
    everywhere = {layer: np.ones(sums.size.shape, dtype=bool) for layer, sums in first.items()}
    exact = exact_sums(earlier, windows, everywhere, memory, 0, blocks)
    for layer, sums in first.items():
        neurons = sums.size.shape[1]
        budget, rank_by = budget_of(StepOptions.exact_neurons, neurons), sums.classes[RARE].abs_sum.sum(0)
        samples = [draw_sample(sums.size, rank_by, budget, np.random.default_rng(seed)) for seed in range(draws)]
        for of_class in (RARE, COMMON):
            text = text_pieces(of_class, earlier.layers[layer], evaluation.clusters.index, windows)
            for number, kind in zip(COLUMNS, ("sum", "abs_sum"), strict=True):
                by_first, true = getattr(sums.classes[of_class], kind), getattr(exact[layer][of_class], kind)
                size, whole = sums.classes[of_class].abs_sum, true.sum(0) / text.n
                shares, errors = [], []
                for sample in samples:
                    seen = np.where(sample.run_again, true, np.nan)
                    mean = class_mean(by_first, seen, size, np.zeros(neurons), sample, text)
                    off = (mean.value - whole)[~sample.measured]
                    shares.append((np.abs(off) <= mean.sample_error[~sample.measured]).mean())
                    errors.append(standard(off))
                yield f"layer {layer}, {of_class}, {number}", np.array(shares), np.array(errors)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--runs", type=Path, nargs=2, metavar=("RUN", "TRUTH"))
    what.add_argument("--step", type=int, help="of the bundled suite")
    parser.add_argument("--draws", type=int, default=300, help="of the sample, with --step")
    args = parser.parse_args()
    if args.step is not None:
        for name, shares, errors in redrawn(args.step, args.draws):
            print(
                f"{name:40} held {shares.mean():.3f}  mean error {errors.mean():+.2f} se, sd {errors.std(ddof=1):.2f}"
            )
        return
    tables = [read_table(read_run(folder), "neurons") for folder in args.runs]
    last = pl.col("layer") < pl.col("layer").max()
    for row in held(*(table.filter(last) for table in tables)):
        print(
            f"{row.name:40} sampled {row.neurons}  held {row.share:.3f}  mean error {row.mean_error:+.1f} se"
            f"  measured to {row.measured:.1e} nats"
        )


if __name__ == "__main__":
    main()
