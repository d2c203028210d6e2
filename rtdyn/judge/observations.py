"""A run with its audit's verdicts, and which of its steps are no observations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdyn.audit.fingerprint import decode
from rtdyn.audit.shared_weights import owner, steps_left_out
from rtdyn.audit.weight_order import doubtful_steps
from rtdyn.store.run import Run, done_steps, read_fingerprints, read_run
from rtdyn.suites.suite import Defect


def read_judged(path: Path) -> Run:
    """An existing run whose manifest says which stored steps are left out, also if it was cut off before it said so.

    Raises InputError if there is no run or its store schema is not this version's.
    """
    run = read_run(path)
    stored = done_steps(run)
    recorded = run.manifest.get("checkpoints", {}).keys() == {str(step) for step in stored}
    if recorded or "schedule" not in run.manifest:  # older manifests do not say what it takes
        return run
    return Run(path, {**run.manifest, "left_out": left_out(run, stored)})


def left_out(run: Run, stored: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """Steps that are no observations of their own, ascending, each with the reason, as the manifest holds them.

    By its audit or, where there was none, by the defects in its schedule; by equal digests; and by the weights'
    fingerprints.
    """
    schedule, audit = run.manifest["schedule"], run.manifest.get("audit") or {"steps": {}}
    last_step = schedule["last_step"]
    defects = tuple(Defect(**{**defect, "steps": tuple(defect["steps"])}) for defect in schedule["defects"])
    audited = {int(s): "; ".join(v["reasons"]) if v["left_out"] else None for s, v in audit["steps"].items()}
    reasons = steps_left_out(stored, last_step, defects, audited)
    known = {step: text for step, text in read_fingerprints(run, stored).items() if step not in reasons}
    alike: dict[str, list[int]] = defaultdict(list)
    for step, text in known.items():
        alike[text].append(step)
    for steps in (s for s in alike.values() if len(s) > 1):
        belongs_to = owner(steps, last_step, defects)
        reasons.update(
            {s: f"it holds the weights of step {belongs_to}, in another file" for s in steps if s != belongs_to}
        )
    fingerprints = {step: decode(text) for step, text in known.items() if step not in reasons}
    comparable = {step: found for step, found in fingerprints.items() if found is not None}
    reasons.update(doubtful_steps(comparable, schedule["steps_are_updates"]))
    return {str(step): why for step, why in sorted(reasons.items())}
