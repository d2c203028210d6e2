"""A few numbers that tell how far a checkpoint's weights lie from another's, without keeping the weights.

Of each weight matrix, `SAMPLE` entries at random places get random signs and are summed into `NUMBERS` totals. Places
and signs are the same at every step, so the difference of two fingerprints is that of the weights' difference. Its
squared norm is kept, with a relative error of √(2 / NUMBERS) (Achlioptas 2003, J. Comput. Syst. Sci. 66:671), whatever
the matrix's size.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtdyn.model.families import OLD_BUFFERS
from rtdyn.model.final_mlp import base_model_name
from rtdyn.model.stored_names import plain_names

NUMBERS = 256
SAMPLE = 1 << 18
KIND = f"{SAMPLE} entries in {NUMBERS} sums, of every matrix"
"""Fingerprints of another kind cannot be compared with these."""
Fingerprint = Mapping[str, np.ndarray]
"""By matrix, float32 (1 + NUMBERS,): the root mean square of its entries, then the sums, expected as large."""


def fingerprint_of_files(files: Iterable[Path], family: str) -> Fingerprint:
    """The fingerprint of every matrix in a checkpoint's weight files, by its plain name.

    A matrix that holds NaN or infinite values where it is looked at is left out. Raises InputError for a tensor that
    lies in two files, and whatever safetensors or torch raise for files they cannot read.
    """
    from rtdyn.checkpoints.stored import read_tensors, stored_tensors

    stored = stored_tensors(files)
    plain = plain_names(stored.keys(), base_model_name(family))
    names = {s: plain[n] for n, s in stored.items() if len(s.shape) > 1 and not OLD_BUFFERS.search(n)}
    fingerprint: dict[str, np.ndarray] = {}
    for place, values in read_tensors(names):
        sums = _sums(values)
        if np.isfinite(sums).all():
            fingerprint[names[place]] = sums
    return fingerprint


def fingerprint_of(matrices: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of torch matrices by name; vectors are left out."""
    return {name: _sums(matrix) for name, matrix in matrices.items() if matrix.ndim > 1}


def _sums(matrix: Any) -> np.ndarray:
    """float32 (1 + NUMBERS,) of a torch matrix on any device."""
    import torch

    rng = np.random.default_rng(matrix.numel())
    places = torch.from_numpy(rng.integers(0, matrix.numel(), SAMPLE)).to(matrix.device)
    signs = rng.integers(0, 2, SAMPLE) * 2.0 - 1.0
    entries = matrix.detach().reshape(-1)[places].float().double().cpu().numpy()
    sums = (entries * signs).reshape(-1, NUMBERS).sum(0) / math.sqrt(SAMPLE / NUMBERS)
    return np.concatenate([[math.sqrt(np.mean(entries**2))], sums]).astype(np.float32)


def encode(fingerprint: Fingerprint) -> str:
    """The fingerprint as text, for the metadata of a file."""
    sums = {name: base64.b64encode(numbers.astype("<f4").tobytes()).decode() for name, numbers in fingerprint.items()}
    return json.dumps({"kind": KIND, "sums": sums})


def decode(text: str) -> Fingerprint | None:
    """The fingerprint that `encode` wrote, None if it is of another kind."""
    data = json.loads(text)
    if data["kind"] != KIND:
        return None
    return {name: np.frombuffer(base64.b64decode(sums), "<f4") for name, sums in data["sums"].items()}
