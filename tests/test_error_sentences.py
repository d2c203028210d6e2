"""Errors of libraries as one line: what they say, but for what would harm whoever follows it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from transformers import AutoConfig

from rtdyn.errors import InputError, brief
from rtdyn.text.token_counts import read_counts


class Sized(BaseModel):
    size: int
    name: str


class Foreign:
    """Something that only code could bring back."""


def test_the_first_line_is_kept() -> None:
    assert brief(ValueError("\n one\ntwo")) == "ValueError: one" and brief(EOFError()) == "EOFError"


def test_torchs_advice_to_load_code_is_not_repeated(tmp_path: Path) -> None:
    torch.save({"a": Foreign()}, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    for name in ("a.bin", "b.bin"):
        with pytest.raises(Exception) as raised:
            torch.load(tmp_path / name, weights_only=True)
        assert "weights_only" in str(raised.value)
        assert brief(raised.value) == "UnpicklingError: it is no plain data, and rtdyn runs no code that a file brings"


def test_numpys_advice_to_load_code_is_not_repeated(tmp_path: Path) -> None:
    np.save(tmp_path / "counts.npy", np.array([Foreign()], dtype=object))
    with pytest.raises(InputError, match="it is no plain data, and rtdyn runs no code that a file brings") as raised:
        read_counts(tmp_path / "counts.npy")
    assert "allow_pickle" not in str(raised.value)


def test_transformers_advice_to_load_code_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoConfig": "c.C"}}')
    (tmp_path / "c.py").write_text("")
    with pytest.raises(ValueError, match="trust_remote_code") as raised:
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert "trust_remote_code" not in brief(raised.value)


def test_a_record_that_does_not_fit_is_named_by_its_place() -> None:
    with pytest.raises(ValueError, match="2 validation errors for Sized") as raised:
        Sized.model_validate({"size": "many"})
    assert brief(raised.value).startswith("ValidationError: size: Input should be a valid integer")
