"""Names that several rooms share: token classes, groups of neurons, and the scheme of the Hub's addresses."""

from __future__ import annotations

RARE, COMMON = "rare", "common"


PLATEAU, TOP = "plateau", "top"


HUB_SCHEME = "hf://"
"""What an address of a data set on the Hub begins with."""
