"""rtdyn: rare-token specialisation of a language model's final layer, through its training.

track(model, …) analyses a training run's checkpoints, as the command does, and opens the run.
open_run(path) opens a stored run as polars frames and figures.
analyse(model, tokenizer, text, …) gives the tables of a model in memory.
influence(model, tokenizer, text, …) gives each neuron's influence alone, an array (F,) with its bounds.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtdyn.version import __version__

if TYPE_CHECKING:
    from rtdyn.api.in_memory import analyse, influence
    from rtdyn.api.track import track
    from rtdyn.views.notebook import RunFrames


__all__ = ["__version__", "analyse", "influence", "open_run", "track"]

_MODULES = {"analyse": "rtdyn.api.in_memory", "influence": "rtdyn.api.in_memory", "track": "rtdyn.api.track"}
"""Where a function comes from when it is first asked for: a plain `import rtdyn` loads no library."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rtdyn' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def open_run(path: str | Path) -> RunFrames:
    """The run directory at `path` as polars frames, finished or not.

    Raises rtdyn.errors.InputError if there is no run or its store schema is not this version's.
    """
    # a plain `import rtdyn` loads neither polars nor PyTorch
    from rtdyn.views.notebook import read_frames

    return read_frames(Path(path))
