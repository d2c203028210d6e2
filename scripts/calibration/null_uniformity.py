r"""Are p-values uniform where nothing is there to find?

    python scripts/calibration/null_uniformity.py --models 20
    python scripts/calibration/null_uniformity.py --step 2000 --classes 500 [--seed 2] [--kinds routing] \
        [--nulls selected] [--json FILE]

The first asks models that have learned nothing: the bundled architecture, newly initialised many times. The second
asks a trained one: pseudo-classes of common positions take the rare class's place, so that nothing sets the class
apart. Prints, for each metric and null, the share of p ≤ 0.01 and ≤ 0.05, and the Kolmogorov–Smirnov p of uniformity.
A p that a verdict, a band or a mark rests on (`selected`, `pseudo-class`) must be uniform or conservative. `random`
and `matched` ask other questions, whose answer is yes in any model: are influential neurons unlike others, and unlike
others as strong? d_eff takes few values, and ties count in both tails: its p is conservative and cannot be uniform.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_delta import all_deltas, influence_on, pseudo_influence_on

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import TOLERANCE, Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.contrast import contrast_with_pseudo_classes
from rtdyn.analyses.routing.differences import class_differences
from rtdyn.analyses.routing.profiles import PROFILE_OFFSETS, attention_profiles
from rtdyn.analyses.routing.reference import PseudoSets, reference
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.names import COMMON, MATCHED, PSEUDO_CLASS, RANDOM, RARE, SELECTED, TOP
from rtdyn.store.schema import Metric
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.analyses import GROUP_ANALYSES
from rtdyn.tables.regimes import contrast_rows
from rtdyn.tables.routing import attention_rows
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.positions import ClassPositions
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined

GROUPED = ("dimensionality", "modularity", "heavytail")
KINDS = ("routing", "contrast", "groups")
SETS = (RANDOM, MATCHED, SELECTED)
NOT_ASKED = Undefined("not asked for")
WRITTEN_EVERY = 20
"""Models or classes after which the file is written anew, so that a run that is cut off is worth what it took."""
OPTIONS = StepOptions(GROUPED, "kept", "mean_abs", TOLERANCE, 1.0, "never", "cpu", 0)


def initialised(config: Any, seed: int) -> Any:
    """The architecture with new random weights."""
    import transformers

    torch.manual_seed(seed)
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").eval().requires_grad_(False)


def untrained(
    suite: SuiteSpec, evaluation: Evaluation, models: int
) -> Iterator[tuple[Capture, np.ndarray, Evaluation]]:
    """Captures of newly initialised models, Δ and what they are measured on."""
    config = load_model(fetch_local(suite, suite.steps[0]), "cpu").config
    for seed in range(models):
        captured = capture(initialised(config, seed), evaluation.text, evaluation.positions, attention=True)
        yield captured, all_deltas(captured), replace(evaluation, seed=seed)


def swapped(
    suite: SuiteSpec, evaluation: Evaluation, step: int, classes: int, seed: int
) -> Iterator[tuple[Capture, np.ndarray, Evaluation]]:
    """One trained model, a pseudo-class in the rare class's place each time."""
    captured = capture(
        load_model(fetch_local(suite, step), "cpu"), evaluation.text, evaluation.positions, attention=True
    )
    delta, positions = all_deltas(captured), evaluation.positions
    members = pseudo_classes(positions, draws=classes, seed=seed)
    if isinstance(members, Undefined):
        raise SystemExit(members.reason)
    common = positions.members(COMMON) & ~positions.members(RARE)
    for number, mine in enumerate(members, classes * (seed - 1)):
        named = tuple(
            ClassPositions(name, int(flags.sum()), positions.flat[flags])
            for name, flags in ((RARE, mine), (COMMON, common & ~mine))
        )
        placed = replace(positions, classes=named)
        yield replace(captured, positions=placed), delta, replace(evaluation, positions=placed, seed=number)


