"""The driver's watch, over workers that are played: what they store, how they die, and what the driver makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from rtdyn.errors import InputError, ParityError
from rtdyn.execute import driver as driving
from rtdyn.execute.driver import Driver, earlier_tasks
from rtdyn.execute.engine import Engine, SilentError
from rtdyn.execute.ledger import CANCELLED, begin_try, end_try, leave, read_open_tasks, tries, write_seconds
from rtdyn.execute.task import Task, grouped
from rtdyn.files import ASIDE
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import TASKS, Run, config_digest, locked, open_run, step_record, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame

STEPS = (0, 1, 2, 4)
Behaviour = Callable[[Run, Task, int], bool]
"""What a worker does with a step; whether it lives on."""


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "ASK", "ASK_AT_MOST"):
        monkeypatch.setattr(driving, name, 0.001)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = {"suite": "tiny"}
    digest = config_digest(settings)
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="tiny", config=settings, config_digest=digest)
    return open_run(tmp_path / "run", manifest)


def store(run: Run, task: Task, step: int) -> bool:
    one = begin_try(run.path, step, task.name)
    frame = pl.DataFrame({"step": [step]})
    rows = metric_frame([Metric("capture", "loss", 1.0, n=3)], step, None)
    record = CheckpointRecord(revision=f"step{step}", commit=None, digests={})
    write_step(run, step, record, StepTables(rows, frame, frame))
    write_seconds(run.path, step, {"load": float(step)})
    end_try(one, None)
    return True


def die(run: Run, task: Task, step: int) -> bool:
    begin_try(run.path, step, task.name)
    return False


def raise_(run: Run, task: Task, step: int) -> bool:
    end_try(begin_try(run.path, step, task.name), "ValueError: boo")
    return False


def refuse(run: Run, task: Task, step: int) -> bool:
    end_try(begin_try(run.path, step, task.name), "the weights are damaged", final=True)
    return True


def refuse_the_model(run: Run, task: Task, step: int) -> bool:
    end_try(begin_try(run.path, step, task.name), "no parity", final=True, ends_run=True)
    return False


def be_preempted(run: Run, task: Task, step: int) -> bool:
    end_try(begin_try(run.path, step, task.name), None)
    leave(run.path, task.name, step)
    return False


@dataclass
class Cluster:
    """Runs a task to its end each time that it is asked, as the behaviour of each of its steps says."""

    run: Run
    behaviours: Mapping[int, Sequence[Behaviour]] = field(default_factory=dict)
    """By step, one for each time that it is begun; afterwards it is stored."""
    tasks: dict[str, Task] = field(default_factory=dict)
    submitted: list[tuple[int, ...]] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)
    silent: int = 0
    refusal: str | None = None
    outlives: bool = True

    def submit(self, common: str, tasks: Sequence[Task]) -> None:
        if self.refusal is not None:
            raise InputError(self.refusal)
        self.tasks |= {task.name: task for task in tasks}
        self.submitted += [task.steps for task in tasks]

    def alive(self, names: Collection[str]) -> Collection[str]:
        if self.silent:
            self.silent -= 1
            raise SilentError("no route to host")
        first, *others = [name for name in names if name in self.tasks] or [""]
        if first:
            self.work(self.tasks.pop(first))
        return others

    def work(self, task: Task) -> None:
        for step in task.steps:
            if step_record(self.run, step) is not None:
                continue
            number = self.begun.get(step, 0)
            self.begun[step] = number + 1
            played = self.behaviours.get(step, ())
            if not (played[number] if number < len(played) else store)(self.run, task, step):
                return

    def engine(self) -> Engine:
        withdraw = self.withdraw
        return Engine("slurm", "a cluster", self.outlives, 2, self.submit, self.alive, withdraw, lambda name: None)

    def withdraw(self, names: Collection[str]) -> None:
        for name in names:
            self.tasks.pop(name, None)


def drive(cluster: Cluster, per_task: int = 1, units: Sequence[tuple[int, ...]] | None = None) -> dict[str, Any]:
    said: list[str] = []
    told: list[tuple[int, Mapping[str, float] | None]] = []
    nothing: Any = None
    options: Any = SimpleNamespace(analyses=())
    task = Task("", cluster.run.path, cluster.run.digest, "", nothing, (), 4, nothing, options, 1.0)
    units = [(step,) for step in STEPS] if units is None else units
    driver = Driver(
        cluster.engine(),
        cluster.run,
        units,
        task,
        per_task,
        lambda *one: told.append(one),
        lambda *_: None,
        said.append,
    )
    failed = driver.drive()
    return {"failed": failed, "told": told, "said": said}


def test_every_step_is_told_once_with_its_seconds_and_nothing_is_left_behind(run: Run) -> None:
    cluster = Cluster(run)
    outcome = drive(cluster)
    assert sorted(outcome["told"]) == [(step, {"load": float(step)}) for step in STEPS]
    assert outcome["failed"] == {} and cluster.submitted == [(step,) for step in STEPS]
    assert not (run.path / TASKS).exists()


def test_steps_of_the_same_weights_share_a_task(run: Run) -> None:
    assert grouped([(0, 4), (1,), (2,)], 2) == [(0, 1, 4), (2,)]
    cluster = Cluster(run)
    drive(cluster, per_task=2, units=[(0, 4), (1,), (2,)])
    assert cluster.submitted == [(0, 1, 4), (2,)]


def test_a_dead_worker_costs_a_try_and_its_step_goes_to_a_task_of_its_own(run: Run) -> None:
    cluster = Cluster(run, {1: [die, raise_]})
    outcome = drive(cluster, per_task=4)
    assert outcome["failed"] == {} and sorted(step for step, _ in outcome["told"]) == list(STEPS)
    assert cluster.submitted[0] == STEPS and set(cluster.submitted[1:3]) == {(1,), (2, 4)}


@pytest.mark.parametrize(("fault", "word"), [(die, "without a word"), (raise_, "ValueError: boo")])
def test_a_step_that_fails_three_times_is_given_up_and_the_rest_goes_on(run: Run, fault: Behaviour, word: str) -> None:
    cluster = Cluster(run, {1: [fault] * 9})
    outcome = drive(cluster, per_task=2)
    assert list(outcome["failed"]) == [1] and cluster.begun[1] == 3
    assert "3 workers failed" in outcome["failed"][1] and word in outcome["failed"][1]
    assert sorted(step for step, _ in outcome["told"]) == [0, 2, 4]


def test_a_step_that_cannot_be_used_is_not_tried_again(run: Run) -> None:
    cluster = Cluster(run, {1: [refuse]})
    outcome = drive(cluster, per_task=4)
    assert outcome["failed"] == {1: "the weights are damaged"} and cluster.submitted == [STEPS]


def test_a_model_that_no_step_can_be_measured_of_ends_the_run_and_all_its_tasks(run: Run) -> None:
    cluster = Cluster(run, {0: [refuse_the_model]})
    with pytest.raises(ParityError, match="no parity"):
        drive(cluster)
    assert cluster.begun == {0: 1} and cluster.tasks == {} and not (run.path / TASKS).exists()
    assert drive(cluster)["failed"] == {}


def test_the_next_command_tries_again_what_was_given_up(run: Run) -> None:
    cluster = Cluster(run, {1: [refuse]})
    assert 1 in drive(cluster)["failed"]
    assert drive(cluster, units=[(1,)])["failed"] == {}


def test_being_told_to_leave_is_no_fault_of_the_step(run: Run) -> None:
    cluster = Cluster(run, {1: [be_preempted] * 5})
    assert drive(cluster)["failed"] == {} and cluster.begun[1] == 6


def test_a_step_whose_tasks_are_cancelled_again_and_again_is_given_up_and_the_rest_goes_on(run: Run) -> None:
    cluster = Cluster(run, {1: [be_preempted] * 99})
    outcome = drive(cluster, per_task=4)
    assert outcome["failed"] == {1: f"{CANCELLED} of its tasks were cancelled"} and cluster.begun[1] == CANCELLED
    assert sorted(step for step, _ in outcome["told"]) == [0, 2, 4]
    assert sum(4 in steps for steps in cluster.submitted) == 2, "once with the step, then without it"


def test_steps_of_the_same_weights_are_given_up_together_where_their_tasks_are_cancelled(run: Run) -> None:
    cluster = Cluster(run, {0: [be_preempted] * 99})
    outcome = drive(cluster, units=[(0, 1, 2), (4,)])
    assert outcome["failed"] == dict.fromkeys((0, 1, 2), f"{CANCELLED} of its tasks were cancelled")
    assert len(cluster.submitted) == CANCELLED + 1


def test_a_step_that_failed_before_is_not_blamed_for_the_cancelled_one(run: Run) -> None:
    def be_out_of_reach(run: Run, task: Task, step: int) -> bool:
        end_try(begin_try(run.path, step, task.name), "no network")
        return True

    cluster = Cluster(run, {0: [be_out_of_reach], 1: [be_preempted] * 99})
    outcome = drive(cluster, per_task=2)
    assert list(outcome["failed"]) == [1] and cluster.begun[0] == 2


def test_tasks_that_begin_nothing_are_tries_of_all_their_steps(run: Run) -> None:
    cluster = Cluster(run)
    cluster.work = lambda task: None  # type: ignore[method-assign]  # a node that cannot even import the package
    outcome = drive(cluster, per_task=4)
    assert list(outcome["failed"]) == list(STEPS) and len(cluster.submitted) == 1 + 2 * len(STEPS)


class Killed(BaseException):
    pass


def kill_after(cluster: Cluster, told: int) -> list[int]:
    """A driver that dies as a killed one does once it took note of so many steps."""
    seen: list[int] = []
    nothing: Any = None
    options: Any = SimpleNamespace(analyses=())
    task = Task("", cluster.run.path, cluster.run.digest, "", nothing, (), 4, nothing, options, 1.0)

    def note(step: int, seconds: Mapping[str, float] | None) -> None:
        if len(seen) == told:
            raise Killed
        seen.append(step)

    units = [(step,) for step in STEPS if step_record(cluster.run, step) is None]
    with pytest.raises(Killed):
        Driver(cluster.engine(), cluster.run, units, task, 1, note, lambda *_: None, lambda _: None).drive()
    return seen


def test_a_driver_started_again_adopts_the_tasks_that_still_run(run: Run) -> None:
    cluster = Cluster(run)
    seen = kill_after(cluster, 1)
    given = read_open_tasks(run.path)
    assert given is not None and len(given.steps) >= 2
    outcome = drive(cluster, units=[(s,) for s in STEPS if s not in seen])
    assert len(cluster.submitted) == len(STEPS), "nothing was given twice"
    assert sorted([*seen, *(step for step, _ in outcome["told"])]) == list(STEPS)


def test_tries_outlive_the_driver_that_counted_them(run: Run) -> None:
    cluster = Cluster(run, {0: [die] * 9})
    kill_after(cluster, 2)
    before = cluster.begun[0]
    outcome = drive(cluster, units=[(s,) for s in STEPS if step_record(run, s) is None])
    assert before >= 1 and list(outcome["failed"]) == [0] and cluster.begun[0] == 3


def test_tasks_that_died_with_their_driver_are_no_fault_of_the_step(run: Run) -> None:
    cluster = Cluster(run, outlives=False)
    kill_after(Cluster(run, outlives=False), 0)
    given = read_open_tasks(run.path)
    assert given is not None and len(given.steps) == 3
    for name in given.steps:
        begin_try(run.path, 4, name)
    assert drive(cluster, units=[(s,) for s in STEPS if step_record(run, s) is None])["failed"] == {}
    assert step_record(run, 4) is not None


def test_a_silent_cluster_is_waited_for(run: Run) -> None:
    cluster = Cluster(run, silent=5)
    outcome = drive(cluster)
    assert len(outcome["told"]) == len(STEPS) and len(cluster.submitted) == len(STEPS)
    assert outcome["said"] == ["a cluster does not answer (no route to host); asking again"]


def test_a_cluster_that_takes_no_task_is_a_refusal_that_leaves_nothing(run: Run) -> None:
    with pytest.raises(InputError, match="invalid partition"):
        drive(Cluster(run, refusal="Slurm takes no task: invalid partition"))
    assert not (run.path / TASKS).exists()


def test_tasks_of_another_cluster_keep_a_command_from_giving_them_twice(run: Run) -> None:
    assert earlier_tasks(run, "serial", "") is None
    kill_after(Cluster(run), 0)
    for executor, place in (("serial", ""), ("ray", "Ray at 10.0.0.1:6379"), ("slurm", "another")):
        with pytest.raises(InputError, match=r"go on with --executor slurm there, or delete .*tasks"):
            earlier_tasks(run, executor, place)
    assert earlier_tasks(run, "slurm", "a cluster") is not None
    (run.path / TASKS / "given.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        earlier_tasks(run, "slurm", "a cluster")


def test_ctrl_c_withdraws_the_tasks(run: Run) -> None:
    cluster = Cluster(run)

    def interrupted(names: Collection[str]) -> Collection[str]:
        raise KeyboardInterrupt

    cluster.alive = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        drive(cluster)
    assert cluster.tasks == {} and not (run.path / TASKS).exists()


def test_a_worker_is_not_robbed_of_its_unfinished_file_by_a_driver_that_starts(run: Run) -> None:
    (run.path / TASKS).mkdir()
    unfinished = run.path / f".x{ASIDE}"
    unfinished.touch()
    with locked(run.path):
        assert unfinished.exists()
    (run.path / TASKS).rmdir()
    with locked(run.path):
        assert not unfinished.exists()


def test_a_worker_whose_run_has_ended_stores_no_try(run: Run) -> None:
    with pytest.raises(InputError, match="the run has ended"):
        begin_try(run.path, 0, "a.0")
    (run.path / TASKS).mkdir()
    one = begin_try(run.path, 0, "a.0")
    assert json.loads(one.file.read_text())["host"] and [t.task for t in tries(run.path)[0]] == ["a.0"]
