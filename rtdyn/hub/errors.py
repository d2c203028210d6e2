"""What the Hub or the network answers instead of a file, as one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar
from urllib.request import getproxies

from rtdyn.blame import passes
from rtdyn.errors import InputError, brief
from rtdyn.hub.retry import may_pass

T = TypeVar("T")
_SECRET = re.compile(r"\?[^\s'\")]+|(?<=://)[^/@\s]+@")
"""In addresses: a query, which may be signed, and a user with a password."""
_UNAUTHORISED, _PROXY = 401, 407
LEAVE_OUT = "leave the step out of --steps"
CORRECT_SUITE = "correct the suites file"


def reach(call: Callable[[], T], what: str, if_missing: str = LEAVE_OUT, if_misnamed: str = CORRECT_SUITE) -> T:
    """The call's result, or InputError in one sentence for what the Hub or the network answers.

    `if_missing` and `if_misnamed` say how to mend a name that the Hub does not hold, or cannot.
    """
    try:
        return call()
    except Exception as error:
        refusal = explained(error, what, if_missing, if_misnamed)
        if refusal is None:
            raise
        raise refusal from error


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error of the client means that no Hub was asked or none answered, be it with a refusal."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return True
    answered = getattr(getattr(error, "response", None), "status_code", None) is not None
    return error is not None and not answered and may_pass(error)


def explained(
    error: Exception, what: str, if_missing: str = LEAVE_OUT, if_misnamed: str = CORRECT_SUITE
) -> InputError | None:
    """What an error of the client means, in one sentence without token or signed address; None if it is another's."""
    from huggingface_hub import errors

    if passes(error):
        return None
    # of the machine itself: the client's own types for what it does not find have no number
    local = isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and local and getattr(error, "filename", None) is None:
        return InputError(
            f"{what} cannot be asked for ({brief(error)}); correct or unset SSL_CERT_FILE={certificates!r}"
        )
    if isinstance(error, OSError) and error.filename is not None:  # a file of the client's own
        return InputError(f"{what}: {brief(error)}; set HF_HOME to a folder that can be written")
    if isinstance(error, ImportError) or (isinstance(error, ValueError) and "proxy" in str(error)):
        proxies = " and ".join(f"{scheme.upper()}_PROXY" for scheme in getproxies() if scheme != "no")
        mend = f"correct {proxies or 'the proxy'} in the environment, or install what it needs"
        return InputError(f"{what} cannot be asked for ({_brief(error)}); {mend}")
    sentences: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, " is gated; accept its terms on the Hub and set HF_TOKEN"),
        (errors.RepositoryNotFoundError, ": the Hub knows no such repository, or HF_TOKEN may not read it"),
        (errors.RevisionNotFoundError, f": the Hub has no such revision; {if_missing}"),
        (errors.OfflineModeIsEnabled, " is not in the cache and HF_HUB_OFFLINE is set; unset it to download"),
        (errors.LocalEntryNotFoundError, " is not in the cache and the Hub cannot be reached; check the network"),
        (errors.EntryNotFoundError, f" is missing on the Hub; {if_missing}"),
        (errors.HFValidationError, f" cannot be a Hub repository ({_brief(error)}); {if_misnamed}"),
        # HTTPError is of httpx or of httpx2, as huggingface_hub's version has it; hf_xet raises RuntimeError
        *(
            (kind, f" cannot be downloaded ({_brief(error)}); {_mend(error)}")
            for kind in (errors.HTTPError, EOFError, OSError, RuntimeError, ValueError, KeyError)
        ),
    )
    if getattr(getattr(error, "response", None), "status_code", None) == _UNAUTHORISED and not isinstance(
        error, errors.RepositoryNotFoundError
    ):
        return InputError(f"{what} needs another HF_TOKEN: the Hub does not accept this one, or none is set")
    return next((InputError(what + sentence) for kind, sentence in sentences if isinstance(error, kind)), None)


def _mend(error: Exception) -> str:
    """How to mend what kept a file from coming; only what may pass by itself is worth the same command."""
    from huggingface_hub import constants

    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, UnicodeEncodeError) and not (_token() or "").isascii():
        return "HF_TOKEN holds a character that no token has, so copy it anew"
    if kinds & {"UnsupportedProtocol", "InvalidURL"}:
        return f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address, so correct it (https://...)"
    if kinds & {"JSONDecodeError", "KeyError", "TooManyRedirects"}:
        return f"what answers at {_hidden(constants.ENDPOINT)} is no Hub, so log in to the network or check HF_ENDPOINT"
    if status == _PROXY:
        return "the proxy asks for a name and a password, so put them into HTTPS_PROXY"
    if status is not None and not may_pass(error):
        return "check that HF_TOKEN may read it, and that no proxy or filter refuses it"
    if isinstance(error, ValueError):
        return "check HF_ENDPOINT, HF_TOKEN and the settings of the proxy"
    return "run the command again"


def _brief(error: Exception) -> str:
    """The error in one line; a client may quote headers and signed addresses in it."""
    text, token = _hidden(brief(error)), _token()
    text = text.replace(": None.", "")  # the client's word for an answer without text
    return text.replace(token, "***") if token else text


def _token() -> str | None:
    from huggingface_hub import get_token

    with suppress(OSError):  # HF_HOME may be no folder
        return get_token()
    return None


def _hidden(text: str) -> str:
    """The text without secrets in its addresses."""
    return _SECRET.sub("", text)
