"""What a run does about checkpoints that are not what their step says: audit before it, weights after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rtdyn.checkpoints.audit import Audit, StepVerdict
from rtdyn.checkpoints.duplicates import owner
from rtdyn.checkpoints.survey import audit_steps, can_survey
from rtdyn.errors import InputError
from rtdyn.fingerprint import decode
from rtdyn.registry import SuiteSpec
from rtdyn.store import Run, read_fingerprints
from rtdyn.trajectories import steps_left_out
from rtdyn.weight_order import doubtful_steps


def audit_before(
    suite: SuiteSpec, steps: Sequence[int], on_defect: str, say: Callable[[str], None]
) -> tuple[list[int], dict[str, Any]]:
    """`steps_to_run` of an audit made now, where one can be. Raises InputError too if the Hub cannot be asked."""
    return steps_to_run(suite, steps, audit_steps(suite, steps) if can_survey(suite) else None, on_defect, say)


def steps_to_run(
    suite: SuiteSpec, steps: Sequence[int], found: Audit | None, on_defect: str, say: Callable[[str], None]
) -> tuple[list[int], dict[str, Any]]:
    """The steps to run, and the record for the manifest: when the audit was made and each step's verdict.

    found: the audit; without one only registered defects are known. on_defect: `mark`, `skip` or `fail`. A missing step
    is passed over, and with `skip` every unsound one. Odd sizes alone are said and settled by loading.
    Raises InputError if nothing is left, or for any defect with `fail`.
    """
    record: dict[str, Any] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "steps": {}, "findings": []}
    if found is not None:
        verdicts = [verdict for verdict in found.steps if verdict.step in steps]
        unsound = {v.step: "; ".join(v.reasons) for v in verdicts if v.verdict != "sound"}
        missing = {v.step for v in verdicts if v.verdict == "missing"}
        record["steps"] = {str(v.step): _record(v) for v in verdicts}
        record["findings"] = list(found.findings)
        say(f"audit: {len(steps) - len(unsound)} of {len(steps)} steps are sound by their metadata")
    else:
        distinct = {step: {"digests": {"": str(step)}} for step in steps}
        unsound = steps_left_out(distinct, suite.steps[-1], suite.defects, {})
        missing = {step for d in suite.defects if d.kind == "missing" for step in d.steps} & set(unsound)
        record["findings"] = ["not made, as the Hub is not to be asked or cannot be; only registered defects are known"]
        say(f"audit: {record['findings'][0]}")
    if on_defect == "fail" and unsound:
        step, reason = min(unsound.items())
        more = f" (and {len(unsound) - 1} more steps are not sound)" if len(unsound) > 1 else ""
        raise InputError(f"step {step}: {reason}{more}; leave it out of --steps, or use --on-defect mark or skip")
    passed_over = {step: why for step, why in unsound.items() if step in missing or on_defect == "skip"}
    record["passed_over"] = {str(step): why for step, why in sorted(passed_over.items())}
    for step, why in sorted(unsound.items()):
        say(f"step {step} is {'passed over' if step in passed_over else 'not sound'}: {why}")
    left = [step for step in steps if step not in passed_over]
    if not left:
        raise InputError(f"no step asked for of {suite.name} is sound; ask for others (`rtdyn audit` shows why)")
    return left, record


def _record(verdict: StepVerdict) -> dict[str, Any]:
    settled_by_loading = all(fault.kind == "size" for fault in verdict.faults)
    return {
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "left_out": verdict.verdict not in ("sound", "missing") and not settled_by_loading,
    }


def joined(earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an audit, with the verdicts of an earlier one on steps that it did not look at."""
    steps = {**(earlier or {}).get("steps", {}), **now["steps"]}
    return {**now, "steps": dict(sorted(steps.items(), key=lambda item: int(item[0])))}


def left_out(
    run: Run,
    stored: Mapping[int, Mapping[str, Any]],
    record: Mapping[str, Any],
    last_step: int,
    suite: SuiteSpec | None,
) -> dict[int, str]:
    """Steps that are no observations of their own, ascending, each with the reason.

    By the audit or, where there was none, the registry; by equal digests; and by the weights' fingerprints.
    last_step: the suite's. suite: None if it is not known, then without registered defects.
    """
    defects = suite.defects if suite is not None else ()
    verdicts = {int(step): v for step, v in record["steps"].items()}
    audited = {step: "; ".join(v["reasons"]) if v["left_out"] else None for step, v in verdicts.items()}
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
    reasons.update(
        doubtful_steps(comparable, steps_are_updates=suite is not None and suite.tokens_per_step is not None)
    )
    return dict(sorted(reasons.items()))
