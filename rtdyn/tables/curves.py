"""The rows of curves/: numbers that are looked at as lines, each with the band of its null.

By kind:

- `pseudo_influence`: x is a rank, of the ranked influence of pseudo-classes of common positions. value is their
  geometric mean there, low and high the band that holds 95 % of them, rank by rank. Deviations from the mean, in
  logarithms, are widened by the positions that pseudo-classes share, as `pseudo_classes.contrast` does.
- `attention`: x are the keys back from the query, 0 the query itself. value is the class's mean attention there. low
  and high, for common targets, hold 95 % of pseudo-classes of as many.
- `attention_first`: the same for key 0, x = 0.
- `eigenvalue`, or `eigenvalue_<matrix>` for a gated MLP: x counts from 1. value is the x-th largest eigenvalue of a
  group's input weights (`analyses.groups.group_spectra`), chosen on `half` of the windows. low and high hold 95 % of
  sets selected alike. fit, in the upper half, is the Pareto tail λ_{k+1}·((k + 1)/x)^{1/α} with Hill's α of the rule
  `half`.
- `hill_alpha`, or `hill_alpha_<matrix>`: x is the length k of the tail. value is Hill's α there of a group, or of the
  whole layer without one. low and high are its 95 % interval.
- `selected_hill_alpha`: of sets selected alike, their mean and the band that holds 95 % of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from rtdyn.analyses.groups.group_spectra import GroupSpectrum
from rtdyn.analyses.groups.hill_over_k import HillOverK
from rtdyn.analyses.regimes.pseudo_curve import PseudoCurve
from rtdyn.analyses.routing.routing import Routing
from rtdyn.names import COMMON, RARE
from rtdyn.store.schema import (
    ATTENTION,
    ATTENTION_FIRST,
    CURVE_SCHEMA,
    EIGENVALUE,
    HILL,
    PSEUDO_INFLUENCE,
    SELECTED_HILL,
)
from rtdyn.tables.step_rows import Columns
from rtdyn.undefined import Undefined


def curve_table(step: int, parts: Sequence[Columns]) -> pl.DataFrame:
    """All lines of a step; what is not a finite number is null."""
    frames = [
        pl.DataFrame({"step": step, **part}).select(
            (pl.col(name) if name in part or name == "step" else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in CURVE_SCHEMA.items()
        )
        for part in parts
    ]
    numbers = pl.col(pl.Float64)
    return pl.concat([pl.DataFrame(schema=CURVE_SCHEMA), *frames]).with_columns(
        pl.when(numbers.is_finite()).then(numbers).otherwise(None)
    )


def pseudo_influence_curve(curve: PseudoCurve, layer: int) -> Columns:
    """The ranked influence of pseudo-classes."""
    return {
        "kind": PSEUDO_INFLUENCE,
        "layer": layer,
        "x": curve.rank,
        "value": curve.mean,
        "low": curve.low,
        "high": curve.high,
    }


def attention_curves(result: Routing) -> list[Columns]:
    """Mean attention of both classes by head and by distance of the key."""
    parts: list[Columns] = []
    for profile in result.profiles:
        mean = profile.attention
        if isinstance(mean, Undefined):
            continue
        no_band = np.full_like(mean.rare, np.nan)
        parts += _attention_lines(profile.layer, RARE, mean.rare, no_band, no_band)
        parts += _attention_lines(profile.layer, COMMON, mean.common, mean.common_low, mean.common_high)
    return parts


def _attention_lines(
    layer: int, token_class: str, mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> list[Columns]:
    """Lines of one class in one layer; mean, low and high (H, 1 + offsets), key 0 first."""
    parts: list[Columns] = []
    for kind, keys in ((ATTENTION_FIRST, slice(0, 1)), (ATTENTION, slice(1, None))):
        heads, width = mean[:, keys].shape
        parts.append(
            {
                "kind": kind,
                "token_class": token_class,
                "layer": layer,
                "head": np.repeat(np.arange(heads), width),
                "x": np.tile(np.arange(width), heads),
                **{name: v[:, keys].ravel() for name, v in (("value", mean), ("low", low), ("high", high))},
            }
        )
    return parts


def eigenvalue_curves(spectra: Sequence[GroupSpectrum], several: bool, layer: int) -> list[Columns]:
    """Eigenvalues of groups' input weights beside those of sets selected alike.

    several: whether the MLP has more than one input matrix, and each line's kind tells whose it is.
    """
    return [
        {
            "kind": _of_matrix(EIGENVALUE, spectrum.matrix, several),
            "group": spectrum.group,
            "half": spectrum.half,
            "layer": layer,
            "x": np.arange(1, len(spectrum.eigenvalues) + 1),
            "value": spectrum.eigenvalues,
            "low": spectrum.low,
            "high": spectrum.high,
            "fit": spectrum.fit,
        }
        for spectrum in spectra
    ]


def hill_curves(curves: Sequence[HillOverK], several: bool, layer: int) -> list[Columns]:
    """Hill's α over the length of the tail, of the layer and of groups, these beside sets selected alike."""
    parts: list[Columns] = []
    for curve in curves:
        lines = [(HILL, curve.alpha, curve.low, curve.high)]
        if curve.selected is not None:
            lines.append((SELECTED_HILL, *curve.selected))
        for kind, value, low, high in lines:
            columns = {"x": curve.k, "value": value, "low": low, "high": high}
            of_what = {"kind": _of_matrix(kind, curve.matrix, several), "group": curve.group, "half": curve.half}
            parts.append({**of_what, "layer": layer, **columns})
    return parts


def _of_matrix(kind: str, matrix: str, several: bool) -> str:
    return f"{kind}_{matrix}" if several else kind
