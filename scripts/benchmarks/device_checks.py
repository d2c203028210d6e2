"""The analyses of one bundled checkpoint on two devices, compared.

The forward pass runs on both. After it both are given the same capture, and after the choice of groups the same groups.
So a neuron that changes sides at a threshold does not hide what differs. Each choice is compared itself.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_numbers import Difference, Tolerance, different, different_rows
from synthetic_step import drawn_evaluation

import rtdyn
from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import ClassInfluence, Influence, influence
from rtdyn.analyses.influence.losses import mean_losses
from rtdyn.analyses.influence.summary import summarise
from rtdyn.analyses.mediation.frozen import RELATIVE
from rtdyn.analyses.mediation.mediation import Mediation, ThroughFrequency, mediation
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.regimes import regimes
from rtdyn.capture.collect import NeuronMoments
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.capture.layered_model import open_model
from rtdyn.checkpoints.checkpoint import Checkpoint, read_config, sha256_of
from rtdyn.model.families import Anatomy
from rtdyn.names import ANALYSES
from rtdyn.sweep.analyses import GROUP_ANALYSES
from rtdyn.sweep.step import analyse_step
from rtdyn.tables.influence import ablation_metrics, loss_metrics
from rtdyn.tables.mediation import mediation_rows
from rtdyn.tables.regimes import regime_metrics
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import overlap
from rtdyn.text.token_classes import DECILES
from rtdyn.undefined import Undefined

TINY = Path(rtdyn.__file__).parent / "data" / "tiny"
OPTIONS = StepOptions(ANALYSES, "kept", "mean_abs", 1e-5, 1.0, "auto", "cpu", 0)
POSITIONS_PER_RARE, MIN_TARGETS = 3.0, 40

FORWARD = Tolerance(5e-5)
"""float32 sums of some hundred terms in another order, through three layers."""
POSITIONS_MOVED = 3
"""Positions by which a neuron's share of positive activations may move: round-off takes an activation that is nearly
zero to either side. One of 13,068 did between a CPU and an H200."""
DOUBLE = Tolerance(1e-9)
"""float64 sums in another order."""
SUMS = Tolerance(1e-3)
"""Sums of changes of loss, each certified only as its class's mean is."""
PERMUTED = Tolerance(0.003, 0.0111)
"""A rank among as few as 99 draws may move by one."""
EIGEN = {"*": Tolerance(1e-7, 1e-9), "p_value": PERMUTED}
GRAPHS = {"*": Tolerance(1e-4, 1e-6), "p_value": PERMUTED}
"""Correlations are rounded to float32, whose last digit may move."""
RERUN = {"*": Tolerance(3e-3, 1e-5), "p_value": PERMUTED}
"""Blocks run again in float32."""
FITS = {"*": Tolerance(3e-3, 1e-5), "p_value": PERMUTED}
"""As between two kinds of processors (`rtdyn.judge.tolerances`)."""
RATIOS = {"*": Tolerance(0.02, 1e-5), "p_value": PERMUTED}
"""An optimiser ends where its steps no longer gain. A likelihood ratio moved by 1.0 % between a CPU and an H200."""
BOUNDS = {"*": Tolerance(0.0, 0.0, factor=5.0)}
"""How wide a proven bound is, is no result: it moved by a factor of 3.7 between a CPU and an H200. That the numbers
themselves lie within the bounds of both devices is compared apart."""
REFINED = {"*": Tolerance(0.0, 0.01, factor=5.0)}
"""The share of pairs that the bounds asked more work for is none either: 0.064 and 0.051."""
BY_METRIC = {"*_over_*": RATIOS, "error_bound_max": BOUNDS, "refined_share": REFINED}
"""Metrics whose rows are compared otherwise than their analysis is."""
FROZEN = {"*": Tolerance(0.01, 0.01), "p_value": Tolerance(0.05, 0.0211)}
"""A frozen influence is certified to one per cent."""
COLUMNS = Tolerance(0.02)
"""Of the largest: null-space shares and changes of confidence of single neurons."""
ERRORS = Tolerance(0.05)
"""Of the largest standard error of a mediated share: its sums by window are not certified each. Another division into
blocks on one CPU moved it by 2.5 %."""
BY_ANALYSIS: Mapping[str, Mapping[str, Tolerance]] = {
    "dimensionality": EIGEN,
    "modularity": GRAPHS,
    "routing": RERUN,
    "heavytail": EIGEN,
    "mediation": FROZEN,
}
FREQUENCY_COLUMNS = ("mean_abs_frozen", "mediation", "se_mediation", "error_bound_mediation")
"""Columns of a class that `_frequencies_apart` compares."""
SAME_MEMBERS = 0.95
"""Least share of a group's members that both devices choose."""


