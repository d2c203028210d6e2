"""Are p-values uniform in models that have learned nothing? The bundled architecture, newly initialised many times.

    python scripts/calibration/null_uniformity.py --models 20

Prints, for the group `top` and each null, the Kolmogorov–Smirnov p of uniformity over the models and the share of
p ≤ 0.05. Choosing neurons by influence alone makes `random` differ from the group even here; `selected` must not.
d_eff takes few values, and ties count in both tails: its p-values are conservative and cannot be uniform.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from rtdyn.analyses.context import Context
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.dimensionality import dimensionality
from rtdyn.analyses.groups.input_weights import hill_of_groups, spectra_once
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import TOLERANCE, influence
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.names import TOP
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text.evaluation import EvaluationOptions, prepare
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined


def initialised(config: Any, seed: int) -> Any:
    """The architecture with new random weights."""
    import transformers

    torch.manual_seed(seed)
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    args = parser.parse_args()
    from scipy.stats import kstest

    suite = find_suite("tiny", load_suites())
    options = EvaluationOptions(None, "text", None, 1, ("paper-text",), None, 256, "prepend", "target", 50, 10.0, 0)
    evaluation = prepare(suite, suite.steps[-1], options)
    settings = StepOptions(("dimensionality", "heavytail"), "kept", "mean_abs", TOLERANCE, 1.0, "never", "cpu", 0)
    config = load_model(fetch_local(suite, suite.steps[0]), "cpu").config
    documents, positions = evaluation.text.documents, evaluation.positions
    halves = window_halves(documents)
    p_values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in range(args.models):
        one = capture(initialised(config, seed), evaluation.text, positions)
        members = pseudo_classes(positions, seed=seed)
        if isinstance(members, Undefined):
            raise SystemExit(members.reason)
        half = torch.from_numpy(halves[positions.window])
        nowhere = torch.full((evaluation.n_logits,), -1)
        result = influence(one, nowhere, 1, pseudo_classes=torch.from_numpy(members), half=half)
        groups = split_groups(result, documents, matching_cells(one), overlap(members), seed)
        top = {TOP: groups[TOP]}
        context = Context(one, result, evaluation, halves, top, settings)
        values = dict(dimensionality(context).groups[TOP])
        for weights in one.anatomy.input_rows.values():
            of_rows = hill_of_groups(spectra_once(weights, top), top)[TOP]
            values |= {f"hill_alpha_{rule}": alpha for rule, alpha in of_rows.items()}
        for metric, value in values.items():
            for null, against in () if isinstance(value, Undefined) else value.nulls.items():
                if isinstance(against, Comparison):
                    p_values[metric, null].append(against.p_value)
    for (metric, null), found in sorted(p_values.items()):
        p = np.array(found)
        uniform = float(kstest(p, "uniform").pvalue)
        print(f"{metric:24} {null:10} n {len(p):3}  p ≤ 0.05: {np.mean(p <= 0.05):5.2f}  KS p {uniform:.3f}")


if __name__ == "__main__":
    main()
