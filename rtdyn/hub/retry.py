"""Trying again: which answers of a network are worth it, and how long to wait."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")
ASKED_AT_ONCE = 8
"""Requests to a Hub."""
SHORT = 0.2
"""Seconds of one wait for a lock: polars' handler of SIGINT lets a wait go on, so Ctrl-C would not end a long one."""
_STANDS = {"UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects"}
"""Errors of the client, be it httpx or httpx2, that come again each time."""
_TOO_MANY, _REQUEST_TIMEOUT, _SERVER_ERROR = 429, 408, 500


@dataclass(frozen=True)
class Patience:
    """How often, and after how many seconds, something is tried again."""

    tries: int
    """In a row without a byte of progress."""
    first: float = 0.5
    """Seconds before the second try; they double with each further one."""
    longest: float = 30.0
    asked: float = 600.0
    """The longest wait that a server's Retry-After is granted."""


METADATA = Patience(tries=4)
CONTENT = Patience(tries=8)
"""About a minute without an answer: a sweep is not to end for a short outage."""


def delay(error: BaseException, tried: int, patience: Patience) -> float | None:
    """Seconds to wait before another try, None where none is worth it.

    tried: how often it failed so far. An answer of 429 is waited for as long as it says, or by `ratelimit`'s t.
    """
    if tried >= patience.tries or not may_pass(error):
        return None
    backoff = min(patience.longest, patience.first * 2 ** (tried - 1)) * random.uniform(0.8, 1.2)
    asked = _asked(error)
    if asked is None:
        return backoff
    return max(asked, min(backoff, patience.first)) if asked <= patience.asked else None


def retrying(call: Callable[[], T], patience: Patience, pause: Callable[[float], object] = time.sleep) -> T:
    """The call's result, tried again after failures that may pass; the last failure is raised as it is."""
    tried = 0
    while True:
        try:
            return call()
        except Exception as error:  # whatever it is, it is raised again unless it may pass
            tried += 1
            seconds = delay(error, tried, patience)
            if seconds is None:
                raise
            pause(seconds)


def each_answer(ask: Callable[[K], T], about: Sequence[K], stop: threading.Event) -> Iterator[T]:
    """What each question of a Hub is answered, in their order, a few asked at a time; the first failure is raised.

    stop: set where this ends early, by Ctrl-C too, to end pauses between tries.
    """
    pool = ThreadPoolExecutor(ASKED_AT_ONCE)
    try:
        for answer in [pool.submit(ask, question) for question in about]:
            while not answer.done():
                wait([answer], SHORT)
            yield answer.result()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def may_pass(error: BaseException) -> bool:
    """Whether an error is the network's or the server's, and not an answer that stands."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return may_pass(error.__cause__)  # the client's word for "no answer, and not in the cache"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (_TOO_MANY, _REQUEST_TIMEOUT) or status >= _SERVER_ERROR
    stands = _STANDS & {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, errors.HTTPError | EOFError) and not stands


def _asked(error: BaseException) -> float | None:
    """Seconds that the answer asks to wait, by Retry-After or by the Hub's own `ratelimit: "api";r=0;t=55`."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = headers.get("retry-after", "").strip()
    if after.isdigit():
        return float(after)
    if getattr(getattr(error, "response", None), "status_code", None) != _TOO_MANY:
        return None
    window = re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(window[1]) if window else None
