"""Shared fixtures: the bundled suite, captures of trained checkpoints, and small random models.

What is large is imported where it is needed: the process that gives tests to the others needs none of it.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import transformers

    from rtdyn.capture.forward_pass import Capture
    from rtdyn.suites.suite import SuiteSpec
    from rtdyn.text.evaluation import Evaluation
    from rtdyn.text.options import EvaluationOptions

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores, and so do the commands they run
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("WANDB_HTTP_TIMEOUT", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell has it for what it runs behind, and commands inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

EARLY, MIDDLE, LATE = 1, 512, 4000
LONGEST = ("test_track", "test_mirror", "test_ray", "test_slurm", "test_repository", "test_stream", "test_datasets")
"""Files that take longest: begun first, so that no process waits for another at the end."""

LIMIT_OF_SLOW = 1800.0
"""Seconds. A limit is there to end a hang, and on a busy machine 300 s are none. A fixture counts into the limit of the
first test that asks for it; if it is cut off, all tests that share it fail with it."""


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """One more than cores: a sixth to a quarter of the time tests wait for servers and other processes."""
    cores = yield
    return cores + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests and modules stay to the end, so that searching them for garbage, a third of the time, finds none."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells quick tests from slow ones, gives the slow ones time, and puts the files of LONGEST first."""
    for item in items:
        if "takes_long" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
        if item.get_closest_marker("slow") is None:
            item.add_marker("quick")
        else:
            item.add_marker(pytest.mark.timeout(LIMIT_OF_SLOW))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def takes_long() -> None:
    """Asked for by fixtures that take seconds: every test that uses one, at whatever remove, is slow."""


@pytest.fixture(scope="session")
def tiny() -> SuiteSpec:
    from rtdyn.suites.find import find_suite, load_suites

    return find_suite("tiny", load_suites())


@pytest.fixture(scope="session")
def options() -> EvaluationOptions:
    """The command's defaults, but for fewer positions."""
    from rtdyn.text.options import EvaluationOptions

    return EvaluationOptions(
        corpus=None,
        text_field="text",
        frequencies=None,
        frequency_tokens=1,
        bands=("paper-text",),
        tokens=13312,
        window=256,
        bos="prepend",
        class_by="target",
        min_targets=40,
        positions_per_rare=1.5,
        seed=0,
    )


@pytest.fixture(scope="session")
def evaluation(tiny: SuiteSpec, options: EvaluationOptions) -> Evaluation:
    from rtdyn.text.evaluation import prepare

    return prepare(tiny, LATE, options)


@pytest.fixture(scope="session")
def captured(takes_long: None, tiny: SuiteSpec, evaluation: Evaluation) -> Callable[[int], Capture]:
    """Captures of the bundled checkpoints, made once each."""
    from rtdyn.capture.forward_pass import capture
    from rtdyn.checkpoints.checkpoint import load_model
    from rtdyn.checkpoints.local import fetch_local

    made: dict[int, Capture] = {}

    def at(step: int) -> Capture:
        if step not in made:
            model = load_model(fetch_local(tiny, step), "cpu")
            made[step] = capture(model, evaluation.text, evaluation.positions)
        return made[step]

    return at


@pytest.fixture
def random_neox() -> Callable[..., transformers.GPTNeoXForCausalLM]:
    """Untrained GPT-NeoX models whose norms have gain and bias of their own."""
    import torch
    import transformers

    def build(seed: int = 0, **changes: object) -> transformers.GPTNeoXForCausalLM:
        torch.manual_seed(seed)
        config = transformers.GPTNeoXConfig(
            **{
                "vocab_size": 61,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "max_position_embeddings": 32,
                "tie_word_embeddings": False,
                "attn_implementation": "eager",
                **changes,
            }
        )
        model = transformers.GPTNeoXForCausalLM(config).eval().requires_grad_(False)
        model.gpt_neox.final_layer_norm.weight.normal_(1.0, 0.3)
        model.gpt_neox.final_layer_norm.bias.normal_(0.0, 0.3)
        return model

    return build


@pytest.fixture(scope="session")
def tiny_folder(tiny: SuiteSpec) -> Path:
    assert tiny.path is not None
    return tiny.path
