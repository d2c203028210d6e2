"""Checkpoints on the Hugging Face Hub: the one file that knows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rtdyn.checkpoints.checkpoint import CONFIG, Checkpoint, sha256_of, weight_files
from rtdyn.errors import InputError, brief
from rtdyn.registry import SuiteSpec
from rtdyn.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")


def fetch_hub(suite: SuiteSpec, step: int) -> Checkpoint:
    """The checkpoint of `step`: its revision resolved to a commit, then config and weights of that commit.

    Files go to the user's Hugging Face cache; HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are
    respected. A weight file whose bytes differ from the digest the Hub publishes is refused.
    """
    revision = suite.revision_of(step)
    info, what = _revision(suite, step)
    published = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
    commit = str(info.sha)
    files = weight_files(
        set(published), lambda name: json.loads(_download(suite, name, commit, what).read_text()), what
    )
    folder = _download(suite, CONFIG, commit, what).parent
    digests = {}
    for name in files:
        digests[name] = sha256_of(_download(suite, name, commit, what))
        if published[name] is not None and digests[name] != published[name]:
            raise InputError(
                f"{what}: {name} differs from the digest the Hub publishes; remove it from the cache and run again"
            )
    return Checkpoint(step, folder, revision, commit, digests)


def hub_config_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`'s revision."""
    info, what = _revision(suite, step)
    return _download(suite, CONFIG, str(info.sha), what).parent


def hub_tokenizer_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the tokenizer files of `step`'s revision, or of the main branch if that has none."""
    info, what = _revision(suite, step)
    present = _tokenizer_files(info)
    if not present:
        info, what = _revision(suite, None)
        present = _tokenizer_files(info)
    if not present:
        raise InputError(f"{what} holds no tokenizer files")
    folder = _download(suite, CONFIG, str(info.sha), what).parent
    for name in present:
        _download(suite, name, str(info.sha), what)
    return folder


def _tokenizer_files(info: ModelInfo) -> list[str]:
    return [s.rfilename for s in info.siblings or [] if s.rfilename in TOKENIZER_FILES]


def _revision(suite: SuiteSpec, step: int | None) -> tuple[ModelInfo, str]:
    """What the Hub says of a step's revision (None: the main branch), and how to name it to the user."""
    from huggingface_hub import HfApi

    revision = "main" if step is None else suite.revision_of(step)
    what = f"{suite.repo}, revision {revision}"
    return _reach(lambda: HfApi().model_info(_repo(suite), revision=revision, files_metadata=True), what), what


def _repo(suite: SuiteSpec) -> str:
    assert suite.repo is not None
    return suite.repo


def _download(suite: SuiteSpec, name: str, commit: str, what: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(_reach(lambda: hf_hub_download(_repo(suite), name, revision=commit), what))


def _reach(call: Callable[[], T], what: str) -> T:
    """The call's result, or InputError in one sentence for what the Hub or the network answers."""
    import httpx
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        raise InputError(f"{what} is gated; accept its terms on the Hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{what}: the Hub knows no such repository, or HF_TOKEN may not read it") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{what}: the Hub has no such revision; leave the step out of --steps") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(f"{what} is not in the cache and the Hub cannot be reached; check the network") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{what} lacks a file it should hold ({brief(error)})") from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError(f"{what} is not in the cache and HF_HUB_OFFLINE is set; unset it to download") from error
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise InputError(f"{what} cannot be downloaded ({brief(error)}); run the command again") from error
