"""What stands where there is no result: the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Undefined:
    """No result, and why."""

    reason: str
    """One clause, as it is stored and shown."""
