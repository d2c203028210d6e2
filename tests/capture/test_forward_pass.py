"""A capture against transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPTNeoXForCausalLM

from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.errors import InputError
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation

pytestmark = pytest.mark.slow  # seconds in all: a trained checkpoint is captured


@pytest.fixture(scope="module")
def trained(tiny: SuiteSpec) -> GPTNeoXForCausalLM:
    return load_model(fetch_local(tiny, 4000), "cpu")


def test_losses_are_those_of_the_model(
    trained: GPTNeoXForCausalLM, evaluation: Evaluation, captured: Callable[[int], Capture]
) -> None:
    windows = torch.from_numpy(evaluation.text.windows[:8].astype(np.int64))
    with torch.no_grad():
        logits = trained(windows).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), windows[:, 1:], reduction="none")
    expected = loss[torch.from_numpy(evaluation.text.kept[:8, :-1])]
    one = captured(4000)
    torch.testing.assert_close(one.loss[: len(expected)], expected, atol=1e-4, rtol=1e-5)
    assert len(one.loss) == evaluation.text.kept.sum()
    assert (one.measured_loss == one.loss[np.isin(one.kept_flat, one.positions.flat)]).all()


def test_residual_and_activations_rebuild_the_logits(
    trained: GPTNeoXForCausalLM, evaluation: Evaluation, captured: Callable[[int], Capture]
) -> None:
    one, rows = captured(4000), np.unique(captured(4000).positions.window)[:3]
    mine = np.isin(one.positions.window, rows)
    windows = torch.from_numpy(evaluation.text.windows.astype(np.int64))
    hidden: dict[int, torch.Tensor] = {}
    handle = trained.gpt_neox.layers[-1].register_forward_hook(lambda m, i, o: hidden.update({0: o}))
    with torch.no_grad():
        logits = trained(windows[rows]).logits
    handle.remove()
    at = (np.searchsorted(rows, one.positions.window[mine]), one.positions.query[mine])
    last = hidden[0][0] if isinstance(hidden[0], tuple) else hidden[0]
    torch.testing.assert_close(one.residual[mine], last[at], atol=1e-5, rtol=1e-5)
    rebuilt = trained.lm_head(trained.gpt_neox.final_layer_norm(one.residual[mine]))
    torch.testing.assert_close(rebuilt, logits[at], atol=1e-4, rtol=1e-4)
    mlp = trained.gpt_neox.layers[-1].mlp
    written = one.activations[mine] @ one.anatomy.output_rows + mlp.dense_4h_to_h.bias
    torch.testing.assert_close(mlp.dense_4h_to_h(one.activations[mine]), written, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_moments_are_those_of_all_kept_positions(evaluation: Evaluation, trained: GPTNeoXForCausalLM) -> None:
    kept_flat = np.flatnonzero(evaluation.text.kept.ravel())
    everything = replace(evaluation.positions, flat=kept_flat, classes=())
    small = replace(everything, flat=kept_flat)
    one = capture(trained, evaluation.text, small)
    values, moments = one.activations.double(), one.moments
    assert moments.n == len(values) == len(kept_flat)
    torch.testing.assert_close(moments.mean, values.mean(0))
    torch.testing.assert_close(moments.variance, values.var(0, unbiased=False))
    torch.testing.assert_close(moments.minimum.double(), values.amin(0))
    torch.testing.assert_close(moments.maximum.double(), values.amax(0))
    torch.testing.assert_close(moments.positive, (values > 0).double().mean(0))
    over_all = capture(trained, evaluation.text, evaluation.positions, mean_over="all")
    assert over_all.moments.n == evaluation.text.windows.size
    assert (over_all.moments.mean - moments.mean).abs().max() > 1e-4


def test_batch_size_changes_nothing_but_round_off(
    trained: GPTNeoXForCausalLM, evaluation: Evaluation, captured: Callable[[int], Capture]
) -> None:
    one, other = captured(4000), capture(trained, evaluation.text, evaluation.positions, batch_tokens=700)
    torch.testing.assert_close(one.residual, other.residual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.activations, other.activations, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.moments.mean, other.moments.mean, atol=1e-7, rtol=1e-6)


def test_attention_is_kept_where_asked_for(trained: GPTNeoXForCausalLM, evaluation: Evaluation) -> None:
    one = capture(trained, evaluation.text, evaluation.positions, attention=True)
    assert one.attention is not None
    n, length = len(one.positions.flat), evaluation.text.windows.shape[1]
    assert one.attention.shape == (n, 2, 6, length)
    torch.testing.assert_close(one.attention.sum(-1), torch.ones(n, 2, 6), atol=1e-5, rtol=1e-5)
    future = torch.arange(length) > torch.from_numpy(one.positions.query)[:, None]
    assert (one.attention[future[:, None, None].expand_as(one.attention)] == 0).all()
    row = int(one.positions.window[0])
    window = torch.from_numpy(evaluation.text.windows[row : row + 1].astype(np.int64))
    with torch.no_grad():
        reference = trained(window, output_attentions=True).attentions
    for place, layer in enumerate(reference[-2:]):
        torch.testing.assert_close(one.attention[0, place], layer[0, :, one.positions.query[0]])


def test_the_stream_that_enters_the_last_two_blocks_is_kept_with_attention(
    trained: GPTNeoXForCausalLM, evaluation: Evaluation, captured: Callable[[int], Capture]
) -> None:
    one = capture(trained, evaluation.text, evaluation.positions, attention=True)
    assert captured(4000).stream is None and one.stream is not None
    assert one.stream.shape == (*evaluation.text.windows.shape, 96)
    windows = torch.from_numpy(evaluation.text.windows[5:7].astype(np.int64))
    with torch.no_grad():
        entering = trained(windows, output_hidden_states=True).hidden_states[-3]
    torch.testing.assert_close(one.stream[5:7], entering, atol=1e-5, rtol=1e-5)


class LargeArrays(TorchDispatchMode):
    """Counts the arrays of at least so many numbers that are made while it is on; views are none."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.kept = numbers, {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= self.numbers:
            self.kept[result.untyped_storage().data_ptr()] = result
        return result


def test_what_is_returned_is_not_held_twice_on_the_way(trained: GPTNeoXForCausalLM, evaluation: Evaluation) -> None:
    flat = np.flatnonzero(evaluation.text.kept.ravel())
    everything = replace(evaluation.positions, flat=flat, classes=())
    with LargeArrays(len(flat) * 512) as made:
        one = capture(trained, evaluation.text, everything, batch_tokens=1024)
    assert [array.shape for array in made.kept.values()] == [one.activations.shape]


def test_the_hooks_are_gone_afterwards(trained: GPTNeoXForCausalLM, evaluation: Evaluation) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trained.modules())

    before = hooks()
    capture(trained, evaluation.text, evaluation.positions, attention=True)
    assert hooks() == before


def test_token_ids_beyond_the_models_rows_are_refused(
    random_neox: Callable[..., GPTNeoXForCausalLM], evaluation: Evaluation
) -> None:
    with pytest.raises(InputError, match="tokenizer belongs to another model"):
        capture(random_neox(max_position_embeddings=256), evaluation.text, evaluation.positions)


def test_overflowing_activations_are_refused(
    random_neox: Callable[..., GPTNeoXForCausalLM], evaluation: Evaluation
) -> None:
    model = random_neox(vocab_size=2560, max_position_embeddings=256)
    model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight[0, 0] = 3e38
    model.gpt_neox.layers[-1].mlp.dense_h_to_4h.bias[0] = 1e10
    with pytest.raises(InputError, match="overflow"):
        capture(model, evaluation.text, evaluation.positions)
