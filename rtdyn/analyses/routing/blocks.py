"""Blocks of consecutive windows: positions of one block may depend on each other as they like."""

from __future__ import annotations

BLOCKS = 32
"""Blocks of consecutive windows, at most."""
MIN_BLOCKS = 6
"""Fewer blocks have too few sign patterns for a p below 0.05."""
