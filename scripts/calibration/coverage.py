"""Do the printed intervals cover? Replicates of a text, each measured as a run would be, against the text's own value.

    python scripts/calibration/coverage.py --step 4000 --targets 200 --replicates 400 [--json FILE]
    python scripts/calibration/coverage.py --model FOLDER --text FILE --tokens 120000 --replicates 50 [--json FILE]

A step of a suite, the bundled one or any folder of checkpoints, is measured once on a large text. A replicate is a
part of it, of windows that hold about so many rare targets. They are windows drawn one by one (`own`), documents of 4
or 16 consecutive windows, or one run of consecutive windows (`one text`). Windows and documents are drawn with
replacement. So they are independent draws of the large text, and its value is the true one whatever its length. Prints,
by design, the share of 95 % intervals that hold the large text's value, and the bias in standard deviations of the
replicates. The whole table takes an hour on one core; `--designs own --replicates 40` is the short form that the tests
run.

    python scripts/calibration/coverage.py --step 4000 --curve-bias --replicates 1600 --designs own "4 windows"

Prints the bias of κ and excess alone, with its standard error. Their errors have long tails, so that the bias of a
hundred replicates is itself uncertain by 0.1 and more. No attention is captured: 1,600 replicates take minutes.

    python scripts/calibration/coverage.py --step 4000 --curve-intervals --replicates 60 --designs own "4 windows"

Prints the coverage of r1, r2, κ and excess alone: of their intervals, and of t intervals, which know of no leaps.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from known_delta import all_deltas, influence_on

from rtdyn.analyses.half_samples import HALVES, Corrected, HalfSamples, half_samples, means
from rtdyn.analyses.influence.ablation import ClassInfluence
from rtdyn.analyses.influence.losses import mean_losses
from rtdyn.analyses.influence.signs import signs_of
from rtdyn.analyses.influence.summary import summarise_class
from rtdyn.analyses.regimes.fit import fit_curves, fit_regimes
from rtdyn.analyses.regimes.resampled import LOGARITHMIC, resampled
from rtdyn.analyses.regimes.summary import FitValue, corrected_values, fit_values
from rtdyn.analyses.routing.differences import class_difference, gini
from rtdyn.analyses.routing.profiles import PROFILE_OFFSETS, Correlation, attention_profiles
from rtdyn.analyses.routing.reference import reference
from rtdyn.analyses.statistics import CLEAR_SE, Estimate, as_numpy, clustered_se, mean_interval
from rtdyn.analyses.top import TOP_SHARE
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.locate import find_tokenizer
from rtdyn.names import COMMON, RARE
from rtdyn.store.schema import PLAIN
from rtdyn.streams import stream
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text.clusters import text_clusters
from rtdyn.text.documents import read_documents
from rtdyn.text.draw import DrawnWindow
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.positions import ClassPositions, MeasuredPositions, measure
from rtdyn.text.tokenizer import load_tokenizer
from rtdyn.text.windows import EvaluationSet, pack
from rtdyn.undefined import Undefined

DESIGNS = {"own": 1, "4 windows": 4, "16 windows": 16, "one text": 0}
CURVE = ("kappa", "excess", "r1", "r2")
POSITIONS_PER_RARE = 10.0
NO_ANALYSIS = Undefined("no pseudo-classes are drawn here")


@dataclass(frozen=True)
class Population:
    """A large text, measured once."""

    captured: Capture
    text: EvaluationSet
    delta: np.ndarray
    """float32 (N, F)."""
    surprise: np.ndarray
    """float64 (windows,)."""


def population(step: int, text: str, tokens: int, attention: bool = True, model: str = "tiny") -> Population:
    """A suite's step on the first `tokens` tokens of a text; its classes are those of a run on that text."""
    suite = find_suite(model, load_suites())
    options = EvaluationOptions(
        text, "text", None, 1, ("paper-text",), None, 256, "prepend", "target", 50, POSITIONS_PER_RARE, 0
    )
    own: Evaluation = prepare(suite, step, options)
    tokenizer = load_tokenizer(find_tokenizer(suite, step), print)
    documents = read_documents(text)
    joined = np.concatenate(tokenizer.encode([document[:] for document in documents.texts]))
    pieces = (DrawnWindow(0, i, joined[i : i + 255]) for i in range(0, len(joined) - 254, 255))
    large = pack(pieces, 256, tokenizer.bos, tokenizer.eos, lambda so_far, window, kept: so_far >= tokens)
    positions = measure(large, own.classes, "target", POSITIONS_PER_RARE, 50, 0)
    captured = capture(load_model(fetch_local(suite, step), "cpu"), large, positions, attention=attention)
    delta = all_deltas(captured)
    frequency = np.maximum(own.counts.counts, 1).astype(np.float64)
    surprise = -np.log(np.append(frequency, np.ones(own.n_logits - len(frequency))))[large.targets]
    return Population(captured, large, delta, (surprise * large.kept).sum(1) / large.kept.sum(1))


