"""rtdyn: rare-token specialisation of a language model's final layer, through its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtdyn.version import __version__

if TYPE_CHECKING:
    from rtdyn.views.notebook import RunFrames


__all__ = ["__version__", "open_run"]


def open_run(path: str | Path) -> RunFrames:
    """The run directory at `path` as polars frames, finished or not.

    Raises rtdyn.errors.InputError if there is no run or its store schema is not this version's.
    """
    # a plain `import rtdyn` loads neither polars nor PyTorch
    from rtdyn.views.notebook import read_frames

    return read_frames(Path(path))
