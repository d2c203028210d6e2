"""Foreign libraries that print: what they say is held back."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """No output and no warnings; what weightwatcher and its import change in logging and warnings is put back."""
    loggers = [logging.getLogger(name) for name in (None, "weightwatcher", "matplotlib")]
    before = [(one.level, one.handlers[:]) for one in loggers]
    nowhere = io.StringIO()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for one, (level, handlers) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.handlers[:] = handlers
