"""What a run does about checkpoints that are not what their step says: audit before it, weights after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rtdyn.checkpoints.audit import Audit, StepVerdict
from rtdyn.checkpoints.duplicates import owner
from rtdyn.checkpoints.survey import audit_steps, can_survey
from rtdyn.errors import InputError
from rtdyn.fingerprint import decode
from rtdyn.registry import Defect, SuiteSpec
from rtdyn.store import Run, done_steps, read_fingerprints, read_run
from rtdyn.trajectories import steps_left_out
from rtdyn.weight_order import doubtful_steps


def audit_before(
    suite: SuiteSpec,
    steps: Sequence[int],
    on_defect: str,
    say: Callable[[str], None],
    beside: Collection[int] = (),
) -> tuple[list[int], dict[str, Any]]:
    """`steps_to_run` of an audit made now, where one can be. Raises InputError too if the Hub cannot be asked."""
    found = audit_steps(suite, {*steps, *beside}) if can_survey(suite) else None
    return steps_to_run(suite, steps, found, on_defect, say, beside)


def steps_to_run(
    suite: SuiteSpec,
    steps: Sequence[int],
    found: Audit | None,
    on_defect: str,
    say: Callable[[str], None],
    beside: Collection[int] = (),
) -> tuple[list[int], dict[str, Any]]:
    """The steps to run, and the record for the manifest: when the audit was made and each step's verdict.

    found: the audit; without one only registered defects are known. on_defect: `mark`, `skip` or `fail`. A missing step
    is passed over, and with `skip` every unsound one. Odd sizes alone are said and settled by loading. beside: further
    steps to record, which those to run may repeat.
    Raises InputError if nothing is left, or for any defect with `fail`.
    """
    record: dict[str, Any] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "steps": {}, "findings": []}
    if found is not None:
        verdicts = [verdict for verdict in found.steps if verdict.step in steps]
        unsound = {v.step: "; ".join(v.reasons) for v in verdicts if v.verdict != "sound"}
        missing = {v.step for v in verdicts if v.verdict == "missing"}
        record["steps"] = {str(v.step): _record(v) for v in found.steps if v.step in {*steps, *beside}}
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
        "commit": verdict.commit,
        "digests": verdict.weights.digests if verdict.weights is not None else {},
    }


def joined(
    earlier: Mapping[str, Any] | None, now: Mapping[str, Any], stored: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """The record of an audit, with the verdicts of an earlier one where those of now are not on what is stored."""
    before, moved = (earlier or {}).get("steps", {}), set(map(str, moved_steps(now, stored)))
    steps = {**before, **{step: verdict for step, verdict in now["steps"].items() if step not in moved}}
    return {**now, "steps": dict(sorted(steps.items(), key=lambda item: int(item[0])))}


def moved_steps(record: Mapping[str, Any], stored: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Stored steps of which the audit saw other weights than those that were analysed, or none any more."""
    return [int(s) for s, verdict in record["steps"].items() if int(s) in stored and _moved(verdict, stored[int(s)])]


def _moved(verdict: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> bool:
    if verdict["verdict"] == "missing":
        return True
    if verdict["commit"] == checkpoint["commit"]:  # of folders both are None; their files are held against the store
        return False
    seen = {name: digest for name, digest in verdict["digests"].items() if not digest.startswith("git:")}
    common = seen.keys() & checkpoint["digests"].keys()
    return not common or any(seen[name] != checkpoint["digests"][name] for name in common)


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