def in_windows(window: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies in the chosen windows (w,), in their order and as often as they are chosen; int (n,) twice.

    window: int (N,), ascending, the window of each. Gives indices into these, and places among the chosen.
    """
    first, last = np.searchsorted(window, chosen), np.searchsorted(window, chosen, side="right")
    place = np.repeat(np.arange(len(chosen)), last - first)
    before = np.cumsum(last - first) - (last - first)
    return np.arange(len(place)) + (first - before)[place], place


def part(whole: Population, windows: np.ndarray, documents: np.ndarray) -> tuple[Capture, np.ndarray, np.ndarray]:
    """The capture of some windows (w,) as if they were the text, the rows (n,) of its positions, and its clusters.

    windows: one may be there twice. documents: int (w,), the document that each of them is of.
    """
    captured, length = whole.captured, whole.text.windows.shape[1]
    positions = captured.positions
    rows, place = in_windows(positions.window, windows)
    flat = place * length + positions.query[rows]
    classes = tuple(
        ClassPositions(c.name, int(held.sum()), flat[held])
        for c in positions.classes
        for held in [positions.members(c.name)[rows]]
    )
    mine = MeasuredPositions(flat, place, positions.query[rows], positions.target[rows], classes)
    kept, kept_place = in_windows(captured.kept_flat // length, windows)
    assert captured.attention is not None
    index = torch.from_numpy(rows)
    taken = replace(
        captured, positions=mine, loss=captured.loss[torch.from_numpy(kept)],
        kept_flat=kept_place * length + captured.kept_flat[kept] % length,
        attention=captured.attention[index], residual=captured.residual[index],
        activations=captured.activations[:0],
    )  # fmt: skip
    return taken, rows, text_clusters(documents, whole.surprise[windows]).index


Numbers = dict[str, tuple[float, float | None, float | None]]
"""By name: value and the ends of its interval."""


def numbers(taken: Capture, delta: np.ndarray, cluster: np.ndarray, seed: int, *, whole: bool) -> tuple[
    Numbers, dict[str, ClassInfluence]
]:  # fmt: skip
    """What a run would print of a text; of the whole large text the plain values, which parts are draws of."""
    found: Numbers = {}

    def add(name: str, e: Estimate | FitValue | Undefined) -> None:
        if isinstance(e, Estimate):
            found[name] = e.value, e.low, e.high
        elif isinstance(e, FitValue):
            found[name] = e.value, e.ci_low, e.ci_high

    for name, loss in mean_losses(taken, 256, cluster).items():
        add(f"loss, {name}", loss.mean)
    classes = {name: influence_on(delta, taken.positions, name, cluster) for name in (RARE, COMMON)}
    for name, c in classes.items():
        summary = summarise_class(c, seed)
        add(f"mean influence, {name}", summary.mean)
        top = c.mean_abs.sort(descending=True).values[: math.ceil(TOP_SHARE * len(c.mean_abs))]
        share = float(top.sum() / c.mean_abs.sum())
        add(f"largest influence, {name}", Estimate(float(top[0]), None, None, 0) if whole else summary.largest)
        add(f"share of the top, {name}", Estimate(share, None, None, 0) if whole else summary.top_share)
        ranking = c.ranking("mean_abs")
        regimes = fit_regimes(as_numpy(ranking.values), as_numpy(2 * ranking.se))
        if whole:
            plain = fit_values(regimes)
            for metric in CURVE:
                add(f"{metric}, {name}", plain[metric + PLAIN])
            continue
        sums, counts = as_numpy(c.by_cluster(ranking.window_sum)), as_numpy(c.by_cluster(c.window_n))
        halves = resampled(sums, counts, as_numpy(2 * ranking.se), stream(seed, "resampled text"))
        for metric, value in corrected_values(regimes, halves).items():
            if metric in CURVE:
                add(f"{metric}, {name}", value)
    found |= _attention(taken, cluster, whole=whole)
    return found, classes


def _attention(taken: Capture, cluster: np.ndarray, *, whole: bool) -> Numbers:
    found: Numbers = {}
    beside = reference(taken.positions, cluster, None)
    assert taken.attention is not None
    rows = torch.from_numpy(beside.rows)
    keys = torch.from_numpy(taken.positions.query[beside.rows] + 1)
    concentrated = gini(taken.attention[rows], keys[:, None, None]).mean(-1).numpy()
    difference = class_difference(concentrated, beside, NO_ANALYSIS)
    for k, layer in enumerate(("layer before", "last layer")):
        found[f"Gini difference, {layer}"] = float(difference.difference[k]), *difference.interval(k)
    far = reference(taken.positions, cluster, None, PROFILE_OFFSETS)
    for profile, layer in zip(attention_profiles(taken, far, NO_ANALYSIS), ("layer before", "last layer"), strict=True):
        r = profile.with_bos
        if isinstance(r, Correlation) and isinstance(r.mean, Estimate):
            found[f"profile r, {layer}"] = r.plain_mean if whole else r.mean.value, r.mean.low, r.mean.high
            found[f"plain profile r, {layer}"] = r.plain_mean, None, None
    return found


def replicates(whole: Population, design: str, targets: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of each replicate and the document of each; a document that is drawn twice is two."""
    rng, windows = np.random.default_rng(1), len(whole.text.windows)
    rare = int(whole.captured.positions.members(RARE).sum())
    wanted = round(targets / rare * windows)
    size = DESIGNS[design]
    for _ in range(count):
        if size == 0:
            first = int(rng.integers(windows - wanted + 1))
            yield np.arange(first, first + wanted), np.zeros(wanted, dtype=np.int64)
        else:
            documents = rng.choice(windows // size, max(1, wanted // size))
            chosen = (documents[:, None] * size + np.arange(size)).ravel()
            yield chosen, np.repeat(np.arange(len(documents)), size)


def coverage(whole: Population, design: str, targets: int, count: int) -> dict[str, dict[str, float]]:
    """By number: coverage, bias in standard deviations, the share of replicates that print an interval."""
    every = np.arange(len(whole.text.windows))
    taken, rows, _ = part(whole, every, every)
    truth, true_classes = numbers(taken, whole.delta[rows], every, 0, whole=True)
    values: dict[str, list[float]] = defaultdict(list)
    inside: dict[str, list[bool]] = defaultdict(list)
    wrong: dict[str, int] = defaultdict(int)
    clear: dict[str, int] = defaultdict(int)
    for seed, (windows, documents) in enumerate(replicates(whole, design, targets, count)):
        taken, rows, cluster = part(whole, windows, documents)
        found, classes = numbers(taken, whole.delta[rows], cluster, seed, whole=False)
        for name, (value, low, high) in found.items():
            values[name].append(value)
            if low is not None or high is not None:
                least, most = -math.inf if low is None else low, math.inf if high is None else high
                inside[name].append(least <= truth[name][0] <= most)
        for name, c in classes.items():
            ends = mean_interval(c.by_cluster(c.window_abs_sum), c.by_cluster(c.window_n), least=0.0)
            true = true_classes[name].mean_abs.tolist()
            inside[f"mean |Δ| of a neuron, {name}"] += [
                low is not None and high is not None and low <= t <= high
                for (low, high), t in zip(ends, true, strict=True)
            ]
            signs = signs_of(c)
            wrong[name] += int((signs * np.sign(as_numpy(true_classes[name].mean)) < 0).sum())
            clear[name] += int((signs != 0).sum())
    table = {
        name: {
            "coverage": float(np.mean(inside[name])) if inside[name] else math.nan,
            # a boundary that is always at the same edge has no spread
            "bias": float((np.mean(v) - truth[name][0]) / np.std(v)) if np.std(v) > 0 else math.nan,
            "printed": len(inside[name]) / count,
        }
        for name, v in values.items()
    }
    for name in classes:
        neuron = f"mean |Δ| of a neuron, {name}"
        table[neuron] = {"coverage": float(np.mean(inside[neuron])), "bias": 0.0, "printed": 1.0}
        table[f"wrong signs, {name}"] = {
            "coverage": wrong[name] / max(1, clear[name]), "bias": 0.0, "printed": clear[name] / count,
        }  # fmt: skip
    return table


@dataclass(frozen=True)
class Bias:
    """Mean error of a corrected number, in standard deviations of that number."""

    value: float
    se: float
    """Of the mean error, as if sd were known."""
    sd: float
    """Of the number."""


FULLY_RESAMPLED = 8
"""One replicate in so many is fitted to all halves, for the spread; the others to two, which have the same mean."""
MEASURED = ("kappa", "excess")


def window_sums(whole: Population, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Σ|Δ| (windows, F) and the class's positions (windows,) of every window of the large text."""
    windows = len(whole.text.windows)
    c = influence_on(whole.delta, whole.captured.positions, name, np.arange(windows))
    sums, counts = np.zeros((windows, c.window_abs_sum.shape[1])), np.zeros(windows)
    sums[c.window_ids], counts[c.window_ids] = c.window_abs_sum.numpy(), c.window_n.numpy()
    return sums, counts


def cluster_sums(
    whole: Population, sums: np.ndarray, counts: np.ndarray, design: str, targets: int, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each replicate's g clusters that hold the class: Σ|Δ| (g, F) and its positions (g,); from `window_sums`."""
    for windows, documents in replicates(whole, design, targets, count):
        cluster = text_clusters(documents, whole.surprise[windows]).index
        members = cluster == np.arange(cluster.max() + 1)[:, None]
        mine, held = members @ sums[windows], members @ counts[windows]
        yield mine[held > 0], held[held > 0]


def curve_bias(whole: Population, name: str, design: str, targets: int, count: int) -> dict[str, Bias]:
    """Of a class's κ and excess without the winner's curse, from `count` replicates."""
    sums, counts = window_sums(whole, name)
    truth = fitted(sums[counts > 0], counts[counts > 0], None)[0]
    errors, corrected = [], []
    for seed, (mine, held) in enumerate(cluster_sums(whole, sums, counts, design, targets, count)):
        halves = half_samples(len(held), np.random.default_rng(seed))
        assert isinstance(halves, HalfSamples)
        every = seed % FULLY_RESAMPLED == 0
        values = fitted(mine, held, halves.halves[: HALVES if every else 2])
        errors.append(2 * values[0] - np.nanmean(values[1:3], axis=0) - truth)
        if every:
            corrected.append(2 * values[0] - np.nanmean(values[1:], axis=0))
    sd = np.std(corrected, axis=0)
    mean, se = np.mean(errors, axis=0) / sd, np.std(errors, axis=0) / math.sqrt(count) / sd
    return {metric: Bias(float(mean[k]), float(se[k]), float(sd[k])) for k, metric in enumerate(MEASURED)}


def fitted(sums: np.ndarray, counts: np.ndarray, halves: np.ndarray | None) -> np.ndarray:
    """MEASURED of the fit to all clusters, sums (g, F) and counts (g,), and to each of `halves` (k, g): (1 + k, 2)."""
    weights = np.ones((1, len(counts))) if halves is None else np.concatenate([np.ones((1, len(counts))), halves])
    fits = fit_curves(means(weights, sums, counts), two_errors(sums, counts))
    return np.array([[math.nan if isinstance(f, Undefined) else getattr(f, m) for m in MEASURED] for f in fits])


def curve_intervals(
    whole: Population, name: str, design: str, targets: int, count: int
) -> dict[str, tuple[float, float]]:
    """By CURVE, how often its interval holds the large text's value, and how often its t interval does.

    Boundaries are not held against the ends of the grid, where a printed interval is open.
    """
    sums, counts = window_sums(whole, name)
    [fit] = fit_curves(means(np.ones((1, len(counts))), sums, counts), two_errors(sums[counts > 0], counts[counts > 0]))
    assert not isinstance(fit, Undefined)
    held: dict[str, list[tuple[bool, bool]]] = {metric: [] for metric in CURVE}
    for seed, (mine, n) in enumerate(cluster_sums(whole, sums, counts, design, targets, count)):
        halves = resampled(mine, n, two_errors(mine, n), np.random.default_rng(seed))
        assert not isinstance(halves, Undefined)
        for metric in CURVE:
            truth, number = getattr(fit, metric), halves.statistics[metric]
            if isinstance(number, Corrected):
                truth = math.log(truth) if metric in LOGARITHMIC else truth
                held[metric].append((holds(number.estimate_with_leaps(), truth), holds(number.estimate(), truth)))
    return {metric: tuple(np.mean(of_metric, axis=0)) for metric, of_metric in held.items()}


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval does, but for round-off."""
    assert estimate.low is not None and estimate.high is not None
    return estimate.low - 1e-9 <= truth <= estimate.high + 1e-9


def two_errors(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of influences (F,), what they are censored by; sums (g, F) and counts (g,) of clusters."""
    return CLEAR_SE * clustered_se(torch.from_numpy(sums), torch.from_numpy(counts)).numpy()


def print_curve_intervals(whole: Population, designs: list[str], targets: int, count: int) -> None:
    """A line for each class and design."""
    for name in (RARE, COMMON):
        for design in designs:
            found = curve_intervals(whole, name, design, targets, count)
            said = ", ".join(f"{metric} {ours:.2f} (t: {by_t:.2f})" for metric, (ours, by_t) in found.items())
            print(f"{name}, {design}: {said}", flush=True)


def print_bias(whole: Population, designs: list[str], targets: int, count: int) -> None:
    """A line for each class and design."""
    for name in (RARE, COMMON):
        for design in designs:
            found = curve_bias(whole, name, design, targets, count)
            said = ", ".join(f"{metric} {b.value:+.2f} ± {b.se:.2f} (sd {b.sd:.3f})" for metric, b in found.items())
            print(f"{name}, {design}: {said}", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a suite's name, or a folder of checkpoints")
    parser.add_argument("--step", type=int, help="by default the last")
    parser.add_argument("--text", default="king-james", help="a built-in text's name or a file")
    parser.add_argument("--tokens", type=int, default=1_300_000, help="of the large text")
    parser.add_argument("--targets", type=int, default=200, help="rare targets of a replicate")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--curve-bias", action="store_true", help="the bias of κ and excess alone, closely")
    parser.add_argument("--curve-intervals", action="store_true", help="the coverage of curves alone")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    step = find_suite(args.model, load_suites()).steps[-1] if args.step is None else args.step
    curves = args.curve_bias or args.curve_intervals
    whole = population(step, args.text, args.tokens, not curves, args.model)
    rare = int(whole.captured.positions.members(RARE).sum())
    print(f"{args.model}, step {step}: {whole.text.windows.size:,} tokens, {rare:,} rare targets", flush=True)
    if args.curve_intervals:
        print(f"{args.targets} rare targets, {args.replicates} replicates: coverage of r1, r2, κ and excess")
        print_curve_intervals(whole, args.designs, args.targets, args.replicates)
    if args.curve_bias:
        print(f"{args.targets} rare targets, {args.replicates} replicates: bias ± its standard error")
        print_bias(whole, args.designs, args.targets, args.replicates)
    if curves:
        return
    found = {design: coverage(whole, design, args.targets, args.replicates) for design in args.designs}
    names = list(dict.fromkeys(name for table in found.values() for name in table))
    print(f"{args.targets} rare targets, {args.replicates} replicates: coverage (bias in sd)")
    print(f"{'':36}" + "".join(f"{design:>18}" for design in found))
    for name in names:
        cells = [table.get(name) for table in found.values()]
        print(
            f"{name:36}"
            + "".join(" " * 18 if c is None else f"{c['coverage']:>9.3f} ({c['bias']:+.2f})  " for c in cells)
        )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