def rows_of(
    captured: Capture,
    delta: np.ndarray,
    evaluation: Evaluation,
    kinds: tuple[str, ...] = KINDS,
    nulls: tuple[str, ...] = SETS,
) -> Iterator[Metric]:
    """The rows of the group `top`, of the contrast and of attention, as a run stores them. nulls: of the group."""
    members, cluster = evaluation.pseudo_classes, evaluation.clusters.index
    if isinstance(members, Undefined):
        return
    shared = overlap(members)
    if "routing" in kinds:
        sets = PseudoSets(members, shared)
        profiles = attention_profiles(captured, reference(captured.positions, cluster, sets, PROFILE_OFFSETS), sets)
        differences = class_differences(captured, reference(captured.positions, cluster, sets), sets)
        yield from attention_rows(profiles, differences, tuple(p.layer for p in profiles))
    if not {"groups", "contrast"} & set(kinds):
        return
    halves = window_halves(cluster)
    classes = {name: influence_on(delta, captured.positions, name, cluster) for name in (RARE, COMMON)}
    pseudo = pseudo_influence_on(delta, members, halves[captured.positions.window])
    result = Influence(classes, pseudo, 0.0)
    if "contrast" in kinds:
        yield from contrast_rows(contrast_with_pseudo_classes(result, shared, "mean_abs"), captured.anatomy.layer)
    if "groups" not in kinds:
        return
    groups = split_groups(result, cluster, matching_cells(captured), shared, evaluation.seed)
    asked = {**dict.fromkeys(groups, NOT_ASKED), TOP: _against(nulls, groups[TOP])}
    context = Context(captured, result, evaluation, halves, asked, OPTIONS)
    for name, analyse, rows in GROUP_ANALYSES:
        if name in GROUPED:
            yield from rows(analyse(context), context).metrics


def _against(nulls: tuple[str, ...], group: Group | Undefined) -> Group | Undefined:
    """The group with its sets of these nulls alone."""
    if isinstance(group, Undefined):
        return group
    return replace(group, sets={null: sets if null in nulls else NOT_ASKED for null, sets in group.sets.items()})


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20, help="untrained ones")
    parser.add_argument("--step", type=int, help="of the bundled suite, in their place")
    parser.add_argument("--classes", type=int, default=250, help="pseudo-classes in the rare class's place")
    parser.add_argument("--seed", type=int, default=1, help="of the pseudo-classes, from 1: another one draws others")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of numbers: `groups` take longest")
    parser.add_argument("--nulls", nargs="+", choices=SETS, default=SETS, help="sets that groups are held against")
    parser.add_argument("--json", type=Path, help="with every p, so that files of several seeds can be joined")
    args = parser.parse_args()
    suite = find_suite("tiny", load_suites())
    evaluation = prepare(suite, suite.steps[-1], EvaluationOptions())
    measured = (
        untrained(suite, evaluation, args.models)
        if args.step is None
        else swapped(suite, evaluation, args.step, args.classes, args.seed)
    )
    p_values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number, (captured, delta, of_class) in enumerate(measured, 1):
        for row in rows_of(captured, delta, of_class, tuple(args.kinds), tuple(args.nulls)):
            if row.null is not None and row.p_value is not None:
                head = "" if row.head is None else " of heads"
                layer = f", layer {row.layer}" if row.null == PSEUDO_CLASS and row.analysis == "routing" else ""
                p_values[row.metric + head + layer, row.null].append(row.p_value)
        if args.json is not None and number % WRITTEN_EVERY == 0:
            write(args.json, p_values)
    for name, found in shares(p_values).items():
        print(f"{name:50} n {found['n']:4.0f}  p ≤ 0.01: {found['0.01']:5.3f}  p ≤ 0.05: {found['0.05']:5.3f}  "
              f"KS p {found['KS']:.3f}")  # fmt: skip
    if args.json is not None:
        write(args.json, p_values)


def write(path: Path, p_values: Mapping[tuple[str, str], list[float]]) -> None:
    """The shares, and under `p` every p."""
    found = {f"{metric}/{null}": [round(p, 6) for p in values] for (metric, null), values in p_values.items()}
    path.write_text(json.dumps({name: {**row, "p": found[name]} for name, row in shares(p_values).items()}))


def shares(p_values: Mapping[tuple[str, str], list[float]]) -> dict[str, dict[str, float]]:
    """By metric and null: how many p there are, the shares ≤ 0.01 and ≤ 0.05, and the p of uniformity."""
    from scipy.stats import kstest

    return {
        f"{metric}/{null}": {
            "n": len(found),
            "0.01": float(np.mean(np.array(found) <= 0.01)),
            "0.05": float(np.mean(np.array(found) <= 0.05)),
            "KS": float(kstest(found, "uniform").pvalue),
        }
        for (metric, null), found in sorted(p_values.items())
    }


if __name__ == "__main__":
    main()
