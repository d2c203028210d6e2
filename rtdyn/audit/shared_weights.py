"""Which revisions hold the same bytes, by the digests of their files: whole copies, or single shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rtdyn.audit.listing import Weights
from rtdyn.suites.suite import MAIN, NEARLY_IDENTICAL, Defect, SuiteSpec


def owner(steps: Collection[int], last_step: int, defects: tuple[Defect, ...], equals_main: bool = False) -> int:
    """The step that weights shared by `steps` belong to.

    It is the one a registered defect names, else the suite's last step if that or the branch main holds them, else
    the earliest. Where only main does, the last step is named although its own weights are others.
    """
    for defect in defects:
        known = defect.belongs_to
        if known is not None and known in steps and set(steps) <= set(defect.steps):
            return known
    return last_step if equals_main or last_step in steps else min(steps)


def duplicate_steps(
    digests: Mapping[int, Mapping[str, str]], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, int]:
    """Steps whose weights are bit-identical to another's, each with the step those weights belong to.

    digests: of each step's weight files, by name.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for step, files in digests.items():
        groups[tuple(sorted(files.items()))].append(step)
    owners = {}
    for steps in groups.values():
        if len(steps) > 1:
            belongs_to = owner(steps, last_step, defects)
            owners.update({step: belongs_to for step in steps if step != belongs_to})
    return dict(sorted(owners.items()))


Revisions = Mapping[int | str, tuple[Weights, ...]]
"""Every copy of the weights at each step, and at the branch `MAIN`, the copy that is loaded first."""


@dataclass(frozen=True)
class SharedFiles:
    """Steps that hold the same bytes."""

    steps: tuple[int, ...]
    files: tuple[str, ...] | None
    """The shards, None where all weights are the same."""
    equals_main: bool
    """Whether the branch main holds them too."""
    belongs_to: int | None
    """The step that the bytes are taken for; None where single shards leave it open."""

    def others(self, step: int) -> str:
        """The further holders, in words."""
        steps = [s for s in self.steps if s != step]
        shown = [*(["main"] if self.equals_main else []), *(f"step {s}" for s in steps[:3])]
        return ", ".join(shown) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")


def same_weights(copies: tuple[Weights, ...], other: tuple[Weights, ...]) -> bool | None:
    """Whether two revisions hold the same weights, by the first layout that both have; None if they share none."""
    layouts = {copy.layout: copy for copy in other}
    for copy in copies:
        if copy.layout in layouts:
            return copy.equals(layouts[copy.layout])
    return None


def identical_weights(revisions: Revisions, suite: SuiteSpec) -> tuple[SharedFiles, ...]:
    """Groups of steps whose weights are bit-identical to one another or to main, by their first steps."""
    groups: list[set[int | str]] = []
    for name, copies in revisions.items():
        kin = [g for g in groups if any(same_weights(copies, revisions[member]) for member in g)]
        groups = [g for g in groups if g not in kin] + [{name}.union(*kin)]
    shared = []
    for group in groups:
        steps, in_main = _split(group)
        if len(group) > 1 and steps and not (in_main and steps == (suite.steps[-1],)):
            belongs_to = owner(steps, suite.steps[-1], suite.defects, in_main)
            shared.append(SharedFiles(steps, None, in_main, belongs_to))
    return tuple(sorted(shared, key=lambda g: g.steps))


def identical_shards(revisions: Revisions, suite: SuiteSpec) -> tuple[SharedFiles, ...]:
    """Groups of steps that share some, but not all, of the shards that are loaded.

    A shard that every one of at least three revisions of its layout holds is taken for frozen weights.
    """
    holders: dict[tuple[str, str, str], set[int | str]] = defaultdict(set)
    layouts: dict[str, set[int | str]] = defaultdict(set)
    for name, copies in revisions.items():
        for copy in copies[:1]:
            layouts[copy.layout].add(name)
            for file, digest in copy.digests.items():
                holders[copy.layout, file, digest].add(name)
    files: dict[frozenset[int | str], list[str]] = defaultdict(list)
    for (layout, file, _), group in holders.items():
        if not _one_model(group, revisions) and not (group == layouts[layout] and len(group) >= 3):
            files[frozenset(group)].append(file)
    shared = []
    for members, names in files.items():
        steps, in_main = _split(members)
        if steps:
            final = suite.steps[-1] if in_main or suite.steps[-1] in steps else None
            shared.append(SharedFiles(steps, tuple(sorted(names)), in_main, final))
    return tuple(sorted(shared, key=lambda g: g.steps))


def _one_model(group: set[int | str], revisions: Revisions) -> bool:
    first, *rest = group
    return all(same_weights(revisions[first], revisions[other]) for other in rest)


def _split(group: set[int | str] | frozenset[int | str]) -> tuple[tuple[int, ...], bool]:
    return tuple(sorted(name for name in group if isinstance(name, int))), MAIN in group


def steps_left_out(
    digests: Mapping[int, Mapping[str, str]],
    last_step: int,
    defects: tuple[Defect, ...],
    audited: Mapping[int, str | None],
) -> dict[int, str]:
    """Steps that are no observations of their own, each with the reason: repeats and defects.

    digests: of each step's weight files, by name. audited: of the steps that were audited, stored or not yet, why each
    is left out, or None; of others the registry decides.
    """
    reasons = {step: why for step, why in audited.items() if why is not None}
    for defect in (d for d in defects if d.kind != NEARLY_IDENTICAL):
        for step in defect.steps:
            if step in digests and step not in audited and step != defect.belongs_to:
                reasons.setdefault(step, f"{defect.note} ({defect.source})")
    for step, owner in duplicate_steps(digests, last_step, defects).items():
        reasons.setdefault(step, f"it holds the same weights as step {owner}")
    return dict(sorted(reasons.items()))
