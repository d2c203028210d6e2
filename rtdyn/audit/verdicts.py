"""Verdicts on a suite's checkpoints from metadata alone: what is missing, repeated or not of its step."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from rtdyn.audit.fingerprint import Fingerprint
from rtdyn.audit.listing import Listing, Weights, unusable, weights_in
from rtdyn.audit.repeats import nearly_identical, repeated_fingerprints
from rtdyn.audit.shared_weights import Revisions, SharedFiles, identical_shards, identical_weights, same_weights
from rtdyn.audit.two_saves import misplaced_steps
from rtdyn.counted import counted
from rtdyn.suites.suite import MAIN, NEARLY_IDENTICAL, Defect, SuiteSpec

VERDICTS = ("sound", "duplicate", "missing", "suspect")
SIZE_TOLERANCE = 0.01
"""Share by which sizes within one layout may differ: headers and pickled names do."""
FEW = 0.1
"""A size that more than this share of a layout's steps have is another precision, no outlier."""
MIN_SIZES = 4
_VERDICT_OF = {"missing": "missing", "duplicate": "duplicate"}
"""By the kind of a fault; any other makes a step suspect."""
SETTLED_BY_LOADING = ("size", "times", "damaged", "tokenizer")
"""Kinds of faults that are no reason to leave out a step that can be loaded."""
_LOOKS_LIKE_A_STEP = re.compile(r"(step|checkpoint|ckpt|iter)[-_]?\d", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """One reason against a step."""

    kind: str
    """missing, damaged, duplicate, shards, order, size, times, tokenizer, or registered: as only the registry knows."""
    reason: str


@dataclass(frozen=True)
class StepVerdict:
    """What the metadata say of one step, and the registry where they say nothing."""

    step: int
    revision: str
    commit: str | None = None
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    """What is odd but no defect."""
    duplicates_of: tuple[int, ...] = ()
    """Of a duplicate: every other step with the same weights."""
    belongs_to: int | None = None
    """Of a duplicate: the step that the weights are taken for."""
    equals_main: bool = False
    weights: Weights | None = None
    """What would be loaded."""

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`, the gravest."""
        verdicts = {_VERDICT_OF.get(fault.kind, "suspect") for fault in self.faults}
        return next((v for v in ("missing", "duplicate", "suspect") if v in verdicts), "sound")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not sound."""
        return tuple(fault.reason for fault in self.faults)


@dataclass(frozen=True)
class KnownDefect:
    """A registered defect beside what the metadata show now."""

    defect: Defect
    met: tuple[int, ...]
    gone: tuple[int, ...]
    unseen: tuple[int, ...]
    """Steps of which the metadata cannot tell."""

    @property
    def status(self) -> str:
        """`met`, `gone` or `unseen` if that holds of all its steps, else `partly met`."""
        present = [name for name in ("met", "gone", "unseen") if getattr(self, name)]
        return present[0] if len(present) == 1 else "partly met"


@dataclass(frozen=True)
class Audit:
    """The verdicts on a suite's steps, ascending, and what concerns several of them."""

    model: str
    location: str
    steps: tuple[StepVerdict, ...]
    shared: tuple[SharedFiles, ...]
    known: tuple[KnownDefect, ...]
    unexpected: tuple[str, ...]
    """Branches or folders that look like steps and are not in the suite's schedule."""
    findings: tuple[str, ...]
    """What concerns the suite as a whole, a sentence each; none of it makes a step unsound."""

    @property
    def unsound(self) -> tuple[StepVerdict, ...]:
        """The steps whose verdict is not `sound`."""
        return tuple(s for s in self.steps if s.verdict != "sound")

    @property
    def summary(self) -> str:
        """One line: how many steps have each verdict."""
        counts = Counter(s.verdict for s in self.steps)
        parts = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
        return f"{self.model}: of {counted(len(self.steps), 'step')} {parts}"


def audit(
    suite: SuiteSpec,
    listings: Mapping[int, Listing | None],
    main: Listing | None,
    branches: Collection[str] = (),
    seen_inside: Mapping[int, Mapping[str, str]] = {},
    fingerprints: Mapping[int, Fingerprint] = {},
) -> Audit:
    """Judges the steps of `listings` against one another, against main, and against what the registry knows.

    listings: what each step's revision holds; None where there is no such revision. main: the default branch, None
    where there is none. branches: every branch or folder there is, to find steps that the schedule lacks. seen_inside:
    by step, the kinds of faults that a look into the files showed, each with its reason. fingerprints: of the steps
    whose weights were read.
    """
    revisions: dict[int | str, tuple[Weights, ...]] = {
        step: weights_in(listing) for step, listing in sorted(listings.items()) if listing is not None
    }
    if main is not None:
        revisions[MAIN] = weights_in(main)
    whole, shards = identical_weights(revisions, suite), identical_shards(revisions, suite)
    loaded = {step: copies[0] for step, copies in revisions.items() if copies and isinstance(step, int)}
    odd = odd_sizes(loaded)
    verdicts = {}
    for step, listing in sorted(listings.items()):
        seen = StepVerdict(step, suite.revision_of(step), weights=loaded.get(step))
        if listing is None:
            verdicts[step] = _with(seen, "missing", f"there is no revision {seen.revision}")
            continue
        seen = replace(seen, commit=listing.commit, notes=_contradictions(step, revisions))
        problem = unusable(listing)
        seen = _with(seen, "missing", problem) if problem else _with_shared(seen, whole, shards)
        seen = _with(seen, "size", odd[step]) if step in odd else seen
        for kind, reason in seen_inside.get(step, {}).items():
            seen = _with(seen, kind, reason)
        verdicts[step] = seen
    verdicts = _with_fingerprints(suite, verdicts, fingerprints)
    groups = (*whole, *shards)
    known = tuple(_compare(defect, verdicts, revisions, groups, suite.steps[-1]) for defect in suite.defects)
    for defect in known:
        verdicts = {step: _with_known(verdict, defect) for step, verdict in verdicts.items()}
    scheduled = {suite.revision_of(step) for step in suite.steps}
    # of a suite that was found among its branches it is said already which were left out
    others = () if suite.names else set(branches) - scheduled
    unexpected = tuple(sorted(branch for branch in others if _looks_like_a_step(branch, suite.revision)))
    findings = _suite_findings(suite, revisions, loaded, unexpected)
    return Audit(suite.name, suite.location, tuple(verdicts.values()), groups, known, unexpected, findings)


def _with_fingerprints(
    suite: SuiteSpec, verdicts: Mapping[int, StepVerdict], fingerprints: Mapping[int, Fingerprint]
) -> dict[int, StepVerdict]:
    """The verdicts with what fingerprints say of the steps that nothing else is settled of."""
    open_steps = {step for step, v in verdicts.items() if all(f.kind in SETTLED_BY_LOADING for f in v.faults)}
    known = {step: f for step, f in fingerprints.items() if step in open_steps}
    repeats = repeated_fingerprints(known, suite.steps[-1], suite.defects)
    own = {step: f for step, f in known.items() if step not in repeats}
    misplaced = misplaced_steps(own, suite.tokens_per_step is not None)
    found = {step: ("duplicate", why) for step, why in repeats.items()}
    found |= {step: ("order", why) for step, why in misplaced.items()}
    alike = nearly_identical(known)
    noted = {s: replace(v, notes=(*v.notes, alike[s])) if s in alike else v for s, v in verdicts.items()}
    return {step: _with(v, *found[step]) if step in found else v for step, v in noted.items()}


def odd_sizes(loaded: Mapping[int, Weights]) -> dict[int, str]:
    """Steps whose weights are of another size than nearly all others of their layout, with the reason."""
    layouts: dict[str, dict[int, int]] = defaultdict(dict)
    for step, weights in loaded.items():
        layouts[weights.layout][step] = weights.size
    odd = {}
    for layout, sizes in layouts.items():
        usual = median(sizes.values())
        for step, size in sizes.items():
            alike = sum(abs(other - size) <= SIZE_TOLERANCE * size for other in sizes.values())
            rare = len(sizes) >= MIN_SIZES and alike <= max(1, FEW * len(sizes))
            if size == 0 or (rare and abs(size - usual) > SIZE_TOLERANCE * usual):
                odd[step] = f"its weights are of {counted(size, 'byte')}, where {usual:,.0f} are usual ({layout})"
    return odd


def _with(verdict: StepVerdict, kind: str, reason: str) -> StepVerdict:
    return replace(verdict, faults=(*verdict.faults, Fault(kind, reason)))


def _with_shared(verdict: StepVerdict, whole: Sequence[SharedFiles], shards: Sequence[SharedFiles]) -> StepVerdict:
    """The verdict with what the step shares with others, as a fault or, where the bytes are its own, as a note."""
    step = verdict.step
    for group in (g for g in (*whole, *shards) if step in g.steps):
        if group.files is None:
            what = f"the same weights as {group.others(step)}"
            if step != group.belongs_to:
                verdict = replace(
                    _with(verdict, "duplicate", f"it holds {what}"),
                    duplicates_of=tuple(s for s in group.steps if s != step),
                    belongs_to=group.belongs_to,
                )
        else:
            more = f" and {len(group.files) - 1} more" if len(group.files) > 1 else ""
            what = f"in {group.files[0]}{more} the same bytes as {group.others(step)}"
            if step != group.belongs_to and verdict.verdict != "duplicate":
                verdict = _with(verdict, "shards", f"it holds {what}")
        verdict = replace(verdict, equals_main=verdict.equals_main or (group.files is None and group.equals_main))
        if step == group.belongs_to:
            verdict = replace(verdict, notes=(*verdict.notes, f"its own, it holds {what}"))
    return verdict


def _contradictions(step: int, revisions: Revisions) -> tuple[str, ...]:
    """Where a copy that is not loaded is that of another step, although the loaded one is not."""
    mine = revisions[step]
    for other, theirs in revisions.items():
        if other != step and same_weights(mine, theirs) is False:
            for copy in mine[1:]:
                if any(copy.layout == t.layout and copy.equals(t) for t in theirs):
                    return (f"its {copy.layout} copy, which is not loaded, is that of {_name(other)}",)
    return ()


def _name(revision: int | str) -> str:
    return f"step {revision}" if isinstance(revision, int) else revision


def _compare(
    defect: Defect,
    verdicts: Mapping[int, StepVerdict],
    revisions: Revisions,
    groups: Sequence[SharedFiles],
    last_step: int,
) -> KnownDefect:
    """Which of a registered defect's steps, of those looked at, still show it."""
    steps: dict[str, list[int]] = {"met": [], "gone": [], "unseen": []}
    for step in (s for s in defect.steps if s in verdicts):
        missing = verdicts[step].verdict == "missing"
        if defect.kind == "missing":
            status = "met" if missing else "gone"
        elif defect.kind == "discontinuous" or missing:
            status = "unseen"
        elif any(step in group.steps for group in groups):
            status = "met"
        elif defect.kind == NEARLY_IDENTICAL:
            status = "unseen"  # that the bytes differ does not gainsay it
        else:
            others = {*defect.steps, *((MAIN, last_step) if defect.kind == "final-weights" else ())} - {step}
            compared = [same_weights(revisions[step], revisions[o]) for o in others if o in revisions]
            status = "gone" if any(same is not None for same in compared) else "unseen"
        steps[status].append(step)
    return KnownDefect(defect, *(tuple(steps[status]) for status in ("met", "gone", "unseen")))


def _with_known(verdict: StepVerdict, known: KnownDefect) -> StepVerdict:
    """The verdict with a registered defect: its source, or its word where the metadata are silent."""
    step, defect = verdict.step, known.defect
    said = f"{defect.note} ({defect.source})"
    if step in known.gone:
        return replace(verdict, notes=(*verdict.notes, f"no longer so: {said}"))
    if step == defect.belongs_to or step not in (*known.met, *known.unseen):
        return verdict
    if defect.kind == NEARLY_IDENTICAL:
        return replace(verdict, notes=(*verdict.notes, f"known: {said}"))
    # of steps that share final weights, not even the one they are taken for is known to be of its step
    if verdict.verdict == "sound" and step in known.met and defect.kind != "final-weights":
        return verdict
    return _with(verdict, "registered", f"known: {said}")


def _looks_like_a_step(branch: str, pattern: str) -> bool:
    before, after = pattern.split("{step}")
    return bool(re.fullmatch(rf"{re.escape(before)}\d+{re.escape(after)}", branch) or _LOOKS_LIKE_A_STEP.search(branch))


def _suite_findings(
    suite: SuiteSpec, revisions: Revisions, loaded: Mapping[int, Weights], unexpected: Sequence[str]
) -> tuple[str, ...]:
    findings = []
    last = suite.steps[-1]
    if MAIN in revisions and same_weights(revisions.get(last, ()), revisions[MAIN]) is False:
        findings.append(f"main and the last step, {suite.revision_of(last)}, hold different weights")
    if unexpected:
        shown = ", ".join(unexpected[:5]) + (f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else "")
        findings.append(f"branches that look like steps and are not in the schedule: {shown}")
    layouts = Counter(weights.layout for weights in loaded.values())
    for layout, count in layouts.most_common()[1:]:
        few = [s for s in loaded if loaded[s].layout == layout]
        where = f"step {', '.join(map(str, few[:5]))}{' and more' if count > 5 else ''}"
        findings.append(
            f"{count} of {len(loaded)} steps are in another format, {layout} ({where}); digests compare within one only"
        )
    unknown = [step for step, weights in loaded.items() if len(weights.digests) < len(weights.files)]
    if unknown:
        findings.append(f"no digest is published for {counted(len(unknown), 'step')}, which cannot be compared")
    return tuple(findings)
