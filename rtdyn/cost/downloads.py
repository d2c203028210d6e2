"""How many bytes a sweep has to download, from metadata where they can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtdyn.audit.listing import Weights
from rtdyn.audit.verdicts import Audit
from rtdyn.model.sizes import ModelShape
from rtdyn.suites.suite import SuiteSpec


@dataclass(frozen=True)
class Traffic:
    """What the asked steps cost to fetch."""

    steps: int
    """That are stored in the end."""
    analysed: int
    """Of these, those that are no copies of another's tables."""
    bytes: int
    """To download; a file that several steps share counts once, and what the user's cache holds counts too."""
    largest: int
    """Bytes of the largest step's weights."""
    source: str
    """Where the bytes are from: metadata, an estimate, or no download at all."""


def traffic(
    suite: SuiteSpec, steps: Sequence[int], audit: Audit | None, model: ModelShape, weights_only: bool
) -> Traffic:
    """The traffic of these steps. audit: theirs; None where the Hub could not be asked."""
    if audit is None:
        analysed = _distinct(steps, [{*defect.steps} for defect in suite.defects if defect.same_weights])
        each = _final_mlp(model) if weights_only else model.file_bytes
        return Traffic(len(steps), analysed, analysed * each, each, "estimated by parameters")
    weights = [v.weights for v in audit.steps if v.step in steps and v.weights is not None]
    if suite.repo is None:
        return Traffic(len(weights), len(weights), 0, max(w.size for w in weights), "no download")
    copies = {_key(w, number): w for number, w in enumerate(weights)}
    files = {
        file.digest or f"{number}/{name}": file.size
        for number, w in enumerate(copies.values())
        for name, file in w.files.items()
    }
    largest = max(w.size for w in weights)
    if weights_only and all(w.layout.startswith("safetensors") for w in weights):
        each = _final_mlp(model)
        return Traffic(len(weights), len(copies), len(copies) * each, each, "ranges, estimated by parameters")
    return Traffic(len(weights), len(copies), sum(files.values()), largest, "metadata")


def _distinct(steps: Sequence[int], alike: Sequence[set[int]]) -> int:
    """How many of the steps differ, where those of each set are alike, and so are those of sets that share a step."""
    groups: list[set[int]] = []
    for members in alike:
        touching = [group for group in groups if group & members]
        groups = [group for group in groups if not group & members] + [members.union(*touching)]
    return len(steps) - sum(max(0, len(group & {*steps}) - 1) for group in groups)


def _key(weights: Weights, number: int) -> tuple[object, ...]:
    """Equal for two steps whose weights are the same bytes; a step of unknown digests equals none."""
    known = len(weights.digests) == len(weights.files)
    return (weights.layout, *sorted(weights.digests.items())) if known else (number,)


def _final_mlp(model: ModelShape) -> int:
    """Bytes of the final MLP's matrices in a file."""
    return (model.inputs + 1) * model.neurons * model.width * model.number_bytes
