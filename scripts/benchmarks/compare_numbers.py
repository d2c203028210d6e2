"""Whether two results agree, number by number, within stated tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

ROW_KEYS = ("analysis", "metric", "token_class", "group", "null", "layer", "head")
ROW_NUMBERS = ("value", "null_mean", "null_sd", "p_value", "ci_low", "ci_high", "n")


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart."""

    relative: float
    """Of an array: to its largest number. Of a row: to the number itself."""
    absolute: float = 0.0
    factor: float = 1.0
    """Numbers of one sign may also lie apart by this factor, the larger over the smaller."""

    def limit(self, scale: float, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        """What each pair of numbers may differ by, (…, n) as they are. scale: the number that `relative` is of."""
        smaller = np.where(here * there > 0, np.minimum(np.abs(here), np.abs(there)), 0.0)
        return np.maximum(self.absolute + self.relative * scale, (self.factor - 1) * smaller)


@dataclass(frozen=True)
class Difference:
    """Two numbers, or arrays at the place where they differ most beyond what is allowed."""

    name: str
    here: str
    there: str
    allowed: str


def arrays(name: str, value: object) -> Iterator[tuple[str, np.ndarray | str]]:
    """Every array, number and text in a result, by the path of its fields; modules and functions are passed over."""
    if isinstance(value, torch.nn.Module) or callable(value):
        return
    if isinstance(value, torch.Tensor):
        yield name, value.detach().cpu().numpy()
    elif isinstance(value, np.ndarray):
        yield name, value
    elif value is None or isinstance(value, str):
        yield name, str(value)
    elif isinstance(value, bool | int | float | np.generic):
        yield name, np.asarray(value)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from arrays(f"{name}.{key}", one)
    elif isinstance(value, Sequence):
        for place, one in enumerate(value):
            yield from arrays(f"{name}.{place}", one)
    else:
        raise TypeError(f"{name} is of type {type(value).__name__}, which is not compared")


def different(
    name: str, here: object, there: object, tolerance: Tolerance, allowed: np.ndarray | None = None
) -> list[Difference]:
    """Where two results of equal form differ. allowed: what each number may differ by, in place of the tolerance's."""
    left, right = dict(arrays(name, here)), dict(arrays(name, there))
    found = [Difference(path, str(path in left), str(path in right), "in both") for path in left.keys() ^ right.keys()]
    for path in left.keys() & right.keys():
        one, other = left[path], right[path]
        if isinstance(one, str) or isinstance(other, str):
            if isinstance(one, np.ndarray) or isinstance(other, np.ndarray) or one != other:
                found.append(Difference(path, str(one)[:200], str(other)[:200], "equal"))
        else:
            found += _apart(path, one, other, tolerance, allowed)
    return found


def _apart(
    path: str, one: np.ndarray, other: np.ndarray, tolerance: Tolerance, allowed: np.ndarray | None
) -> list[Difference]:
    if one.shape != other.shape:
        return [Difference(path, str(one.shape), str(other.shape), "the same shape")]
    x, y = one.astype(np.float64), other.astype(np.float64)
    if not x.size:
        return []
    finite = np.isfinite(x)
    # infinities and NaN must be at the same places, and infinities of the same sign
    if not np.array_equal(np.where(finite, 0, x), np.where(np.isfinite(y), 0, y), equal_nan=True):
        return [Difference(path, f"{(~finite).sum()} not finite", f"{(~np.isfinite(y)).sum()} not finite", "alike")]
    x, y = np.where(finite, x, 0), np.where(finite, y, 0)
    limit = tolerance.limit(float(np.abs(x).max()), x, y) if allowed is None else allowed
    beyond = np.abs(x - y) - limit
    if beyond.max() <= 0:
        return []
    worst = np.unravel_index(beyond.argmax(), beyond.shape)
    at = "" if not worst else str([int(i) for i in worst])
    most = np.broadcast_to(limit, x.shape)[worst]
    return [Difference(path + at, repr(float(x[worst])), repr(float(y[worst])), f"{most:.3g}")]


def rows_of(metrics: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Rows of metrics/ by what they are of."""
    rows = [one if isinstance(one, dict) else asdict(one) for one in metrics]
    return {"/".join(str(row[key]) for key in ROW_KEYS if row[key] is not None): row for row in rows}


def different_rows(here: Sequence[Any], there: Sequence[Any], by_field: Mapping[str, Tolerance]) -> list[Difference]:
    """Where rows differ. by_field: the tolerance of `value` and other fields, and of all others by `*`."""
    left, right = rows_of(here), rows_of(there)
    found = [
        Difference(key, str(key in left), str(key in right), "in both") for key in sorted(left.keys() ^ right.keys())
    ]
    for key in left.keys() & right.keys():
        if left[key]["reason"] != right[key]["reason"]:
            found.append(Difference(f"{key}: reason", str(left[key]["reason"]), str(right[key]["reason"]), "equal"))
        for name in ROW_NUMBERS:
            x, y = left[key][name], right[key][name]
            if x is None or y is None:
                if x is not y:
                    found.append(Difference(f"{key}: {name}", repr(x), repr(y), "in both"))
                continue
            tolerance = by_field.get(name, by_field["*"])
            limit = float(tolerance.limit(abs(x), np.asarray(x), np.asarray(y)))
            if not _close(x, y, limit):
                found.append(Difference(f"{key}: {name}", repr(x), repr(y), f"{limit:.3g}"))
    return sorted(found, key=lambda d: d.name)


def _close(x: float, y: float, limit: float) -> bool:
    return abs(x - y) <= limit or x == y or (math.isnan(x) and math.isnan(y))
