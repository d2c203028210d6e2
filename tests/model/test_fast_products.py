"""The faster library's products against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from rtdyn.model import fast_products as library
from rtdyn.model.fast_products import fast_products

WEIGHT, BIAS = torch.randn(200, 96), torch.randn(200)
ROWS = {"whole": torch.randn(5, 7, 96), "strided": torch.randn(96, 35).T, "one": torch.randn(96)}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("bias", [BIAS, None], ids=["bias", "none"])
@pytest.mark.parametrize(
    "weight", [WEIGHT, WEIGHT.T.contiguous().T, WEIGHT[::2]], ids=["plain", "turned", "every other"]
)
@pytest.mark.parametrize("intel", [False, True])
def test_products_are_float32s(
    monkeypatch: pytest.MonkeyPatch, intel: bool, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    monkeypatch.setattr(library, "_of_intel", lambda: intel)
    bias = None if bias is None else bias[: len(weight)]
    exact = linear(rows.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad(), fast_products():
        found = linear(rows, weight, bias)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="torch was built without oneDNN's linear modules",
)
def test_a_module_is_run_by_one_dnn_unless_a_gradient_is_asked_of_it_or_it_is_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_of_intel", lambda: False)
    module, rows = torch.nn.Linear(96, 200), ROWS["whole"].clone().requires_grad_()

    def products(run: torch.nn.Module, rows: torch.Tensor) -> set[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen, fast_products():
            run(rows)
        return {event.key for event in seen.key_averages()} & {"mkldnn::_linear_pointwise", "aten::linear"}

    with torch.no_grad():
        assert products(module, rows) == {"mkldnn::_linear_pointwise"}
    assert products(module, rows) == {"aten::linear"}
    with fast_products():
        module(rows).sum().backward()
    assert rows.grad is not None
    with torch.no_grad():
        assert products(module.double(), rows.double()) == {"aten::linear"}
    monkeypatch.setattr(library, "_of_intel", lambda: True)
    if torch.backends.mkl.is_available():
        with torch.no_grad():
            assert products(module.float(), rows) == {"aten::linear"}
