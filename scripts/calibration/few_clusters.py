"""Does a mean's interval cover where few clusters are skewed? Beside Student's t, BCa and Hall's t with no bound.

    python scripts/calibration/few_clusters.py [--samples 20000]

Samples of 8 to 40 clusters of normal, exponential and lognormal numbers (σ = 0.5 and 1). Prints, by interval, the share
of samples whose 95 % interval holds the mean, and its median and 99th percentile of width in standard errors. Then
clusters of unlike sizes, whose lognormal spread is given, of positions that share a quarter of their variance. Takes
two minutes on one core, nearly all of it for BCa.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtr, ndtri

from rtdyn.analyses.statistics import mean_interval
from rtdyn.intervals import t_quantile

CLUSTERS = (8, 12, 20, 40)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
SHAPES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal, σ = 0.5": (lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125))),
    "lognormal, σ = 1": (lambda rng, shape: rng.lognormal(0, 1, shape), float(np.exp(0.5))),
}
"""By shape, what draws its numbers, and their mean."""
RESAMPLES, BCA_SAMPLES = 1000, 2000
SIZES, MEAN_SIZE = (0.0, 0.5, 1.0, 1.5), 20
"""Standard deviations of the logarithm of clusters' sizes, and their mean."""


def students(sample: np.ndarray) -> np.ndarray:
    """(2, s): ends of Student's t interval; sample (g, s)."""
    mean, reach = sample.mean(0), t_quantile(len(sample)) * sample.std(0, ddof=1) / np.sqrt(len(sample))
    return np.stack([mean - reach, mean + reach])


def unbounded(sample: np.ndarray) -> np.ndarray:
    """(2, s): ends of Hall's interval at the sample's skewness, however large; sample (g, s)."""
    mean, se, q = sample.mean(0), sample.std(0, ddof=1) / np.sqrt(len(sample)), t_quantile(len(sample))
    a = ((sample - mean) ** 3).mean(0) / sample.std(0) ** 3 / np.sqrt(len(sample))
    return np.stack([mean - se * 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1) for t in (q, -q)])


def printed(sample: np.ndarray) -> np.ndarray:
    """(2, s): ends of the interval that a run prints; sample (g, s)."""
    ends = mean_interval(torch.from_numpy(sample), torch.ones(len(sample), dtype=torch.float64))
    return np.array(ends, dtype=np.float64).T


def bca(sample: np.ndarray) -> np.ndarray:
    """(2, s): Efron's bias-corrected and accelerated bootstrap interval; sample (g, s)."""
    rng, g = np.random.default_rng(1), len(sample)
    ends = []
    for column in sample.T:
        drawn = np.sort(rng.multinomial(g, np.full(g, 1 / g), RESAMPLES) @ column / g)
        residual = column - column.mean()
        bias = ndtri(np.clip((drawn < column.mean()).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES))
        acceleration = (residual**3).sum() / (6 * (residual**2).sum() ** 1.5)
        shifted = bias + ndtri([0.025, 0.975])
        ends.append(np.quantile(drawn, ndtr(bias + shifted / (1 - acceleration * shifted))))
    return np.array(ends).T


INTERVALS = {"t": students, "BCa": bca, "Hall, no bound": unbounded, "printed": printed}


def covered_of_unlike_sizes(clusters: int, spread: float, samples: int) -> float:
    """Share of samples whose printed interval holds the mean, positions being normal around their cluster's mean."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(samples):
        sizes = np.maximum(1, (MEAN_SIZE * rng.lognormal(-(spread**2) / 2, spread, clusters)).round())
        means = rng.normal(0, 0.5, clusters) + rng.normal(0, np.sqrt(0.75 / sizes))
        ((low, high),) = mean_interval(torch.from_numpy(sizes * means)[:, None], torch.from_numpy(sizes))
        covered += int(low is not None and high is not None and low <= 0 <= high)
    return covered / samples


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    args = parser.parse_args()
    print(f"{'':22}" + "".join(f"{name:>26}" for name in INTERVALS))
    for shape, (draw, mean) in SHAPES.items():
        for clusters in CLUSTERS:
            sample = draw(np.random.default_rng(0), (clusters, args.samples))
            se = sample.std(0, ddof=1) / np.sqrt(clusters)
            line = f"{shape:19}{clusters:3}"
            for name, interval in INTERVALS.items():
                some = slice(None, BCA_SAMPLES if name == "BCa" else None)
                low, high = interval(sample[:, some])
                width = (high - low) / se[some]
                covered = np.mean((low <= mean) & (mean <= high))
                line += f"{covered:12.3f} ({np.median(width):4.1f}, {np.quantile(width, 0.99):4.1f})"
            print(line, flush=True)
    print("\nprinted, sizes of spread" + "".join(f"{clusters:9}" for clusters in CLUSTERS))
    for spread in SIZES:
        shares = [covered_of_unlike_sizes(clusters, spread, BCA_SAMPLES) for clusters in CLUSTERS]
        print(f"{spread:24}" + "".join(f"{share:9.3f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
