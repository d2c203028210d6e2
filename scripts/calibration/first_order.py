"""Do the intervals of the first order's agreement hold what all neurons give? From runs that measured them all.

    python scripts/calibration/first_order.py RUN… [--drawn 32 100] [--samples 400]

RUN is a folder of `rtdyn track --layers all --exact-neurons F`, with F the layer's neurons. For each step, layer and
class, so many neurons are drawn at random. As many lead by first order, as `--exact-neurons` takes them. Prints the
number of all neurons. Then, by size of the sample, comes the share of samples whose 95 % interval holds it. The mean
error and the median interval follow. `ranking` is of |mean Δ|, which `--rank-by abs_mean` ranks by. Pearson's
correlation and the slope have no interval, and show their mean error and its standard deviation.

Without RUN, layers are planted. In some the first order scatters, of normal and of lognormal effects. In others it is
wrong for a share of the neurons. `reversed` has the wrong sign there, `unrelated` the size of another neuron.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtdyn.analyses.earlier_layers.calibration import Sampled, calibrate, direct_share
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.names import COMMON, RARE
from rtdyn.store.run import read_run, read_table

NEURONS = 512
SCATTER = (0.02, 0.1, 0.3)
"""Standard deviation of the planted first order's error, as part of each effect's size."""
WRONG = (0.004, 0.01, 0.03, 0.06, 0.12)


@dataclass(frozen=True)
class Truth:
    """One class's means of all neurons of a layer, float64 (F,)."""

    name: str
    first_order: np.ndarray
    exact: np.ndarray
    chosen_by: np.ndarray
    """What leads by it is measured too."""
    direct: np.ndarray | None = None


def measured(folder: Path) -> Iterator[Truth]:
    """Raises ValueError where a neuron was only sampled."""
    run = read_run(folder)
    table = read_table(run, "neurons")
    for (step, layer), rows in table.group_by("step", "layer", maintain_order=True):
        if layer == table["layer"].max():
            continue
        if set(rows["measured"]) != {"all windows"}:
            raise ValueError(f"{folder}: layer {layer} was not measured whole; give --exact-neurons {rows.height}")
        by_size = rows[f"first_order_mean_abs_{RARE}"].to_numpy()
        for of_class in (RARE, COMMON):
            first, exact, first_abs, exact_abs, direct = (
                rows[f"{name}_{of_class}"].to_numpy()
                for name in ("first_order_delta", "delta", "first_order_mean_abs", "mean_abs", "direct_delta")
            )
            where = f"step {step}, layer {layer}, {of_class}"
            yield Truth(f"{where}, Δ", first, exact, by_size, direct)
            yield Truth(f"{where}, |Δ|", first_abs, exact_abs, by_size)
            if of_class == RARE:
                by_mean = np.abs(first)
                yield Truth(f"{where}, ranking", by_mean, np.abs(exact), by_mean)


def planted() -> Iterator[Truth]:
    rng = np.random.default_rng(0)
    for kind, exact in (("normal", rng.normal(size=NEURONS)), ("lognormal", rng.lognormal(size=NEURONS))):
        for scatter in SCATTER:
            size = 1.0 if kind == "normal" else exact
            first = exact + scatter * size * rng.normal(size=NEURONS)
            yield Truth(f"{kind}, scatter {scatter}", first, exact, np.abs(first), _direct(exact))
    for share in WRONG:
        size = rng.lognormal(size=NEURONS)
        exact = size * rng.choice([-1, 1], NEURONS)
        for kind in ("unrelated", "reversed"):
            truth = size if kind == "unrelated" else exact
            first = truth * np.exp(0.03 * rng.normal(size=NEURONS))
            wrong = rng.choice(NEURONS, round(share * NEURONS), replace=False)
            first[wrong] = rng.permutation(size)[: len(wrong)] if kind == "unrelated" else -first[wrong]
            yield Truth(f"{share:.1%} {kind}", first, truth, np.abs(first), _direct(truth))


def _direct(exact: np.ndarray) -> np.ndarray:
    """float64 (F,): most of each neuron's own effect, and some of another's."""
    return 0.7 * exact + 0.3 * np.roll(exact, 1)


def numbers(truth: Truth, sample: Sample) -> dict[str, Sampled]:
    """By name, as far as they are defined."""
    exact = np.where(sample.measured, truth.exact, np.nan)
    c = calibrate(truth.first_order, exact, sample)
    found = {"Spearman": c.spearman, "Pearson": c.pearson, "slope": c.slope}
    if truth.direct is not None:
        found["direct share"] = direct_share(truth.direct, exact, sample)
    return {name: number for name, number in found.items() if isinstance(number, Sampled)}


def sample_of(truth: Truth, n: int, rng: np.random.Generator) -> Sample:
    neurons = len(truth.exact)
    uniform = np.sort(rng.choice(neurons, n, replace=False))
    top = np.argsort(-truth.chosen_by, kind="stable")[:n]
    nothing = np.zeros((1, neurons))
    return Sample(top, uniform, nothing, nothing > 0)


def said(found: list[Sampled], value: float) -> str:
    """Coverage, mean error and median interval, or the error and its standard deviation where there is no interval."""
    errors = np.array([number.value - value for number in found])
    ends = np.array([(number.low, number.high) for number in found], dtype=float)
    if np.isnan(ends).any():
        return f"{errors.mean():+.4f} ± {errors.std():.4f}".ljust(32)
    held = np.mean((ends[:, 0] <= value) & (value <= ends[:, 1]))
    low, high = np.median(ends, axis=0)
    return f"{held:.3f} {errors.mean():+.4f} [{low:.3f}, {high:.4f}]".ljust(32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--drawn", nargs="+", type=int, default=[32, 100])
    parser.add_argument("--samples", type=int, default=400)
    args = parser.parse_args()
    for truth in (t for run in args.runs for t in measured(run)) if args.runs else planted():
        rng = np.random.default_rng(0)
        whole = numbers(truth, sample_of(truth, len(truth.exact), rng))
        by_size = [[numbers(truth, sample_of(truth, n, rng)) for _ in range(args.samples)] for n in args.drawn]
        for name, number in whole.items():
            said_of = (said([s[name] for s in samples if name in s], number.value) for samples in by_size)
            print(f"{truth.name:34s}{name:13s}{number.value:8.4f}  {'  '.join(said_of)}", flush=True)


if __name__ == "__main__":
    main()
