"""What one analysis adds to a step's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtdyn.store.schema import Metric

Columns = Mapping[str, Any]
"""Columns of some rows of curves/, arrays of equal length or single values."""


@dataclass(frozen=True)
class StepRows:
    """Rows of metrics/, columns of neurons/ and lines of curves/."""

    metrics: Sequence[Metric]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(F,) each, NaN where undefined."""
    lines: Sequence[Columns] = ()
