"""`--preset paper-code` through the command, against hooks on transformers' own model and sums in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from analyses.routing.captures import hooked_activations
from analyses.routing.test_head_ablation import head_outputs
from click.testing import CliRunner
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.routing.routing import Routing
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.cli import main
from rtdyn.model.families import anatomy
from rtdyn.store.run import Run, read_run, read_table
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep import step
from rtdyn.text.token_classes import classify

HEAD = 3
NEURONS = (5, 77, 200, 311, 480)


class Made(NamedTuple):
    """A run by the preset, with what its routing was given and came to."""

    run: Run
    said: list[str]
    context: Context
    routing: Routing


@pytest.fixture(scope="module")
def made(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    out = tmp_path_factory.mktemp("preset") / "run"
    kept: dict[str, tuple[Context, Any]] = {}

    def keeping(name: str, analyse: Any, context: Context) -> Any:
        kept[name] = context, analyse(context)
        return kept[name][1]

    with pytest.MonkeyPatch.context() as patch:
        analyses = tuple((name, partial(keeping, name, analyse), rows) for name, analyse, rows in step.GROUP_ANALYSES)
        patch.setattr(step, "GROUP_ANALYSES", analyses)
        result = CliRunner().invoke(
            main,
            ["track", "--model", "tiny", "--steps", "4000", "--preset", "paper-code", "--tokens", "2048",
             "--analyses", "ablation,routing,mediation", "--wandb", "disabled", "--out", str(out)],
        )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    yield Made(read_run(out), result.stderr.splitlines(), *kept["routing"])


@pytest.fixture(scope="module")
def model(takes_long: None, tiny: SuiteSpec) -> Any:
    return load_model(fetch_local(tiny, 4000), "cpu").double()


def test_what_the_preset_sets_is_said_and_stored_as_single_values(made: Made) -> None:
    assert made.said[0] == (
        "--preset paper-code sets --rare paper-code --class-by query --heads-to bos --heads-at query --unigram longtail"
    )
    config = made.run.manifest.config
    assert "preset" not in config and config["rare"] == ["paper-code"]
    stored = {name: config[name] for name in ("class_by", "heads_to", "heads_at", "unigram")}
    assert stored == {"class_by": "query", "heads_to": "bos", "heads_at": "query", "unigram": "longtail"}
    [rare] = [line for line in made.said if line.startswith("class rare")]
    assert f"{made.run.manifest.classes['rare'].positions:,} queries" in rare


def test_classes_are_the_papers_band_of_the_queries_own_tokens(made: Made) -> None:
    evaluation = made.context.evaluation
    n = len(evaluation.counts.counts)
    rank = classify(evaluation.counts, ["paper-text"], evaluation.n_logits).rank
    own = evaluation.text.windows.ravel()[made.context.captured.positions.flat]
    rare = made.context.captured.positions.members("rare")
    assert ((rank[own[rare]] > 0.15 * n - 1) & (rank[own[rare]] <= (evaluation.counts.counts > 0).sum())).all()
    assert rare.sum() == len(evaluation.positions.classes[0].measured) > 200


def test_a_head_gives_what_it_gives_in_transformers_with_all_attention_on_the_first_token(
    made: Made, model: Any
) -> None:
    captured, halves = made.context.captured, made.context.halves
    block, positions = captured.anatomy.blocks[0], captured.positions
    windows = torch.from_numpy(made.context.evaluation.text.windows.astype(np.int64))
    parts = anatomy(model)
    own = slice(HEAD * block.head_size, (HEAD + 1) * block.head_size)
    first = head_outputs(model, windows, parts.blocks[0], parts.blocks[0].attention)

    def to_first(z: Tensor) -> Tensor:
        z[..., own] = first[..., own]
        return z

    # with tiny's parallel residual other positions cannot matter, so all are ablated at once
    usual, ablated = (hooked_activations(model, windows, parts.blocks[0], change) for change in (None, to_first))
    window, query = positions.window[made.routing.matched.rare], positions.query[made.routing.matched.rare]
    change = (ablated - usual).abs()[window, query].numpy()
    group = made.context.groups["top"]
    assert isinstance(group, Group)
    expected = np.mean(
        [change[halves[window] == 1 - half][:, members].sum() for half, members in enumerate(group.members)]
    )
    [stored] = read_table(made.run, "metrics").filter(
        (pl.col("metric") == "head_effect_total") & (pl.col("group") == "top") & (pl.col("head") == HEAD)
    )["value"]
    assert stored == pytest.approx(expected, rel=1e-4) and expected > 1


def deltas(made: Made, model: Any, band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Δ and Δ_frozen (NEURONS, n) at the rare positions, in float64, by transformers' own model with a neuron set."""
    captured, evaluation = made.context.captured, made.context.evaluation
    log_f = np.log(evaluation.counts.counts + 1.0)
    direction = np.zeros(evaluation.n_logits)
    direction[: len(log_f)] = log_f - log_f.mean()
    direction = direction * band / np.linalg.norm(direction * band)
    u, kept = torch.from_numpy(direction), torch.from_numpy(band)
    rare = captured.positions.members("rare")
    window, query = captured.positions.window[rare], captured.positions.query[rare]
    target = torch.from_numpy(captured.positions.target[rare])[:, None]
    windows = torch.from_numpy(evaluation.text.windows.astype(np.int64))

    def logits(neuron: int | None) -> Tensor:
        def to_mean(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            changed = inputs[0].clone()
            if neuron is not None:
                changed[..., neuron] = captured.moments.mean[neuron]
            return (changed,)

        handle = anatomy(model).mlp_output.register_forward_pre_hook(to_mean)
        with torch.no_grad():
            result = model(windows).logits[window, query]
        handle.remove()
        return result

    def loss(of: Tensor) -> Tensor:
        return -of.log_softmax(-1).gather(1, target)[:, 0]

    before, found = logits(None), []
    for neuron in NEURONS:
        shift = logits(neuron) - before
        shift -= shift.mean(-1, keepdim=True)
        frozen = shift * kept
        frozen -= (frozen @ u)[:, None] * u
        found.append((loss(before + shift) - loss(before), loss(before + frozen) - loss(before)))
    whole, frozen_too = zip(*found, strict=True)
    return torch.stack(whole).numpy(), torch.stack(frozen_too).numpy()


def test_mediation_is_through_the_rare_bands_direction_alone(made: Made, model: Any) -> None:
    band = made.context.evaluation.classes.named("rare").types
    whole, frozen = deltas(made, model, band)
    expected = 1 - np.abs(frozen).mean(1) / np.abs(whole).mean(1)
    of_all_types = 1 - np.abs(deltas(made, model, np.ones_like(band))[1]).mean(1) / np.abs(whole).mean(1)
    stored = read_table(made.run, "neurons").sort("neuron")[list(NEURONS)]
    reach = stored["error_bound_mediation_rare"].to_numpy() + 1e-5  # and the float32 of the capture
    assert (np.abs(stored["mediation_rare"].to_numpy() - expected) <= reach).all()
    assert (np.abs(stored["mean_abs_frozen_rare"].to_numpy() - np.abs(frozen).mean(1)) < 2e-5).all()
    assert (np.abs(of_all_types - expected) > 3 * reach).all()
