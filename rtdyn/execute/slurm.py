"""Tasks on a Slurm cluster: job arrays through submitit, watched by `squeue`, which needs no accounting database.

A preempted task is requeued by Slurm or by submitit and goes on with the steps that it lacks. So is one whose time is
over, as long as it stores a step each time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rtdyn.blame import Handler
from rtdyn.counted import counted
from rtdyn.errors import InputError, brief
from rtdyn.execute.engine import LOGS, Engine, SilentError
from rtdyn.execute.ledger import come_back
from rtdyn.execute.task import Task, thread_variables
from rtdyn.sweep.cluster_options import ClusterOptions

TIMEOUTS = 1000
"""How often submitit may requeue a task whose time is over: what stores no step is given up before, as a try."""
LEAVING = 90
"""Seconds before the end of its time that a task is told; of short jobs a quarter."""
EARLY = 90
"""Seconds before that: Slurm may tell a minute early, and a task begins somewhat after its job."""
UNWINDING = 20.0
"""Seconds that a task has to end once a handler stopped it, under Slurm's own 30 between SIGTERM and SIGKILL."""
ANSWER = 60.0
"""Seconds that Slurm's own commands may take."""
_STUCK = re.compile("launch.failed", re.IGNORECASE)
"""The reason of a job that its node died under as it began: Slurm holds it until somebody acts."""
_MOST = re.compile(r"MaxArraySize\s*=\s*(\d+)")


@dataclass
class SlurmTask:
    """What submitit pickles and calls; `checkpoint` is its protocol for a job about to be stopped."""

    task: Task
    minutes: int
    worker: Any = field(default=None, init=False)
    began: float = field(default=0.0, init=False)

    def __call__(self) -> None:
        """Runs the task in this process."""
        from rtdyn.execute.worker import Worker

        come_back(self.task.run, self.task.name)
        self.began, self.worker = time.monotonic(), Worker(self.task)
        # Slurm's first word to a job that it preempts or cancels; what comes next is a requeue, or the end
        signal.signal(signal.SIGTERM, lambda number, frame: self.worker.leave())
        _let_handlers_end_it()
        self.worker.work()

    def checkpoint(self) -> Any:
        """The same task once more. Its step counts as tried if all of the job's time went to it."""
        from submitit.helpers import DelayedSubmission

        if self.worker is None:  # it had not begun
            return DelayedSubmission(SlurmTask(self.task, self.minutes))
        over = time.monotonic() - self.began > self.minutes * 60 - seconds_to_leave(self.minutes) - EARLY
        wasted = over and not self.worker.stored
        self.worker.leave(f"its time of {counted(self.minutes, 'minute')} was over (--slurm-time)" if wasted else None)
        return DelayedSubmission(SlurmTask(self.task, self.minutes))


class StoppedBySignalError(BaseException):
    """A signal's handler failed, such as submitit's whose requeue was cut: no clause for Exception may catch it."""


def _let_handlers_end_it() -> None:
    """Has what any handler set so far raises end the process, whatever library the signal interrupts.

    An exception may strike where a library has just taken a lock, which nobody gives back then. What waits for it is
    ended after UNWINDING seconds, where each thread stands is printed.
    """

    def ending(handler: Handler) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                faulthandler.dump_traceback_later(UNWINDING, exit=True)
                if not isinstance(error, Exception):
                    raise
                raise StoppedBySignalError(f"{signal.Signals(number).name}: {brief(error)}") from error

        return handle

    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, ending(handler))


def seconds_to_leave(minutes: int) -> int:
    """How long before the end of a job of so many minutes its task is told."""
    return min(LEAVING, 15 * minutes)


