"""Whose fault an exception of a library is: that of its input, or of disk, memory or a signal.

Libraries raise nearly any type for a damaged file. The same types pass on what a full disk, a lack of memory or a
signal's handler did. Only the first may become a sentence about the input.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import PickleError
from types import FrameType
from typing import NoReturn

from rtdyn.errors import InputError, RtdynError, brief

Handler = Callable[[int, FrameType | None], object]
_INPUT = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    ImportError,
    PickleError,
)
"""What Python's own code raises for input that it cannot use."""
_LIBRARIES = ("huggingface_hub", "safetensors", "tokenizers", "transformers")
"""Packages whose own types of exceptions are about their input."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Libraries look for files that need not be there, so these count only where they are the exception itself."""
_DISK = (
    errno.EIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.EBUSY,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
)
_CODE = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust quote an error of the operating system."""
_SETTINGS = {"huggingface_hub": "HF_", "transformers": "TRANSFORMERS_", "numba": "NUMBA_", "matplotlib": "MPL"}
"""What the names of a package's environment variables begin with."""
_SHORT = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
_MACHINE = re.compile(r"CUDA error|shared object")


@contextmanager
def blamed_on(what: str, refusal: Callable[[Exception], InputError]) -> Iterator[None]:
    """Has what a library raises for bad input become `refusal(error)`; `what` names the input.

    Raises InputError too if a disk keeps the input from being read, with an OSError as its cause. All else passes as
    it is, first what a signal's handler raised, even where the library lost it.
    """
    with _heard() as raised:
        try:
            yield
        except Exception as error:
            if not raised:
                _raise_blamed(error, what, refusal)
    if raised:
        raise raised[0]


def _raise_blamed(error: Exception, what: str, refusal: Callable[[Exception], InputError]) -> NoReturn:
    if isinstance(error, RtdynError) or passes(error):
        raise error
    fault = disk_fault(error)
    if fault is not None:
        raise _unreadable(what, fault) from fault
    if not _is_about_input(error):
        raise error
    raise refusal(error) from error


@contextmanager
def _heard() -> Iterator[list[BaseException]]:
    """What signals' handlers raise meanwhile: libraries in C and Rust may clear it, or raise something else for it."""
    raised: list[BaseException] = []
    ours: dict[int, tuple[Handler, Handler]] = {}

    def heard(handler: Handler) -> Handler:
        def handle(number: int, frame: FrameType | None) -> object:
            try:
                return handler(number, frame)
            except BaseException as error:
                raised.append(error)
                raise

        return handle

    if threading.current_thread() is threading.main_thread():  # where handlers are called
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                ours[number] = handler, heard(handler)
                signal.signal(number, ours[number][1])
    try:
        yield raised
    finally:
        for taken, (theirs, handle) in ours.items():
            if signal.getsignal(taken) is handle:
                signal.signal(taken, theirs)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Has what the operating system refuses become an InputError that says it of `what`; all else passes as it is."""
    try:
        yield
    except OSError as error:
        if passes(error):
            raise
        raise _unreadable(what, error) from error


def _unreadable(what: str, error: OSError) -> InputError:
    place = f": {error.filename}" if error.filename and str(error.filename) not in what else ""
    return InputError(f"{what} cannot be read ({error.strerror or error}{place}); check that it is there, and its disk")


def passes(error: BaseException) -> bool:
    """Whether nothing may catch it that catches a library's failures: it came from memory, a GPU or a handler."""
    return out_of_memory(error) or from_handler(error) or any(_MACHINE.search(str(e)) for e in _chain(error))


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, be it the GPU's, in the exception or what led to it."""
    return any(
        isinstance(e, MemoryError)
        or _code(e) == errno.ENOMEM
        or (isinstance(e, RuntimeError | ImportError) and _SHORT.search(str(e)) is not None)
        for e in _chain(error)
    )


def machine_fault(error: BaseException) -> str | None:
    """What a user is told where memory or a disk ends a command, None where neither does."""
    fault = disk_fault(error)
    if out_of_memory(error):
        return (
            f"this machine's memory does not suffice ({brief(error)}); free some, or give --stream-layers always "
            "and a smaller --memory-gib; the same command goes on where it stopped"
        )
    if fault is None or fault.errno in _GONE:
        return None
    place = f"{fault.filename}: " if fault.filename else ""
    return f"{place}{fault.strerror}; mend that, the same command goes on where it stopped"


def import_fault(error: BaseException) -> str | None:
    """What a user is told where another package fails as it is imported, as by a setting that it cannot read."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(f.f_globals.get("__name__")) for f in frames if f.f_code.co_name == "<module>"]
    packages = [name.partition(".")[0] for name in modules]
    foreign = [name for name in packages if name not in ("rtdyn", "__main__")]
    if not foreign:
        return None
    said, prefix = str(error), _SETTINGS.get(foreign[-1])
    variables = [f"{name}={value!r}" for name, value in os.environ.items() if repr(value) in said]
    variables = variables or [name for name in os.environ if prefix is not None and name.startswith(prefix)]
    settings = f"correct or unset {' or '.join(variables)}" if variables else "correct its settings or install it anew"
    return f"{foreign[-1]} cannot be imported ({brief(error)}); {settings}"


def disk_fault(error: BaseException) -> OSError | None:
    """What the operating system refused, in the exception or what led to it; None if it refused nothing."""
    for e in _chain(error):
        code = _code(e)
        if code in _DISK or (code in _GONE and e is error):
            fault = OSError(code, os.strerror(code), getattr(e, "filename", None))
            fault.__cause__ = e
            return fault
    return None


def from_handler(error: BaseException) -> bool:
    """Whether a signal's handler raised the exception, or what led to it: it is given the frame it interrupted."""
    return any(_through_handler(e) for e in _chain(error))


def _through_handler(error: BaseException) -> bool:
    above: list[FrameType] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code, values = frame.f_code, frame.f_locals
        given = [values.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]]
        flat = [v for value in given for v in (value if isinstance(value, tuple) else (value,))]
        if any(isinstance(v, FrameType) and any(v is a for a in above) for v in flat):
            return True
        above.append(frame)
    return False


def _is_about_input(error: Exception) -> bool:
    if isinstance(error, OSError):  # transformers' own sentences on files come in this type, without a code
        return _code(error) not in _DISK
    # the type of tokenizers' exceptions is Exception itself
    own = type(error) is Exception or type(error).__module__.partition(".")[0] in _LIBRARIES
    return own or isinstance(error, _INPUT)


def _code(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    quoted = _CODE.search(str(error))
    return int(quoted[1]) if quoted else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, then what it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
