"""Locks on files that end with their process, where the system has them."""

from __future__ import annotations

import errno
from typing import IO, Any


def take_lock(handle: IO[Any], *, shared: bool = False) -> bool:
    """Locks an open file until it is closed; False if another process holds it.

    shared: as one of many readers. Raises OSError where files cannot be locked.
    """
    try:
        import fcntl  # Windows has none, and reads runs all the same
    except ImportError as error:
        raise OSError(errno.ENOTSUP, "this system has no flock") from error
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