@dataclass(frozen=True)
class Check:
    """One analysis on both devices."""

    name: str
    seconds: tuple[float, float]
    """On the first device and on the second."""
    differences: list[Difference]
    notes: Mapping[str, object]


Found = tuple[list[Difference], Mapping[str, object]]


@dataclass(frozen=True)
class Side:
    """A device with what is computed there."""

    device: str
    captured: Capture
    result: Influence


def tiny_step(step: int) -> Checkpoint:
    """A checkpoint of the bundled suite."""
    folder = TINY / f"step{step}"
    file = folder / "model.safetensors"
    return Checkpoint(step, folder, folder.name, None, {file.name: sha256_of(file)})


def tiny_evaluation(tokens: int, step: int) -> Evaluation:
    """Windows of ids drawn from the suite's own counts: text would need a tokenizer and a corpus."""
    counts = np.load(TINY / "token_counts.npy")
    config = read_config(TINY / f"step{step}")
    return drawn_evaluation(counts, config, tokens, positions_per_rare=POSITIONS_PER_RARE, min_targets=MIN_TARGETS)


def moved(captured: Capture, device: str, parts: Anatomy) -> Capture:
    """The capture on another device, with the anatomy of the model there."""
    tensors: dict[str, Any] = {
        name: None if value is None else value.to(device)
        for name, value in vars(captured).items()
        if name in ("residual", "activations", "attention", "stream", "heads", "first_heads", "mean_parts")
    }
    moments = vars(captured.moments).items()
    on_device: dict[str, Any] = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in moments}
    return replace(captured, moments=NeuronMoments(**on_device), anatomy=parts, **tensors)


def on_both(
    name: str, devices: tuple[str, str], calls: Sequence[Callable[[], Any]], compare: Callable[[Any, Any], Found]
) -> Check:
    """Both calls' results compared. What the second raises is a difference, so that the analyses after it still run."""
    here, seconds = timed(devices[0], calls[0])
    began = time.perf_counter()
    try:
        there, other_seconds = timed(devices[1], calls[1])
    except Exception:
        fault = traceback.format_exc(limit=-6)
        return Check(name, (seconds, time.perf_counter() - began), [Difference(name, "", fault, "no fault")], {})
    return Check(name, (seconds, other_seconds), *compare(here, there))


def timed(device: str, call: Callable[[], Any]) -> tuple[Any, float]:
    """What the call gives, and its seconds with the device's work done."""
    began = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def checks(step: int, tokens: int, devices: tuple[str, str]) -> Iterator[Check]:
    """Every analysis on both devices, one after another."""
    checkpoint, evaluation = tiny_step(step), tiny_evaluation(tokens, step)
    models = [open_model(checkpoint, device, False, OPTIONS.memory_bytes) for device in devices]

    def forward(model: Any) -> Capture:
        return capture(model, evaluation.text, evaluation.positions, attention=True)

    # without these there is nothing to go on with, so that a fault ends the comparison
    first, seconds = timed(devices[0], lambda: forward(models[0]))
    second, other_seconds = timed(devices[1], lambda: forward(models[1]))
    yield Check("capture", (seconds, other_seconds), captures_apart(first, second)[0], {})
    layered = open_model(checkpoint, devices[1], True, OPTIONS.memory_bytes)
    yield on_both("capture by layers", devices, [lambda: first, lambda: forward(layered)], captures_apart)

    shared = [first, moved(first, devices[1], second.anatomy)]
    results = [timed(d, partial(_influence, c, evaluation)) for d, c in zip(devices, shared, strict=True)]
    (here, seconds), (there, other_seconds) = results
    yield Check("influence", (seconds, other_seconds), *influences_apart(here, there, 0.0))
    # two forward passes in float32 lie apart by more than the bounds, which are of one
    yield on_both(
        "influence of the device's own capture",
        devices,
        [lambda: here, partial(_influence, second, evaluation)],
        lambda a, b: influences_apart(a, b, SUMS.relative),
    )
    sides = [Side(d, c, r) for d, c, r in zip(devices, shared, (here, there), strict=True)]
    yield from _further(evaluation, sides)


def step_rows(step: int, tokens: int, device: str) -> list[dict[str, Any]]:
    """The rows of a whole step on a device, from its own forward pass to its own groups."""
    options = replace(OPTIONS, device=device)
    tables = analyse_step(tiny_step(step), None, tiny_evaluation(tokens, step), options, lambda stage: None)
    return tables.metrics.to_dicts()


