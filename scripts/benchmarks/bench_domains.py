"""Processor seconds of the domains of one checkpoint of `tiny`, over those of their forward passes and ablations alone.

python scripts/benchmarks/bench_domains.py [--repeats N]

Two domains, halves of the bundled suite's held-out text. Both are measured in turn, and the least of each is taken.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import process_time

import torch

from rtdyn.analyses.compile_ahead import compile_ahead
from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.sweep.domains import with_domains
from rtdyn.sweep.step import analyse_model
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.king_james import held_out_chapters
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.token_classes import DECILES

STEP = 4000
OPTIONS = StepOptions(analyses=("ablation", "regimes"), device="cpu")


def main() -> None:
    """Prints both and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    suite, chapters = find_suite("tiny", load_suites()), held_out_chapters()
    with tempfile.TemporaryDirectory() as folder:
        named = []
        for name, own in (("first", chapters[: len(chapters) // 2]), ("second", chapters[len(chapters) // 2 :])):
            file = Path(folder, f"{name}.txt")
            file.write_text("\n\n".join(own))
            named.append((name, str(file)))
        evaluation = prepare_with_domains(suite, STEP, EvaluationOptions(named_texts=tuple(named)))
    model = load_model(fetch_local(suite, STEP), "cpu")
    compile_ahead(OPTIONS.analyses, "cpu")
    tables = analyse_model(model, STEP, None, evaluation, OPTIONS, lambda stage: None, parity=False)
    alone, whole = [], []
    for _ in range(repeats):
        began = process_time()
        for domain in evaluation.domains.values():
            captured = capture(model, domain.text, domain.positions)
            deciles = torch.from_numpy(domain.classes.deciles)
            influence(captured, deciles, DECILES, tolerance=OPTIONS.tolerance, cluster=domain.clusters.index)
        alone.append(process_time() - began)
        began = process_time()
        with_domains(tables, model, STEP, None, evaluation, OPTIONS, lambda stage: None)
        whole.append(process_time() - began)
    tokens = sum(domain.text.windows.size for domain in evaluation.domains.values())
    print(f"{len(evaluation.domains)} domains, {tokens:,} tokens")
    print(f"forward passes and ablations {min(alone):.2f} s, domains {min(whole):.2f} s: {min(whole) / min(alone):.3f}")


if __name__ == "__main__":
    main()
