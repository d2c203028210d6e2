"""Linear modules by the faster of torch's libraries for products.

Its own, Intel's MKL, uses a processor's whole vector width on Intel's alone. Elsewhere oneDNN is the faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fast_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of float32 without a gradient, by oneDNN where that is faster; in any thread."""
    import torch

    one_dnn = _one_dnn()
    if one_dnn is None or not _plain(rows, weight, bias):
        return torch.nn.functional.linear(rows, weight, bias)
    return one_dnn(rows, weight, bias, "none", [], "")


@contextmanager
def fast_products() -> Iterator[None]:
    """While held, the faster library makes float32 products of `torch.nn.functional.linear` without a gradient.

    It is float32 all through. On Intel's processors, and where torch was built without oneDNN, all is as before.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    one_dnn = _one_dnn()

    class OneDnn(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func is torch.nn.functional.linear and not kwargs and _plain(*args):
                bias = args[2] if len(args) > 2 else None
                return one_dnn(args[0], args[1], bias, "none", [], "")
            return func(*args, **(kwargs or {}))

    with nullcontext() if one_dnn is None else OneDnn():
        yield


def _one_dnn() -> Any:
    """oneDNN's product, None where torch was built without it or its own library is faster."""
    import torch

    if not torch.backends.mkldnn.is_available() or (torch.backends.mkl.is_available() and _of_intel()):
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@cache
def _of_intel() -> bool:
    """Whether the processor says that it is Intel's; systems that do not tell are taken for others."""
    told = Path("/proc/cpuinfo")
    return told.exists() and "GenuineIntel" in told.read_text(errors="replace")


def _plain(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN takes the product."""
    import torch

    alike = all(v.dtype == torch.float32 and v.device.type == "cpu" for v in (rows, weight) if v is not None)
    return alike and not torch.is_grad_enabled() and rows.numel() > 0 and weight.dim() == 2
