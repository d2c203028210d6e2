"""Head ablation against brute-force hooks on transformers' own models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from analyses.routing.captures import (
    LAYERS,
    case,
    context,
    hooked_activations,
    split,
)
from model.test_families import CASES
from torch import Tensor

from rtdyn.analyses.routing.head_ablation import STRUCTURAL, ablate_heads
from rtdyn.analyses.routing.head_effects import group_effects, signed_effects
from rtdyn.analyses.routing.routing import routing
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import InputError
from rtdyn.model.anatomy import Block
from rtdyn.model.families import anatomy
from rtdyn.undefined import Undefined

ABLATIONS = (("zero", "query"), ("bos", "query"), ("zero", "all"), ("bos", "all"))


def head_outputs(model: Any, windows: Tensor, block: Block, attention: Any = None) -> Tensor:
    """(windows, T, heads·head size), with every pattern of `attention` put on key 0 by its mask where it is given."""
    seen: dict[str, Tensor] = {}

    def first_key(module: Any, args: Any, kwargs: Any) -> Any:
        mask = torch.full((1, 1, windows.shape[1], windows.shape[1]), torch.finfo(model.dtype).min, dtype=model.dtype)
        mask[..., 0] = 0.0
        return args, {**kwargs, "attention_mask": mask}

    handles = [block.attention_output.register_forward_pre_hook(lambda m, inputs: seen.update(z=inputs[0]))]
    if attention is not None:
        handles.append(attention.register_forward_pre_hook(first_key, with_kwargs=True))
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    return seen["z"]


def brute_force(
    model: Any, captured: Capture, windows: np.ndarray, which: int, to: str, at: str, layer: int = -1
) -> Tensor:
    """(1 + H + 1, N, F): activations at the measured positions, a whole forward pass for each position and head.

    which: of the two blocks that reach the layer.
    """
    every = anatomy(model).every_block
    own = range(len(every))[layer]
    block, positions = every[max(own - 1, 0) : own + 1][which], captured.positions
    everything = torch.from_numpy(windows.astype(np.int64))
    batch, index = everything[positions.window], torch.arange(len(positions.flat))
    query = torch.from_numpy(positions.query)
    stand_in = torch.zeros(len(batch), block.heads * block.head_size, dtype=model.dtype)
    if to == "bos":
        stand_in = head_outputs(model, everything, block, block.attention)[positions.window, -1]

    def change(z: Tensor, own: slice) -> Tensor:
        if at == "all":
            z[:, :, own] = stand_in[:, None, own]
        else:
            z[index, query, own] = stand_in[:, own]
        return z

    size = block.head_size
    slices = [slice(0, 0), *(slice(h * size, (h + 1) * size) for h in range(block.heads)), slice(0, None)]
    return torch.stack(
        [hooked_activations(model, batch, block, partial(change, own=own), layer)[index, query] for own in slices]
    )


def expected_sums(found: Tensor, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = found[:, torch.from_numpy(own)].double().numpy()
    return np.abs(a[1:] - a[0]).sum(1), np.abs(a[0]).sum(0), (np.abs(a[1:]) - np.abs(a[0])).sum(1)


def assert_sums(sums: Any, found: Tensor, own: np.ndarray) -> Callable[[np.ndarray, np.ndarray], None]:
    """Holds what each ablation changes in all against activations found by hooks, at the positions own (n,).

    Returns the comparison, with its tolerances.
    """
    change, before, growth = expected_sums(found, own)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4 * (1 + before.max()))
    close(sums.change[0], change)
    close(sums.before[0], before)
    close(sums.growth[0], growth)
    return close


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_ablations_match_a_forward_pass_for_each_position_and_head(config: Any) -> None:
    model, captured, windows = case(config)
    positions = captured.positions
    chosen = {c.name: np.flatnonzero(positions.members(c.name)) for c in positions.classes}
    groups = {"some": np.array([1, 5, 30]), "one": np.array([7])}
    for to, at in ABLATIONS:
        results = ablate_heads(captured, chosen, groups, to=to, at=at)
        in_pieces = ablate_heads(captured, chosen, groups, to=to, at=at, memory_bytes=1)
        for which, (result, pieces) in enumerate(zip(results, in_pieces, strict=True)):
            found = brute_force(model, captured, windows, which, to, at)
            assert result.layer == LAYERS - 2 + which and result.rerun_error < 1e-4
            for name, sums in result.classes.items():
                close = assert_sums(sums, found, positions.members(name))
                close(pieces.classes[name].change, sums.change)
                for group, own in groups.items():
                    np.testing.assert_allclose(sums.group_change[group].sum(0), sums.change[0][:, own].sum(1))
                    np.testing.assert_allclose(sums.group_growth[group].sum(0), sums.growth[0][:, own].sum(1))
            structural = which == 1 and captured.anatomy.parallel_residual
            assert result.structural == (STRUCTURAL if structural else None)
            if structural:
                # the whole forward pass agrees that no ablation reaches the activations
                assert (found == found[0]).all() and not any(s.change.any() for s in result.classes.values())
                assert not any(s.growth.any() or not s.before.any() for s in result.classes.values())
            else:
                assert all((s.change.sum((0, 2)) > 0.1).all() for s in result.classes.values())


@pytest.mark.parametrize(("to", "at"), ABLATIONS)
def test_settings_of_a_step_decide_what_routing_does_to_a_head(to: str, at: str) -> None:
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    model, captured, windows = case(config)
    result = routing(context(captured, {"top": split("top", np.arange(5))}, heads_to=to, heads_at=at))
    head = 2
    for which, ablation in enumerate(result.ablations):
        found = brute_force(model, captured, windows, which, to, at)
        for name, own in (("rare", result.matched.rare), ("common", result.matched.common)):
            change, before, _ = expected_sums(found, own)
            ours = ablation.classes[name].change.sum(0)[head]
            np.testing.assert_allclose(ours, change[head], rtol=1e-4, atol=2e-4 * (1 + before.max()))
            assert change[head].sum() > 0.1


def test_ablating_everywhere_is_another_number_where_attention_carries_it_on() -> None:
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    _, captured, _ = case(config)
    chosen = {"rare": np.arange(len(captured.positions.flat))}
    query, everywhere = (ablate_heads(captured, chosen, {}, at=at) for at in ("query", "all"))
    assert abs(query[0].classes["rare"].change / everywhere[0].classes["rare"].change - 1).max() > 0.01
    np.testing.assert_array_equal(query[1].classes["rare"].change, everywhere[1].classes["rare"].change)


def test_nothing_to_ablate_and_captures_that_cannot_be() -> None:
    config = next(c.values[0] for c in CASES if c.id == "gpt2-0")
    _, captured, _ = case(config)
    nobody = ablate_heads(captured, {"rare": np.empty(0, dtype=np.int64)}, {"top": np.arange(3)})
    sums = nobody[0].classes["rare"]
    assert sums.n.sum() == 0
    assert group_effects(sums, "top", np.ones(3, dtype=bool), np.arange(3)) == Undefined("no position of the class")
    assert np.isnan(signed_effects(sums, np.array([[0, 1]]), 0)).all()
    chosen = {"rare": np.arange(3)}
    with pytest.raises(ValueError, match="to is one of"):
        ablate_heads(captured, chosen, {}, to="one")
    for missing in (replace(captured, stream=None), replace(captured, attention=None)):
        with pytest.raises(ValueError, match="without attention"):
            routing(context(missing, {}))
    with pytest.raises(InputError, match="run again"):
        ablate_heads(replace(captured, activations=captured.activations + 1), chosen, {})
