"""powerlaw itself, as the quiet process calls it: the library prints and warns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def powerlaw_fit(
    values: np.ndarray, begins: tuple[float, float], comparisons: Mapping[str, tuple[str, str]]
) -> tuple[tuple[float, float, float], int, dict[str, tuple[float, float]]]:
    """The library's own fit of values (m,) > 0: xmin, exponent and distance, the tail's size, ratios and their p.

    begins: the tail begins at one of the values from the first of these on, under the second, but the largest of them.
    comparisons: pairs of distributions by the names under which their ratio and p are returned.
    """
    import powerlaw

    fit = powerlaw.Fit(values, discrete=False, xmin=begins, verbose=False)
    compared = {name: fit.distribution_compare(*pair) for name, pair in comparisons.items()}
    numbers = float(fit.xmin), float(fit.power_law.alpha), float(fit.power_law.D)
    return numbers, int((values >= fit.xmin).sum()), {name: (float(r), float(p)) for name, (r, p) in compared.items()}
