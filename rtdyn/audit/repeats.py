"""Steps that hold another's weights in another file, by their fingerprints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from rtdyn.audit.fingerprint import Fingerprint
from rtdyn.audit.shared_weights import owner
from rtdyn.suites.suite import Defect


def repeated_fingerprints(
    fingerprints: Mapping[int, Fingerprint], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, str]:
    """Steps whose fingerprint is another's, each with the reason, but for the step that the weights belong to."""
    alike: dict[tuple[tuple[str, bytes], ...], list[int]] = defaultdict(list)
    for step, fingerprint in fingerprints.items():
        alike[tuple(sorted((name, sums.tobytes()) for name, sums in fingerprint.items()))].append(step)
    repeats = {}
    for steps in (s for s in alike.values() if len(s) > 1):
        belongs_to = owner(steps, last_step, defects)
        why = f"it holds the weights of step {belongs_to}, in another file"
        repeats.update({step: why for step in steps if step != belongs_to})
    return repeats
