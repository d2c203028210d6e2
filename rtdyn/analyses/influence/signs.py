"""Which neurons help and which hurt, few of them of the wrong sign (METHODS §2).

A neuron's mean Δ, less what its error bound leaves open, is divided by its standard error. That is Student's t of one
degree of freedom fewer than there are independent pieces of text. Benjamini & Hochberg (1995) over all neurons keep the
share of false discoveries, and with it that of wrong signs, under FALSE_DISCOVERY_RATE.
"""

from __future__ import annotations

import numpy as np

from rtdyn.analyses.influence.ablation import ClassInfluence
from rtdyn.analyses.statistics import as_numpy

FALSE_DISCOVERY_RATE = 0.05


def clear_signs(mean: np.ndarray, se: np.ndarray, error_bound: np.ndarray, clusters: int) -> np.ndarray:
    """int64 (F,): 1 of a neuron that clearly helps, −1 of one that clearly hurts, else 0.

    mean, se and error_bound: float64 (F,), nats; se is of so many clusters. Nothing is clear of a single cluster.
    """
    from scipy.special import stdtr
    from scipy.stats import false_discovery_control

    if clusters < 2:
        return np.zeros(len(mean), dtype=np.int64)
    distance = np.maximum(np.abs(mean) - error_bound, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(distance > 0, distance / se, 0.0)
    p = np.minimum(1.0, 2 * stdtr(clusters - 1, -t))
    clear = false_discovery_control(p) <= FALSE_DISCOVERY_RATE
    return np.where(clear, np.sign(mean), 0).astype(np.int64)


def signs_of(c: ClassInfluence) -> np.ndarray:
    """int64 (F,): `clear_signs` of each neuron's mean Δ on one class."""
    return clear_signs(as_numpy(c.mean), as_numpy(c.mean_se), as_numpy(c.error_bound), c.clusters)
