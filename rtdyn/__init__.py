"""rtdyn: rare-token specialisation of a language model's final layer, through its training.

track(model, …) analyses a training run's checkpoints, as the command does, and opens the run.
open_run(path) opens a stored run as polars frames and figures; open_runs(pattern) opens several.
compare(a, b) sets the numbers of two runs side by side.
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
    from rtdyn.views.notebook import RunFrames, compare


__all__ = ["__version__", "analyse", "compare", "influence", "open_run", "open_runs", "track"]

_MODULES = {"analyse": "rtdyn.api.in_memory", "influence": "rtdyn.api.in_memory", "track": "rtdyn.api.track",
            "compare": "rtdyn.views.notebook"}  # fmt: skip
"""Where a function comes from when it is first asked for: a plain `import rtdyn` loads no library."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rtdyn' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def open_run(path: str | Path) -> RunFrames:
    """The run directory at `path` as polars frames, finished or not. A pattern may name it: `runs/tiny-*`.

    Raises rtdyn.errors.InputError if there is no run or its store schema is not this version's, and for a pattern that
    names several.
    """
    # a plain `import rtdyn` loads neither polars nor PyTorch
    from rtdyn.errors import InputError
    from rtdyn.views.notebook import matching, read_frames

    found = matching(str(path))
    if len(found) > 1:
        raise InputError(
            f"{path} names {len(found)} runs, {', '.join(map(str, found))}; rtdyn.open_runs opens them all"
        )
    return read_frames(found[0])


def open_runs(pattern: str | Path) -> list[RunFrames]:
    """Every run directory that the pattern names, as `open_run` gives it, in order of their names.

    Raises rtdyn.errors.InputError if there is none.
    """
    from rtdyn.views.notebook import matching, read_frames

    return [read_frames(path) for path in matching(str(pattern))]
