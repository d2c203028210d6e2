"""Inner loops compiled in a thread of their own, while a process loads its first weights and captures them.

Compiling takes seconds, which the first process of an installation pays; what is compiled here is kept for later ones
(`kernels/kept_code.py`). Each loop is compiled by a small call of what calls it, so that its types are those that are
met later. An analysis that begins earlier waits for its loops.

It waits here and not for numba. Where Ctrl-C or a signal's handler interrupts a thread that has just taken numba's
lock, nobody gives that back. What compiles would then wait for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from functools import cache

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.chosen import LAST
from rtdyn.analyses.groups.communities import group_modularity, rewired_z
from rtdyn.analyses.groups.heavytail import LEAST_KS, hill_of_spectra, spectra, standard_rows
from rtdyn.analyses.groups.layer_forms import layer_forms
from rtdyn.analyses.groups.set_sums import edge_counts, layer
from rtdyn.analyses.influence.fused import capped_excess, exponential_excess, frozen
from rtdyn.analyses.influence.likely import Likely, sums_of_likely
from rtdyn.analyses.kernels.kept_code import keep
from rtdyn.analyses.kernels.moved_products import moved_products
from rtdyn.analyses.kernels.rotation import rotate
from rtdyn.analyses.mediation.vocabulary_sums import vocabulary_sums
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.evidence import library_search
from rtdyn.analyses.regimes.fit import fit_curves

NEURONS = 64
LAYERS = "layers"
"""The stage of layers before the last, among the analyses."""
CAPPED = "capped "
"""Before an analysis, its loops for a model whose logits are capped."""


_compiling: dict[str, threading.Lock] = {}
"""By analysis: taken until its loops are compiled."""


def with_layers(options: StepOptions) -> tuple[str, ...]:
    """What of a step may have loops, in its order."""
    return options.analyses if options.layers == LAST else (*options.analyses, LAYERS)


@cache
def compile_ahead(analyses: Collection[str], device: str, capped: bool = False) -> None:
    """Begins to compile the loops of these analyses, in their order, once in a process. LAYERS stands among them.

    device: `cpu` or `cuda`. capped: whether the model's logits may be capped, which takes a loop of its own.
    """
    all_names = [loops for name in analyses for loops in (name, *([CAPPED + name] if capped else []))]
    names = [name for name in all_names if name in CALLS and (device == "cpu" or name not in ON_CPU_ONLY)]
    new = [name for name in names if name not in _compiling]
    for name in new:
        _compiling[name] = threading.Lock()
        _compiling[name].acquire()
    # the interpreter waits for it as it ends: were it cut off, LLVM might be at work while its memory goes
    threading.Thread(target=_run, args=(new,), name="compile-ahead").start()


def when_compiled(stage: Callable[[str], None]) -> Callable[[str], None]:
    """`stage`, which is told what begins, and then a wait until the loops of that analysis are compiled."""

    def begin(name: str) -> None:
        stage(name)
        for loops in {name, CAPPED + name} & _compiling.keys():
            with _compiling[loops]:
                pass

    return begin


def _run(names: list[str]) -> None:
    try:
        while names:
            if threading.main_thread().is_alive():
                CALLS[names[0]]()
            _compiling[names.pop(0)].release()
            keep()
    except RuntimeError:
        if threading.main_thread().is_alive():  # else it is Python's: an interpreter that ends starts no threads
            raise
    finally:
        for name in names:
            _compiling[name].release()


def _excess() -> None:
    weights, index = torch.full((1, NEURONS), 1 / NEURONS), torch.zeros(1, dtype=torch.int64)
    of_pair = torch.ones(1, dtype=torch.float64)
    exponential_excess(weights, weights[None], weights, of_pair[None], of_pair, index, index)
    first = Likely(index.int(), torch.tensor([0, 1]), weights[0, :1], weights[:, :1])
    sums_of_likely(first, weights, of_pair[None], of_pair, index, index)


def _capped_excess() -> None:
    weights, index = torch.full((1, NEURONS), 1 / NEURONS), torch.zeros(1, dtype=torch.int64)
    of_pair = torch.ones(1, dtype=torch.float64)
    capped_excess(
        weights, weights[None], weights, (weights, weights, 8.0), of_pair[None], of_pair, of_pair, index, index
    )


def _frozen() -> None:
    of_type, weights = torch.full((NEURONS,), 1 / NEURONS, dtype=torch.float64), torch.zeros(1, NEURONS)
    of_pair, index = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    of_position = of_type, of_type, of_type, weights
    frozen(*of_position, weights, of_type, of_type, 8.0, of_pair[None], of_pair, of_pair, index)


def _curves() -> None:
    influence = 1.0 / np.arange(1.0, 1 + 4 * NEURONS)[None]
    fit_curves(influence, np.zeros_like(influence))
    library_search(influence[0])


def _graphs() -> None:
    r = torch.eye(NEURONS) / 2 + 0.5
    sets = np.arange(NEURONS // 2)[None]
    layer_forms([layer(r)] * 2)
    edge_counts(r, sets)
    group_modularity(r, sets, restarts=1)
    rewired_z(r, sets, draws=2, restarts=1, attempts_per_swap=1.0)


def _tails() -> None:
    rows = standard_rows(torch.eye(NEURONS))
    hill_of_spectra(spectra(rows, np.arange(NEURONS // 2)[None]), LEAST_KS)


def _vocabulary() -> None:
    weights, of_pair = torch.full((1, NEURONS), 1 / NEURONS), torch.ones(1, 1, dtype=torch.float64)
    vocabulary_sums(weights, weights, weights, weights[None], weights, of_pair[None], of_pair, of_pair, NEURONS)


def _windows() -> None:
    of_window, angles, numbers = np.ones((1, 2), np.float32), np.ones((2, 2), np.float32), np.ones((2, 4), np.float32)
    moved_products(of_window, of_window, numbers, numbers[:1], numbers[0], np.empty((1, 2, 4), np.float32))
    keys = np.ones((1, 2, 2, 2, 4), np.float32)[:, :, :, 0]
    for heads in (keys.copy(), keys):  # queries stand alone, keys beside values
        rotate(heads, angles, angles)


CALLS: Mapping[str, Callable[[], None]] = {
    "ablation": _excess,
    CAPPED + "ablation": _capped_excess,
    "regimes": _curves,
    "modularity": _graphs,
    "heavytail": _tails,
    "mediation": _vocabulary,
    CAPPED + "mediation": _frozen,
    LAYERS: _windows,
}
ON_CPU_ONLY = (LAYERS, "ablation", CAPPED + "ablation", "mediation", CAPPED + "mediation")
"""Analyses that have no loops of ours where the capture is on a GPU."""
