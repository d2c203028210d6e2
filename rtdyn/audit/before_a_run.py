"""What a run does about checkpoints that are not what their step says: audit before it, weights after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rtdyn.audit.shared_weights import steps_left_out
from rtdyn.audit.survey import audit_steps, can_survey
from rtdyn.audit.verdicts import SETTLED_BY_LOADING, Audit, StepVerdict
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.suites.suite import SuiteSpec


def audit_before(
    suite: SuiteSpec,
    steps: Sequence[int],
    on_defect: str,
    say: Callable[[str], None],
    beside: Collection[int] = (),
) -> tuple[list[int], dict[str, Any]]:
    """`steps_to_run` of an audit made now, where one can be. Raises InputError too if the Hub cannot be asked."""
    audit = audit_steps(suite, {*steps, *beside}) if can_survey(suite) else None
    return steps_to_run(suite, steps, audit, on_defect, say, beside)


def steps_to_run(
    suite: SuiteSpec,
    steps: Sequence[int],
    audit: Audit | None,
    on_defect: str,
    say: Callable[[str], None],
    beside: Collection[int] = (),
) -> tuple[list[int], dict[str, Any]]:
    """The steps to run, and the record for the manifest: when the audit was made and each step's verdict.

    audit: of these steps; without one only registered defects are known. on_defect: `mark`, `skip` or `fail`. A
    missing step is passed over, and with `skip` every unsound one. Odd sizes alone are said and settled by loading.
    beside: further steps to record, which those to run may repeat.
    Raises InputError if nothing is left, or for any defect with `fail`.
    """
    record: dict[str, Any] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "steps": {}, "findings": []}
    if audit is not None:
        verdicts = [verdict for verdict in audit.steps if verdict.step in steps]
        unsound = {v.step: "; ".join(v.reasons) for v in verdicts if v.verdict != "sound"}
        missing = {v.step for v in verdicts if v.verdict == "missing"}
        record["steps"] = {str(v.step): _record(v) for v in audit.steps if v.step in {*steps, *beside}}
        record["findings"] = list(audit.findings)
        say(f"audit: {len(steps) - len(unsound)} of {len(steps)} steps are sound by their metadata")
    else:
        distinct = {step: {"": str(step)} for step in steps}
        unsound = steps_left_out(distinct, suite.steps[-1], suite.defects, {})
        missing = {step for d in suite.defects if d.kind == "missing" for step in d.steps} & set(unsound)
        record["findings"] = ["not made, as the Hub is not to be asked or cannot be; only registered defects are known"]
        say(f"audit: {record['findings'][0]}")
    if on_defect == "fail" and unsound:
        step, reason = min(unsound.items())
        more = f" (and {counted(len(unsound) - 1, 'more step')} not sound)" if len(unsound) > 1 else ""
        raise InputError(f"step {step}: {reason}{more}; leave it out of --steps, or use --on-defect mark or skip")
    passed_over = {step: why for step, why in unsound.items() if step in missing or on_defect == "skip"}
    record["passed_over"] = {str(step): why for step, why in sorted(passed_over.items())}
    for step, why in sorted(unsound.items()):
        say(f"step {step} is {'passed over' if step in passed_over else 'not sound'}: {why}")
    left = [step for step in steps if step not in passed_over]
    if not left:
        step, reason = min(unsound.items())
        raise InputError(f"no step asked for of {suite.name} is sound (step {step}: {reason}); ask for others")
    return left, record


def _record(verdict: StepVerdict) -> dict[str, Any]:
    settled_by_loading = all(fault.kind in SETTLED_BY_LOADING for fault in verdict.faults)
    return {
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "left_out": verdict.verdict not in ("sound", "missing") and not settled_by_loading,
        "commit": verdict.commit,
        "digests": verdict.weights.digests if verdict.weights is not None else {},
    }


def joined(
    earlier: Mapping[str, Any] | None, now: Mapping[str, Any], stored: Mapping[int, CheckpointRecord]
) -> dict[str, Any]:
    """The record of an audit, with the verdicts of an earlier one where those of now are not on what is stored.

    Steps that an earlier command passed over stay so until they are asked for again.
    """
    before, moved = (earlier or {}).get("steps", {}), set(map(str, moved_steps(now, stored)))
    steps = {**before, **{step: verdict for step, verdict in now["steps"].items() if step not in moved}}
    old = (earlier or {}).get("passed_over", {})
    asked_again = {int(step) for step in (*now["steps"], *now.get("passed_over", {}), *stored)}
    passed = {int(step): why for step, why in old.items() if int(step) not in asked_again}
    return {
        **now,
        "steps": dict(sorted(steps.items(), key=lambda item: int(item[0]))),
        "passed_over": dict(sorted({**passed, **now.get("passed_over", {})}.items(), key=lambda item: int(item[0]))),
    }


def moved_steps(record: Mapping[str, Any], stored: Mapping[int, CheckpointRecord]) -> list[int]:
    """Stored steps of which the audit saw other weights than those that were analysed, or none any more."""
    return [int(s) for s, verdict in record["steps"].items() if int(s) in stored and _moved(verdict, stored[int(s)])]


def _moved(verdict: Mapping[str, Any], checkpoint: CheckpointRecord) -> bool:
    if verdict["verdict"] == "missing":
        return True
    if verdict["commit"] == checkpoint.commit:  # of folders both are None; their files are held against the store
        return False
    seen = {name: digest for name, digest in verdict["digests"].items() if not digest.startswith("git:")}
    common = seen.keys() & checkpoint.digests.keys()
    return not common or any(seen[name] != checkpoint.digests[name] for name in common)