def rows_apart(here: Sequence[Any], there: Sequence[Any], by_field: Mapping[str, Tolerance]) -> list[Difference]:
    """Where rows differ by more than `by_field` allows, or BY_METRIC for metrics that are named there."""
    sides = [[one if isinstance(one, dict) else asdict(one) for one in rows] for rows in (here, there)]
    found: list[Difference] = []
    for metric in sorted({row["metric"] for rows in sides for row in rows}):
        own = next((tolerances for name, tolerances in BY_METRIC.items() if fnmatch(metric, name)), by_field)
        mine, theirs = ([row for row in rows if row["metric"] == metric] for rows in sides)
        found += different_rows(mine, theirs, own)
    return found


def whole_steps_apart(here: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Where the rows of `step_rows` differ by more than their analysis may, or fits where groups differ."""
    found: list[Difference] = []
    for analysis in sorted({row["analysis"] for row in (*here, *there)}):
        rows = [[row for row in side if row["analysis"] == analysis] for side in (here, there)]
        found += rows_apart(rows[0], rows[1], FROZEN if analysis == "mediation" else FITS)
    return found


def captures_apart(here: Capture, there: Capture) -> Found:
    """Arrays of the forward pass; the share of positive activations may move by POSITIONS_MOVED positions."""
    names = ("residual", "activations", "loss", "attention", "stream", "heads", "first_heads")
    pairs = [(f"capture.{name}", getattr(here, name), getattr(there, name)) for name in names]
    moments = ("n", "mean", "variance", "minimum", "maximum")
    pairs += [
        (f"capture.moments.{name}", getattr(here.moments, name), getattr(there.moments, name)) for name in moments
    ]
    share = Tolerance(0.0, (POSITIONS_MOVED + 0.5) / here.moments.n)
    found = different("capture.moments.positive", here.moments.positive, there.moments.positive, share)
    return found + [one for name, x, y in pairs for one in different(name, x, y, FORWARD)], {}


def _influence(captured: Capture, evaluation: Evaluation) -> Influence:
    cluster, members = evaluation.clusters.index, evaluation.pseudo_classes
    return influence(
        captured,
        torch.from_numpy(evaluation.classes.deciles),
        DECILES,
        memory_bytes=OPTIONS.memory_bytes,
        pseudo_classes=None if isinstance(members, Undefined) else torch.from_numpy(members),
        half=torch.from_numpy(window_halves(cluster)[evaluation.positions.window]),
        cluster=cluster,
    )


def influences_apart(here: Influence, there: Influence, relative: float) -> Found:
    """Means may differ by the sum of their proven bounds, and by `relative` of the largest influence."""
    found: list[Difference] = []
    notes: dict[str, object] = {"refined_share": [here.refined_share, there.refined_share]}
    for name, c in here.classes.items():
        other = there.classes[name]
        bounds = _sum_of_bounds(c.error_bound, other.error_bound)
        limit = bounds + relative * float(c.mean_abs.max())
        for field in ("mean_abs", "mean"):
            one, two = getattr(c, field), getattr(other, field)
            found += different(f"influence.{name}.{field}", one, two, DOUBLE, limit)
            notes[f"{name}.{field}: largest difference over its bound"] = float(
                ((one.cpu() - two.cpu()).abs().numpy() / bounds).max()
            )
        for field in ("window_ids", "window_cluster", "window_n", "decile_n"):
            found += different(f"influence.{name}.{field}", getattr(c, field), getattr(other, field), Tolerance(0))
        for field in ("mean_abs_se", "mean_se", "window_sum", "window_abs_sum", "decile_sum", "decile_abs_sum"):
            found += different(f"influence.{name}.{field}", getattr(c, field), getattr(other, field), SUMS)
    return found + different("influence.pseudo", here.pseudo, there.pseudo, SUMS), notes


def _further(evaluation: Evaluation, sides: list[Side]) -> Iterator[Check]:
    """All that comes after the influence, of the same capture on both devices and with the first's groups."""
    cluster, members = evaluation.clusters.index, evaluation.pseudo_classes
    layer, halves = sides[0].captured.anatomy.layer, window_halves(cluster)
    shared = 0.0 if isinstance(members, Undefined) else overlap(members)
    devices = (sides[0].device, sides[1].device)

    def both(name: str, call: Callable[[Side], Any], compare: Callable[[Any, Any], Found]) -> Check:
        return on_both(name, devices, [partial(call, side) for side in sides], compare)

    def rows(name: str, call: Callable[[Side], Any], by_field: Mapping[str, Tolerance]) -> Check:
        return both(name, call, lambda a, b: (rows_apart(a, b, by_field), {"rows": len(a)}))

    def summaries(side: Side) -> Any:
        losses = loss_metrics(mean_losses(side.captured, evaluation.text.windows.shape[1], cluster))
        return [*losses, *ablation_metrics(summarise(side.result, 0), side.result.refined_share, layer)]

    yield rows("summaries", summaries, FITS)
    yield rows("regimes", lambda s: regime_metrics(regimes(s.result, evaluation, OPTIONS), layer), FITS)

    def grouped(side: Side) -> dict[str, Group | Undefined]:
        return split_groups(side.result, cluster, matching_cells(side.captured), shared, 0)

    groups = grouped(sides[0])
    yield both("groups", grouped, groups_apart)

    def context(side: Side) -> Context:
        options = replace(OPTIONS, device=side.device)
        return Context(side.captured, side.result, evaluation, halves, groups, options)

    for name, analyse, rows_of in GROUP_ANALYSES:
        if name == "mediation":
            compare = partial(mediations_apart, context(sides[0]))
            yield both(name, lambda side: mediation(context(side)), compare)
        else:

            def metrics(side: Side, analyse: Any = analyse, rows_of: Any = rows_of) -> Any:
                return rows_of(analyse(context(side)), context(side)).metrics

            yield rows(name, metrics, BY_ANALYSIS[name])


def mediations_apart(context: Context, here: Mediation, there: Mediation) -> Found:
    """Rows, and columns of every neuron: those that are certified by their proven bounds, others by COLUMNS."""
    mine, theirs = (mediation_rows(result, context) for result in (here, there))
    found = rows_apart(mine.metrics, theirs.metrics, FROZEN)
    certified: set[str] = set()
    if not isinstance(here.frequency, Undefined) and not isinstance(there.frequency, Undefined):
        for name, c in context.influence.classes.items():
            found += _frequencies_apart(name, c, here.frequency, there.frequency)
            certified |= {f"{column}_{name}" for column in FREQUENCY_COLUMNS}
    others = [{k: v for k, v in side.columns.items() if k not in certified} for side in (mine, theirs)]
    return found + different("mediation", others[0], others[1], COLUMNS), {"rows": len(mine.metrics)}


def _frequencies_apart(
    name: str, c: ClassInfluence, here: ThroughFrequency, there: ThroughFrequency
) -> list[Difference]:
    """Numbers by the sum of their bounds; bounds by BOUNDS, and where they tell more by what they had to keep to."""
    frozen, share, other, other_share = here.frozen[name], here.share[name], there.frozen[name], there.share[name]
    # a pair whose bound is just narrow enough keeps it, and one just too wide gets a far narrower one
    promised = (RELATIVE * c.mean_abs).clamp(min=OPTIONS.tolerance)
    of_share = ((promised + c.error_bound) / (c.mean_abs - c.error_bound)).masked_fill(share.value.isnan(), 0.0)
    found = different(f"mediation.se_mediation_{name}", share.se, other_share.se, ERRORS)
    for column, one, two, bounds, room in (
        ("mean_abs_frozen", frozen.mean_abs, other.mean_abs, (frozen.error_bound, other.error_bound), promised),
        ("mediation", share.value, other_share.value, (share.error_bound, other_share.error_bound), of_share),
    ):
        limit = _sum_of_bounds(*bounds)
        found += different(f"mediation.{column}_{name}", one, two, DOUBLE, limit)
        x, y = (np.nan_to_num(bound.cpu().numpy()) for bound in bounds)
        allowed = np.maximum(BOUNDS["*"].limit(0.0, x, y), room.cpu().numpy())
        found += different(f"mediation.error_bound_{column}_{name}", *bounds, DOUBLE, allowed)
    return found


def _sum_of_bounds(here: torch.Tensor, there: torch.Tensor) -> np.ndarray:
    """(F,): what two numbers may lie apart whose distances from one exact number are bounded; 0 where undefined."""
    return np.nan_to_num((here.cpu() + there.cpu()).numpy())


def groups_apart(here: Mapping[str, Group | Undefined], there: Mapping[str, Group | Undefined]) -> Found:
    """Groups of which the devices choose fewer than SAME_MEMBERS in common."""
    found: list[Difference] = []
    notes: dict[str, object] = {}
    for name, one in here.items():
        other = there[name]
        if isinstance(one, Undefined) or isinstance(other, Undefined):
            found += [] if one == other else [Difference(f"groups.{name}", str(one), str(other), "equal")]
            continue
        for half, (mine, theirs) in enumerate(zip(one.members, other.members, strict=True)):
            both = len(np.intersect1d(mine, theirs)) / max(1, len(np.union1d(mine, theirs)))
            notes[f"{name}@{half}"] = {"members": len(mine), "in_common": both}
            if both < SAME_MEMBERS:
                found.append(Difference(f"groups.{name}@{half}", f"{both:.3f} in common", "", f">= {SAME_MEMBERS}"))
    return found, notes