def slurm(options: ClusterOptions, run: Path) -> Engine:
    """The Slurm cluster that this machine submits to. Raises InputError if there is none, or no submitit."""
    try:
        import submitit
    except ImportError:
        raise InputError("--executor slurm needs submitit; install it with `pip install submitit`") from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise InputError("--executor slurm: this machine has no sbatch and srun; run rtdyn where jobs are submitted")
    try:
        configuration = _ask("scontrol", "show", "config")
    except SilentError as error:
        raise InputError(f"--executor slurm: Slurm does not answer ({error}); try again when it does") from None
    limit = _MOST.search(configuration)
    name = re.search(r"ClusterName\s*=\s*(\S+)", configuration)
    most_at_once = int(limit[1]) - 1 if limit else 1000
    logs = run / LOGS

    def submit(common: str, tasks: Sequence[Task]) -> None:
        executor = submitit.SlurmExecutor(logs / common, max_num_timeout=TIMEOUTS)
        executor.update_parameters(**job_parameters(options, common, most_at_once))
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # sbatch's errors come in the exception too
                executor.submit_array([SlurmTask(task, options.slurm_time) for task in tasks])
        except OSError as error:
            raise InputError(f"cannot write to {logs} ({brief(error)}); make room or give another --out") from error
        except submitit.core.utils.UncompletedJobError as error:  # with what sbatch said
            raise InputError(
                f"Slurm takes no task: {_refusal(error)}; change the --slurm options, or where it limits the number of "
                "jobs give a larger --steps-per-task"
            ) from error

    return Engine(
        "slurm",
        f"Slurm ({name[1]})" if name else "Slurm",
        True,
        most_at_once,
        submit,
        lambda names: _queue(names).keys(),
        _withdraw,
        lambda task: _last_words(logs, task),
    )


def job_parameters(options: ClusterOptions, name: str, tasks: int) -> dict[str, Any]:
    """Of submitit, for an array of at most so many tasks; an option of the user's goes to sbatch as it is."""
    cpus = options.task_cpus
    wanted = {
        "partition": options.slurm_partition,
        "account": options.slurm_account,
        "gpus_per_node": options.task_gpus or None,
        "mem": None if options.task_memory_gib is None else f"{int(options.task_memory_gib * 1024)}M",
    }
    return {
        "job_name": name,
        "time": options.slurm_time,
        "cpus_per_task": cpus,
        "srun_args": [f"--cpus-per-task={cpus}"],  # since 22.05 srun no longer takes it from sbatch
        "setup": [f"export {variable}={value}" for variable, value in thread_variables(cpus).items()],
        "signal_delay_s": seconds_to_leave(options.slurm_time),
        "array_parallelism": tasks,  # as many at once as the cluster runs: submitit's default is 256
        "additional_parameters": {"requeue": True, **dict(options.slurm_option)},
        **{key: value for key, value in wanted.items() if value is not None},
    }


def _queue(names: Collection[str]) -> Mapping[str, str]:
    """Job ids of those of the named tasks that wait or run."""
    found: dict[str, str] = {}
    commons = sorted({name.rpartition(".")[0] for name in names})
    for begin in range(0, len(commons), 100):  # a command line is finite
        wanted = f"--name={','.join(commons[begin : begin + 100])}"
        # --all: jobs in hidden partitions too
        for line in _ask("squeue", "--all", "--noheader", "--array", wanted, "--format=%i|%j|%K|%r|%t").splitlines():
            job, common, index, reason, state = line.split("|")
            name = f"{common}.{index if index.isdigit() else 0}"  # an array of one is a plain job
            if state == "PD" and _STUCK.search(reason):
                _ask("scancel", job)
            else:
                found[name] = job
    return {name: found[name] for name in names if name in found}


def _withdraw(names: Collection[str]) -> None:
    commons = sorted({name.rpartition(".")[0] for name in names})
    for common in commons:
        _ask("scancel", f"--name={common}")


def _ask(*command: str) -> str:
    """The output of one of Slurm's commands, whatever filters the user has set for them. Raises SilentError."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ANSWER)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SilentError(brief(error)) from error
    if ended.returncode:
        raise SilentError(_last_line(ended.stderr) or f"{command[0]} ended with {ended.returncode}")
    return ended.stdout


def _refusal(error: Exception) -> str:
    """What sbatch said, out of what submitit made of it."""
    said = re.findall(r"sbatch: error: (.*)", str(error))
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in said)) or brief(error)


def _last_line(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _last_words(logs: Path, task: str) -> str | None:
    """The last line that a task printed to stderr; Slurm's own about it only if there is no other."""
    common, _, index = task.rpartition(".")
    files = list((logs / common).glob(f"*_{index}_0_log.err")) or list((logs / common).glob("*_log.err"))
    text = "".join(file.read_text(errors="replace") for file in files)
    own = "\n".join(line for line in text.splitlines() if not line.startswith("srun: "))
    return _last_line(own) or _last_line(text)
