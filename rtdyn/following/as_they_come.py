"""The audit of steps that come one by one: the weights of each are held against those of the steps before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rtdyn.audit.fingerprint import Fingerprint, decode
from rtdyn.audit.repeats import nearly_identical, repeated_fingerprints
from rtdyn.store.run import Run, read_fingerprints
from rtdyn.suites.suite import SuiteSpec


def _fingerprints(run: Run, steps: Iterable[int]) -> dict[int, Fingerprint]:
    """Those of the stored steps that can be compared."""
    known = {step: decode(text) for step, text in read_fingerprints(run, steps).items() if text}
    return {step: fingerprint for step, fingerprint in known.items() if fingerprint}


@dataclass
class AsTheyCome:
    """What was seen so far of a run's weights."""

    run: Run
    say: Callable[[str], None]
    seen: dict[int, bytes] = field(default_factory=dict)
    """By step, a digest of its fingerprint."""

    def know(self, steps: Iterable[int]) -> None:
        """Takes in steps that were stored, and told of, before."""
        for step in steps:
            self.seen |= {s: _digest(fingerprint) for s, fingerprint in _fingerprints(self.run, [step]).items()}

    def hold(self, step: int) -> None:
        """Says it where a step that was stored now holds another's weights, or nearly those of one beside it."""
        own = _fingerprints(self.run, [step])
        if step not in own:
            return
        digest = _digest(own[step])
        others = {other: theirs for other, theirs in self.seen.items() if other != step}
        self.seen[step] = digest
        if same := [other for other, theirs in others.items() if theirs == digest]:
            self.say(f"audit: step {step} holds the same weights as step {min(same)}")
            return
        before = max((other for other in others if other < step), default=None)
        after = min((other for other in others if other > step), default=None)
        for beside in (before, after):
            if beside is not None:
                for later, why in nearly_identical(own | _fingerprints(self.run, [beside])).items():
                    self.say(f"audit: step {later} is {why}")

    def record(self, suite: SuiteSpec, steps: Iterable[int]) -> dict[str, Any]:
        """The audit of the stored steps for the manifest: what was found of each, as far as they have come.

        Which steps are left out is worked out of the same fingerprints, for every run alike.
        """
        known = _fingerprints(self.run, steps)
        found = {step: f"step {step}: {why}" for step, why in nearly_identical(known).items()}
        repeats = repeated_fingerprints(known, suite.steps[-1], suite.defects)
        found |= {step: f"step {step}: {why}" for step, why in repeats.items()}
        made = f"made as the steps came, by the fingerprints of their weights: {len(known)} were compared"
        return {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": {},
            "findings": [made, *(found[step] for step in sorted(found))],
            "passed_over": {},
        }


def _digest(fingerprint: Fingerprint) -> bytes:
    """Equal where all sums are."""
    digest = hashlib.sha256()
    for name, sums in sorted(fingerprint.items()):
        digest.update(name.encode() + sums.tobytes())
    return digest.digest()
