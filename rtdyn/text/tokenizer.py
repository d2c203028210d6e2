"""A suite's own tokenizer, as the analyses use it: text to ids, ids to text, and its special ids."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtdyn.blame import blamed_on
from rtdyn.checkpoints.plain_folder import plain_folder
from rtdyn.errors import InputError, brief
from rtdyn.git_lfs import refuse_pointer
from rtdyn.hub.names import TOKENIZER_FILES


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer and the ids that begin and end its documents."""

    backend: Any
    size: int
    """Ids run from 0 to size - 1; a model may have more logits, which are padding."""
    bos: int | None
    eos: int | None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """int64 ids of each text, without special tokens."""
        encoded = self.backend(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def tokenizer_digest(folder: Path) -> str | None:
    """SHA-256 of what the folder's tokenizer.json does to text, or None if it has none.

    It is the same for a file that another version of the library wrote, or in another order of keys. What has no effect
    on `Tokenizer.encode` is left out: special tokens around a text, truncation, padding, dropout and the way back to
    text. Raises InputError if the file cannot be read.
    """
    import tokenizers

    file = folder / TOKENIZER_FILES[0]
    if not file.is_file():
        return None
    what = f"the tokenizer {file}"
    with blamed_on(what, lambda error: InputError(f"{what} cannot be loaded ({brief(error)})")):
        refuse_pointer(file)
        content = json.loads(tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8-sig")).to_str())
    model = {key: value or None for key, value in content["model"].items() if key != "dropout"}
    added = sorted(content["added_tokens"], key=lambda token: token["id"])
    effective = {
        "model": model,
        "normalizer": _effective(content["normalizer"]),
        "pre_tokenizer": _effective(content["pre_tokenizer"]),
        "added": [{key: value for key, value in token.items() if key != "special"} for token in added],
    }
    return hashlib.sha256(json.dumps(effective, sort_keys=True).encode()).hexdigest()


def _effective(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer without what has no effect; a sequence of one is that one."""
    if part is None:
        return None
    members = part.get("normalizers", part.get("pretokenizers"))
    if members is None:
        return {key: value for key, value in part.items() if key != "trim_offsets"}
    kept = [member for member in map(_effective, members) if member is not None]
    return None if not kept else kept[0] if len(kept) == 1 else {"type": "Sequence", "members": kept}


def tokenizer_files_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all of the folder's tokenizer files."""
    digest = hashlib.sha256()
    for file in (folder / name for name in TOKENIZER_FILES):
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def load_tokenizer(folder: Path, say: Callable[[str], None] = lambda text: None) -> Tokenizer:
    """The tokenizer in `folder`, which gives a text the same ids each time; code beside it is never run.

    Of what a tokenizer.json can hold, only the `dropout` of a BPE draws at random: it is switched off, and `say` is
    told. Truncation and padding saved there have no effect on `encode`. Raises InputError if there is no tokenizer.
    """
    import transformers

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder} holds no tokenizer (tokenizer.json); put the suite's own beside its step folders")
    what = f"the tokenizer in {folder}"
    with blamed_on(what, lambda error: InputError(f"{what} cannot be loaded ({brief(error)})")):
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                refuse_pointer(folder / name)
        with plain_folder(folder) as plain:
            backend = transformers.AutoTokenizer.from_pretrained(plain, trust_remote_code=False, local_files_only=True)
    return tokenizer_of(backend, what, say)


def tokenizer_of(backend: Any, what: str, say: Callable[[str], None] = lambda text: None) -> Tokenizer:
    """A tokenizer of transformers as the analyses use it, its dropout switched off; `what` names it where that is said.

    The tokenizer that is given stays as it is.
    """
    # a tokenizer in Python has no backend of its own, and no dropout
    model = getattr(getattr(backend, "backend_tokenizer", None), "model", None)
    dropout = getattr(model, "dropout", None)
    if dropout:
        backend = copy.deepcopy(backend)
        backend.backend_tokenizer.model.dropout = None
        say(f"{what} drops merges at random (dropout {dropout:g}); rtdyn switches that off")
    return Tokenizer(backend, len(backend), backend.bos_token_id, backend.eos_token_id)
