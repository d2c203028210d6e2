"""What the Hub or the network answers instead of a file, as one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rtdyn.errors import InputError, brief

T = TypeVar("T")


def reach(
    call: Callable[[], T],
    what: str,
    if_missing: str = "leave the step out of --steps",
    if_misnamed: str = "correct the suites file",
) -> T:
    """The call's result, or InputError in one sentence for what the Hub or the network answers.

    `if_missing` and `if_misnamed` say how to mend a name that the Hub does not hold, or cannot.
    """
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        raise InputError(f"{what} is gated; accept its terms on the Hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{what}: the Hub knows no such repository, or HF_TOKEN may not read it") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{what}: the Hub has no such revision; {if_missing}") from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError(f"{what} is not in the cache and HF_HUB_OFFLINE is set; unset it to download") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(f"{what} is not in the cache and the Hub cannot be reached; check the network") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{what} is missing on the Hub; {if_missing}") from error
    except errors.HFValidationError as error:
        raise InputError(f"{what} cannot be a Hub repository ({brief(error)}); {if_misnamed}") from error
    # HTTPError is of httpx or of httpx2, as huggingface_hub's version has it; hf_xet raises RuntimeError;
    # an answer that is not a Hub's, as of a login page, ends in ValueError or KeyError
    except (errors.HTTPError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{what} cannot be downloaded ({brief(error)}); run the command again") from error
