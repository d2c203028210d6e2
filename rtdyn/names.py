"""Names that several rooms share: token classes and groups of neurons."""

from __future__ import annotations

RARE, COMMON = "rare", "common"


PLATEAU, TOP = "plateau", "top"
