"""Tensors that hold their numbers on the CPU and say that they are on a GPU, for machines without one.

An operation that mixes them with tensors of the CPU raises, as it does on a GPU; so does reading them as an array. What
a GPU rounds otherwise, and what its memory holds, this does not show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
MIXING = (aten.copy_.default, aten._to_copy.default)
"""Operations from one device to another."""
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
"""A GPU's tensors may be indexed by tensors of the CPU, not the other way round."""


class GpuTensor(torch.Tensor):
    """A tensor that says it is on a GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="meta", requires_grad=False,  # PyTorch without CUDA refuses to index what it knows to be there
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    @property
    def device(self):
        return GPU

    @property
    def is_cuda(self):
        return True

    def tolist(self):
        return self.inner.tolist()

    def __repr__(self):
        return f"GpuTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes what is asked for on the GPU a GpuTensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(leaf, GpuTensor) for leaf in leaves)
    asked = kwargs.get("device")
    # PyTorch believes a GpuTensor to be on `meta`
    gpus = ("cuda", "meta") if there or func is aten.scalar_tensor.default else ("cuda",)
    to_gpu = there if asked is None else torch.device(asked).type in gpus
    if there and func not in MIXING:
        _check_one_device(func, args, kwargs)
    given = tree_map(lambda v: v.inner if isinstance(v, GpuTensor) else v, (args, kwargs))
    if to_gpu and asked is not None:
        given[1]["device"] = torch.device("cpu")
    result = func(*given[0], **given[1])
    returns = func._schema.returns
    if returns and all(r.alias_info is not None and r.alias_info.is_write for r in returns):
        written = [v for a, v in _arguments(func, args, kwargs) if a.alias_info is not None and a.alias_info.is_write]
        return written[0] if len(written) == 1 else tuple(written)
    return tree_map(lambda v: GpuTensor(v) if isinstance(v, torch.Tensor) and to_gpu else v, result)


def _arguments(func, args, kwargs):
    of = func._schema.arguments
    return [*zip(of, args, strict=False), *((a, kwargs[a.name]) for a in of if a.name in kwargs)]


def _check_one_device(func, args, kwargs):
    for argument, value in _arguments(func, args, kwargs):
        for leaf in tree_leaves(value):
            # a number may lie on the CPU
            here = isinstance(leaf, torch.Tensor) and not isinstance(leaf, GpuTensor) and leaf.dim() > 0
            if here and not (func in INDEXING and argument.name == "indices"):
                raise RuntimeError(f"{func}: {argument.name} is on the CPU and other arguments are on the GPU")


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Within it, `cuda` is a device."""
    with (
        patch("torch.cuda._lazy_init", lambda: None),
        patch("torch.cuda.synchronize", lambda *args: None),
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.inference_mode", torch.no_grad),  # which gives subclasses no views
        _Mode(),
    ):
        yield
