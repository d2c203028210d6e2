"""Calibration and power of the regimes' evidence, by simulation: what `tests/analyses` checks, with more draws.

    python scripts/calibration/regime_power.py [--neurons 2048] [--datasets 500] [--draws 999] [--seed 0]

Prints four tables.

- Shape nulls: share of data sets of each shape with p ≤ 0.05 against each shape. Then the share with the largest
  p ≤ 0.05 (at most 5 % is valid). Then the Kolmogorov–Smirnov p of each shape's p-values under itself.
- Noise: the share of each shape with the largest p ≤ 0.01 and ≤ 0.05 where every number is known with a relative error.
- Power: the same for curves whose top 1 % is raised, by the bulk's spread and the height in log units.
- Pseudo-classes: share of p ≤ 0.05 where the rare class is itself a draw of common positions, with and without
  clustering and window effects.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from rtdyn.analyses.regimes.contrast import MAX_OVERLAP, contrast
from rtdyn.analyses.regimes.evidence import SHAPES, ShapeEvidence, log_of_shape, shape_p_values
from rtdyn.analyses.regimes.fit import ThreeSegments, fit_regimes
from rtdyn.analyses.statistics import Comparison
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined

LEVEL = 0.05
TOP_SHARE = 0.01
SPREADS = (0.3, 0.5, 1.0)
NOISES = (0.1, 0.2, 0.4)
"""Relative standard errors of influences; with 200 targets of the bundled suite 90 % lie between 0.07 and 0.31."""
HEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
WINDOWS, LENGTH, RARE = 40, 128, 60


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("neurons", 2048), ("datasets", 500), ("draws", 999), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print_shapes(options.neurons, options.datasets, options.draws, rng)
    print_noise(options.neurons, options.datasets, options.draws, rng)
    print_power(options.neurons, options.datasets, options.draws, rng)
    print_pseudo(options.datasets, rng)


def p_values(log_a: np.ndarray, draws: int) -> dict[str, np.ndarray]:
    """p of each curve log_a (k, F) against each shape, and the largest."""
    nothing = np.zeros(log_a.shape[1])
    found = [shape_p_values(np.exp(row), nothing, draws) for row in log_a]
    results = [f for f in found if isinstance(f, ShapeEvidence)]
    columns = {shape: np.array([r.p_values[shape] for r in results]) for shape in SHAPES}
    return {**columns, "largest": np.array([r.p_value for r in results])}


def shares(p: dict[str, np.ndarray]) -> str:
    """The share of small p-values in each column."""
    return "".join(f"{(values <= LEVEL).mean():>13.3f}" for values in p.values())


def print_shapes(neurons: int, datasets: int, draws: int, rng: np.random.Generator) -> None:
    """Calibration of the shape nulls."""
    from scipy import stats

    print(f"Shape nulls, F = {neurons:,}, {datasets} data sets: share with p <= {LEVEL}")
    print(f"{'data':>14}" + "".join(f"{name:>13}" for name in (*SHAPES, "largest", "KS p")))
    for shape in SHAPES:
        p = p_values(log_of_shape(shape, (datasets, neurons), rng), draws)
        # two samples, since all data sets share one null
        ks = stats.ks_2samp(p[shape], np.arange(1, draws + 2) / (draws + 1)).pvalue
        print(f"{shape:>14}{shares(p)}{ks:>13.3f}", flush=True)


def print_noise(neurons: int, datasets: int, draws: int, rng: np.random.Generator) -> None:
    """Calibration of the largest p where influences have the errors of skewed means, and the nulls have none."""
    print(f"\nNoise, F = {neurons:,}: share of the largest p <= 0.01 and <= {LEVEL}")
    for shape in SHAPES:
        for noise in NOISES:
            log_a = log_of_shape(shape, (datasets, neurons), rng)
            log_a += np.log(rng.gamma(noise**-2, noise**2, log_a.shape))
            p = p_values(log_a, draws)["largest"]
            print(f"{shape:>14}{noise:>6}{(p <= 0.01).mean():>9.3f}{(p <= LEVEL).mean():>9.3f}", flush=True)


def print_power(neurons: int, datasets: int, draws: int, rng: np.random.Generator) -> None:
    """Power on lognormal influence whose top is raised, and how often the fit ends the plateau within 15 % of it."""
    top = math.ceil(TOP_SHARE * neurons)
    print(f"\nPower, lognormal bulk, top {top} of {neurons:,} raised: share with p <= {LEVEL}")
    print(f"{'log-sd':>7}{'height':>7}" + "".join(f"{name:>13}" for name in (*SHAPES, "largest", "located")))
    for spread in SPREADS:
        for height in HEIGHTS:
            log_a = -np.sort(-spread * rng.standard_normal((datasets, neurons)), axis=1)
            log_a[:, :top] += height
            fits = [fit_regimes(np.exp(row), np.zeros(neurons)).fit for row in log_a]
            located = np.mean(
                [isinstance(f, ThreeSegments) and f.raised and abs(math.log(f.r1 / top)) < 0.15 for f in fits]
            )
            print(f"{spread:>7}{height:>7}{shares(p_values(log_a, draws))}{located:>13.3f}", flush=True)


def print_pseudo(datasets: int, rng: np.random.Generator) -> None:
    """Calibration of the contrast, for the mean of values that depend on window and query position."""
    print(f"\nPseudo-classes, {RARE} rare positions in {WINDOWS} windows of {LENGTH}: share with p <= {LEVEL}")
    print(f"{'clustered':>10}{'common/rare':>12}{'window sd':>10}{'overlap':>9}{'widened':>9}{'as drawn':>9}{'n':>6}")
    for clustered in (False, True):
        for ratio in (5, 10, 20):
            for effect in (0.0, 1.0):
                rows = [r for r in (one_contrast(clustered, ratio, effect, rng) for _ in range(datasets)) if r]
                if not rows:
                    print(f"{clustered!s:>10}{ratio:>12}{effect:>10}  every overlap is over {MAX_OVERLAP}")
                    continue
                shared, widened, plain = np.array(rows).T
                print(
                    f"{clustered!s:>10}{ratio:>12}{effect:>10}{shared.mean():>9.3f}{(widened <= LEVEL).mean():>9.3f}"
                    f"{(plain <= LEVEL).mean():>9.3f}{len(rows):>6}",
                    flush=True,
                )


def one_contrast(
    clustered: bool, ratio: int, effect: float, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Overlap, and p with and without widening, of a rare class that is a draw of common; None where undefined."""
    in_window = rng.dirichlet(np.full(WINDOWS, 0.3)) if clustered else np.full(WINDOWS, 1 / WINDOWS)
    rare = rng.choice(WINDOWS * LENGTH, RARE, replace=False, p=np.repeat(in_window / LENGTH, LENGTH))
    common = rng.choice(np.setdiff1d(np.arange(WINDOWS * LENGTH), rare), ratio * RARE, replace=False)
    flat = np.union1d(rare, common)
    classes = tuple(ClassPositions(n, len(m), np.sort(m)) for n, m in (("rare", rare), ("common", common)))
    positions = MeasuredPositions(flat, flat // LENGTH, flat % LENGTH, np.zeros_like(flat), classes)
    members = pseudo_classes(positions, 199, int(rng.integers(2**31)))
    if isinstance(members, Undefined):
        return None
    window = effect * rng.standard_normal(WINDOWS)
    values = rng.standard_normal(len(flat)) + window[positions.window] + 0.5 * positions.query / LENGTH
    null, own = members @ values / members.sum(1), float(values[positions.members("rare")].mean())
    shared = overlap(members)
    plain, widened = contrast(own, null), contrast(own, null, shared)
    if not isinstance(plain, Comparison) or not isinstance(widened, Comparison):
        return None
    return shared, widened.p_value, plain.p_value


if __name__ == "__main__":
    main()
