"""The client of Weights & Biases: loaded quietly, and what it says of a fault in one line."""

from __future__ import annotations

import os
from typing import Any

from pydantic import ValidationError

from rtdyn.errors import brief

REQUEST_SECONDS = 10
"""Seconds of the client's own requests; it makes one for each table, while the run waits. WANDB_HTTP_TIMEOUT first."""
NO_KEY = "there is no API key; `wandb login` stores one"


def client() -> Any:
    """The wandb module, set up before its import to print nothing and to report no errors of its own.

    Its error reports go to the server too, and hold up the end of a run by ten seconds where that does not answer.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(REQUEST_SECONDS))
    import wandb

    return wandb


def project() -> str:
    """The W&B project of runs: WANDB_PROJECT, or `rtdyn`."""
    return os.environ.get("WANDB_PROJECT", "rtdyn")


def fault(error: Exception) -> str:
    """What went wrong, in one line; of the client's settings the variable, its value and what is wrong with it."""
    if not isinstance(error, ValidationError):
        return brief(error)
    first = error.errors(include_url=False)[0]
    setting = str(first["loc"][0]) if first["loc"] else "settings"
    names = (f"WANDB_{setting.upper()}", f"WANDB_{setting.removeprefix('run_').upper()}")
    name = next((name for name in names if name in os.environ), f"the setting {setting}")
    value = "" if "key" in setting else f" is {str(first['input'])[:80]!r}"
    return f"{name}{value}: {first['msg']}"
