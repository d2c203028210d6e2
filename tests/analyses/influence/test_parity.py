"""Every family agrees with transformers' own model, whole and by layers; what is planted is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from capture.test_by_layers import CONFIGS, DTYPES, LARGE, STORED, by_layers, saved
from model.test_families import CASES, random_model, text
from torch import Tensor, nn

import rtdyn.capture.by_layers as layered
import rtdyn.capture.own_pass as passing
from rtdyn.analyses.influence.parity import CLOSED_FORM, PARITY, READOUT, check_parity, differences
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.capture.layered_model import LayeredModel
from rtdyn.capture.own_pass import NEURONS, OwnPass, own_pass
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.errors import ParityError
from rtdyn.model import families
from rtdyn.model.anatomy import Anatomy, PostNorm
from rtdyn.model.families import anatomy

pytestmark = pytest.mark.slow  # seconds in all: every family

Change = Callable[[Any, Anatomy], Anatomy]


def both(model: Any) -> tuple[OwnPass, Capture]:
    evaluation, positions = text()
    return own_pass(model, evaluation, positions), capture(model, evaluation, positions)


def sound(name: str) -> Any:
    """Of a copy of the configuration: saving in half precision writes into it."""
    return random_model(deepcopy(CONFIGS[name]))


def opened(name: str, whole: bool, folder: Path) -> Any:
    checkpoint = saved(sound(name), folder)
    return load_model(checkpoint, "cpu") if whole else by_layers(checkpoint)


@pytest.mark.parametrize("config", CASES)
def test_every_family_agrees(config: Any) -> None:
    own, captured = both(random_model(deepcopy(config)))
    assert max(differences(own, captured, LARGE)) < PARITY / 2
    check_parity(own, captured, LARGE)
    assert own.neurons.unique().numel() == NEURONS and (own.delta.abs().amax(0) > 100 * PARITY).all()


@pytest.mark.parametrize(("family", "dtype"), STORED)
def test_every_family_agrees_by_layers(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = saved(sound(family), tmp_path, DTYPES[dtype])
    own, captured = both(by_layers(checkpoint))
    assert max(differences(own, captured, LARGE)) < PARITY / 2
    whole, _ = both(load_model(checkpoint, "cpu"))
    torch.testing.assert_close(own.log_probabilities, whole.log_probabilities, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own.delta, whole.delta, atol=1e-5, rtol=1e-5)


def test_the_pass_takes_the_measured_positions_of_one_window_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = opened("llama-tied", False, tmp_path)
    evaluation, positions = text()
    few = np.isin(np.arange(len(positions.flat)), [1, 13, 14, 15])
    some = replace(positions, **{k: getattr(positions, k)[few] for k in ("flat", "window", "query", "target")})
    own = own_pass(model, evaluation, some)
    assert own.rows.tolist() == [1, 2, 3] and own.log_probabilities.shape == (3, 71) and own.delta.shape == (3, NEURONS)
    assert all(p.device.type == "meta" for p in model.skeleton.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.skeleton.modules())
    check_parity(own, capture(model, evaluation, some), LARGE)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by layers"])
def test_copies_that_are_no_batch_together_go_one_by_one(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened("gpt_neox", whole, tmp_path)
    together = own_pass(model, *text())
    for tokens in (1, 32, 48):  # a window has 16
        monkeypatch.setattr(passing, "BATCH_TOKENS", tokens)
        apart = own_pass(model, *text())
        assert torch.equal(apart.neurons, together.neurons)
        torch.testing.assert_close(apart.delta, together.delta, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(apart.log_probabilities, together.log_probabilities, atol=1e-5, rtol=1e-5)


def test_one_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    model = opened("gpt2", False, tmp_path)
    seen: list[set[str]] = []

    def filled(module: nn.Module, inputs: Any, output: Any) -> None:
        names = [n for n, p in model.skeleton.named_parameters(remove_duplicate=False) if p.device.type != "meta"]
        seen.append({".".join(n.split(".")[:3]) for n in names})

    for module in (model.skeleton.transformer.wte, *model.skeleton.transformer.h, model.skeleton.lm_head):
        module.register_forward_hook(filled)
    own_pass(model, *text())
    blocks = [{f"transformer.h.{i}"} for i in range(4)]
    assert seen == [{"transformer.wte.weight"}, *blocks, {"lm_head.weight"}]


def test_a_constant_added_to_all_logits_counts_for_nothing() -> None:
    model = sound("gpt_neox")
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits + 7.0)
    check_parity(*both(model), LARGE)


def test_neurons_that_never_vary_are_no_fault() -> None:
    model = sound("gpt_neox")
    for weights in model.gpt_neox.layers[-1].mlp.dense_h_to_4h.parameters():
        weights.zero_()
    own, captured = both(model)
    check_parity(own, captured, LARGE)
    assert (own.delta == 0).all()


def of_readout(**changes: Callable[[Any], Any]) -> Change:
    def change(model: Any, parts: Anatomy) -> Anatomy:
        changed = {name: new(getattr(parts.readout, name)) for name, new in changes.items()}
        return replace(parts, readout=replace(parts.readout, **changed))

    return change


def embedding_as_head(model: Any, parts: Anatomy) -> Anatomy:
    return replace(parts, readout=replace(parts.readout, unembedding=model.get_input_embeddings().weight))


def first_mlp(model: Any, parts: Anatomy) -> Anatomy:
    path = next(name for name, module in model.named_modules() if module is parts.mlp_output)
    return replace(parts, mlp_output=model.get_submodule(path.replace(f".{parts.layer}.", ".0.")))


def rows_of(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda model, parts: replace(parts, output_rows=change(parts.output_rows))


def post_norm(change: Callable[[PostNorm], PostNorm | None]) -> Change:
    def changed(model: Any, parts: Anatomy) -> Anatomy:
        assert parts.post_norm is not None
        return replace(parts, post_norm=change(parts.post_norm))

    return changed


FAULTS: dict[str, tuple[str, str, Change]] = {
    "gain dropped": ("llama", READOUT, of_readout(gain=torch.ones_like)),
    "shift dropped": ("gpt_neox", READOUT, of_readout(shift=torch.zeros_like)),
    "norm of another kind": ("gpt2", READOUT, of_readout(centred=lambda centred: not centred)),
    "final norm's epsilon": ("olmo", READOUT, of_readout(epsilon=lambda epsilon: 0.1)),
    "gain without its one": ("gemma", READOUT, of_readout(gain=lambda gain: gain - 1)),
    "cap dropped": ("gemma2", READOUT, of_readout(cap=lambda cap: None)),
    "cap of another size": ("vaultgemma", READOUT, of_readout(cap=lambda cap: 1.01 * cap)),
    "bias of the head dropped": ("phi", READOUT, of_readout(bias=lambda bias: None)),
    "rows of the head": ("llama-tied", READOUT, of_readout(unembedding=lambda rows: rows.roll(1, 0))),
    "output rows of others": ("gpt_neox-sequential", CLOSED_FORM, rows_of(lambda rows: rows.roll(1, 0))),
    "output rows scaled": ("gpt2", CLOSED_FORM, rows_of(lambda rows: 1.01 * rows)),
    "MLP's norm dropped": ("olmo2", CLOSED_FORM, post_norm(lambda norm: None)),
    "MLP's norm's gain without its one": (
        "gemma2",
        CLOSED_FORM,
        post_norm(lambda norm: replace(norm, gain=norm.gain - 1)),
    ),
    "rows of another order": ("opt", CLOSED_FORM, rows_of(lambda rows: rows.flip(0))),
    "MLP's norm's gain": ("olmo2", CLOSED_FORM, post_norm(lambda norm: replace(norm, gain=1 + norm.gain))),
}


def plant(monkeypatch: pytest.MonkeyPatch, family: str, change: Change) -> None:
    right = families.FAMILIES[family]
    planted = {**families.FAMILIES, family: lambda model: change(model, right(model))}
    monkeypatch.setattr(families, "FAMILIES", planted)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by layers"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_and_named(fault: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, words, change = FAULTS[fault]
    family = name.split("-")[0]
    model = opened(name, whole, tmp_path)
    plant(monkeypatch, family, change)
    with pytest.raises(ParityError, match=f"{words}.*nats.*family '{family}'.*report it") as refusal:
        check_parity(*both(model), LARGE)
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by layers"])
def test_the_epsilon_of_a_norm_after_the_mlp_is_seen_where_the_mlp_writes_little(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = sound("olmo2")
    quiet.model.layers[-1].mlp.down_proj.weight.mul_(0.01)
    checkpoint = saved(quiet, tmp_path)
    model = load_model(checkpoint, "cpu") if whole else by_layers(checkpoint)
    check_parity(*both(model), LARGE)
    plant(monkeypatch, "olmo2", post_norm(lambda norm: replace(norm, epsilon=10 * norm.epsilon)))
    with pytest.raises(ParityError, match=CLOSED_FORM):
        check_parity(*both(model), LARGE)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by layers"])
def test_a_cap_on_the_logits_that_the_readout_lacks_is_refused(whole: bool, tmp_path: Path) -> None:
    model = opened("llama", whole, tmp_path)
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: 30 * torch.tanh(logits / 30))
    with pytest.raises(ParityError, match=READOUT):
        check_parity(*both(model), LARGE)


def test_the_embedding_taken_for_an_untied_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sound("llama")
    plant(monkeypatch, "llama", embedding_as_head)
    with pytest.raises(ParityError, match=READOUT):
        check_parity(*both(model), LARGE)


def test_the_mlp_of_another_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sound("gpt2")
    plant(monkeypatch, "gpt2", first_mlp)
    assert anatomy(model).mlp_output is model.transformer.h[0].mlp.c_proj
    with pytest.raises(ParityError, match=CLOSED_FORM):
        check_parity(*both(model), LARGE)


def test_blocks_that_are_passed_what_is_another_blocks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened("gpt_neox", False, tmp_path)
    assert isinstance(model, LayeredModel)
    entering = layered._entering

    def without_mask(parts: Anatomy, batch: Tensor) -> Any:
        state, (args, kwargs) = entering(parts, batch)
        return state, (args, {**kwargs, "attention_mask": None})

    monkeypatch.setattr(layered, "_entering", without_mask)
    with pytest.raises(ParityError, match=READOUT):
        check_parity(*both(model), LARGE)


def test_losses_that_are_not_the_readouts_are_refused() -> None:
    own, captured = both(sound("gpt2"))
    with pytest.raises(ParityError, match=READOUT):
        check_parity(own, replace(captured, loss=captured.loss + 2 * PARITY), LARGE)
    with pytest.raises(ParityError, match=CLOSED_FORM):
        check_parity(replace(own, delta=own.delta * torch.nan), captured, LARGE)
