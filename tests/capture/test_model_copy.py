"""A copy of a model in memory computes what its checkpoint does, in every family, and leaves it as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model.test_families import CASES, random_model

from rtdyn.capture.model_copy import model_copy

IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("config", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_gives_the_logits_of_the_checkpoint(config: Any, dtype: torch.dtype) -> None:
    model = random_model(config).to(dtype).train()
    if model._supports_sdpa:
        model.set_attn_implementation("sdpa")
    fused = model.config._attn_implementation
    assert fused == ("sdpa" if model._supports_sdpa else "eager")
    copied = model_copy(model, "cpu")
    assert model.training and model.dtype == dtype and model.config._attn_implementation == fused
    assert not copied.training and copied.config._attn_implementation == "eager"
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copied.parameters()}
    assert bool(shared) == (dtype == torch.float32)
    own = random_model(config)  # whose rotary frequencies were never rounded, as those of a loaded checkpoint
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(parameter.to(dtype))
        torch.testing.assert_close(copied(IDS).logits, own(IDS).logits, rtol=1e-5, atol=1e-5)
