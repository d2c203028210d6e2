"""Tasks on a Ray cluster: the one at an address, the one that runs on this machine, or one of the command's own.

Each task is a detached actor that works in its constructor. So it outlives the command that gave it and needs nothing
of it. Its name is free again when it ends.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtdyn.blame import passes
from rtdyn.errors import InputError, brief
from rtdyn.execute.engine import LOGS, Engine, SilentError
from rtdyn.execute.task import Task, thread_variables
from rtdyn.sweep.cluster_options import ClusterOptions

NAMESPACE = "rtdyn"
REACH = 10.0
"""Seconds that an address may take to answer."""
PASSED_ON = ("HF_", "TRANSFORMERS_", "TMPDIR")
"""Beginnings of environment variables that hold for the tasks as for the command."""
PATHS = ("_HOME", "_CACHE", "_PATH", "TMPDIR")
"""Ends of those that name a folder or a file."""


class RayTask:
    """An actor that is a task from its first breath to its last."""

    def __init__(self, variables: Mapping[str, str], log: str, pickled: bytes) -> None:
        # before anything is imported that reads them
        os.environ.update(variables)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, sys.stderr.fileno())
        faulthandler.enable()
        try:
            task: Task = pickle.loads(pickled)
            from rtdyn.execute.worker import Worker

            Worker(task).work()
        except Exception:  # an actor's own exceptions go to nobody: its driver may be gone
            traceback.print_exc()
        import ray

        ray.actor.exit_actor()


def ray(options: ClusterOptions, run: Path, say: Callable[[str], None]) -> Engine:
    """The Ray cluster that the options, RAY_ADDRESS or this machine have, else one of the command's own.

    Raises InputError if it cannot be reached, or Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray as client
    except ImportError:
        raise InputError("--executor ray needs Ray; install it with `pip install ray`") from None
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    place, outlives = _connect(client, address)
    atexit.register(client.shutdown)
    wanted: dict[str, Any] = {"num_cpus": options.task_cpus, "num_gpus": options.task_gpus}
    if options.task_memory_gib is not None:
        wanted["memory"] = int(options.task_memory_gib * 2**30)
    too_much = _too_much(client, wanted)
    if too_much and not outlives:
        raise InputError(f"{too_much}; ask for less")
    if too_much:
        say(f"{place}: {too_much}; tasks wait until it has such a node")
    logs = run / LOGS
    variables = passed_on(os.environ) | thread_variables(options.task_cpus)

    def submit(common: str, tasks: Sequence[Task]) -> None:
        logs.mkdir(exist_ok=True)
        for task in tasks:
            actor = client.remote(RayTask).options(
                name=task.name,
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=0,
                max_task_retries=0,
                **wanted,
            )
            try:
                actor.remote(variables, str(logs / f"{task.name}.log"), pickle.dumps(task))
            except Exception as error:  # of many types
                if passes(error):
                    raise
                raise InputError(f"{place} takes no task: {brief(error)}") from error

    def alive(names: Collection[str]) -> Collection[str]:
        try:
            there = set(client.util.list_named_actors())
        except Exception as error:  # of many types
            if passes(error):
                raise
            raise SilentError(brief(error)) from error
        return [name for name in names if name in there]

    def withdraw(names: Collection[str]) -> None:
        for name in alive(names):
            try:
                client.kill(client.get_actor(name, namespace=NAMESPACE))
            except ValueError:  # it has just ended
                continue

    return Engine("ray", place, outlives, 1000, submit, alive, withdraw, lambda task: _last_words(logs, task))


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of PASSED_ON; those that name a folder or a file absolute, as tasks run in folders of Ray's."""
    chosen = {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}
    paths = {name: value for name, value in chosen.items() if value and name.endswith(PATHS)}
    return {**chosen, **{name: str(Path(value).expanduser().absolute()) for name, value in paths.items()}}


def _connect(client: Any, address: str | None) -> tuple[str, bool]:
    """Which cluster it is, and whether it outlives this process."""
    client.shutdown()  # from the suite before, in a command over several
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=REACH).close()
        except OSError as error:  # Ray itself tries for minutes
            raise _unreachable(address, error) from error
    quiet = {"namespace": NAMESPACE, "logging_level": "CRITICAL", "log_to_driver": False}
    if address != "local":
        try:
            found = client.init(address=address or "auto", **quiet)
            return f"Ray at {address or found.address_info['gcs_address']}", True
        except Exception as error:  # of many types
            if passes(error):
                raise
            if address:
                raise _unreachable(address, error) from error
            if not isinstance(error, ConnectionError):
                raise InputError(f"Ray cannot be reached ({brief(error)})") from error
    try:
        client.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # of many types
        if passes(error):
            raise
        raise InputError(f"Ray does not start on this machine ({brief(error)})") from error
    return "Ray of this command's own", False


def _unreachable(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"Ray at {address} cannot be reached ({brief(error)}); correct --ray-address or RAY_ADDRESS, or start Ray on "
        "this machine too"
    )


def _too_much(client: Any, wanted: Mapping[str, Any]) -> str | None:
    """What no node of the cluster has, as it is now. Ray itself would let a task wait for it without a word."""
    options = {"num_cpus": ("CPU", "--task-cpus"), "num_gpus": ("GPU", "--task-gpus")}
    options["memory"] = ("memory", "--task-memory-gib")
    nodes = [node["Resources"] for node in client.nodes() if node["Alive"]]
    for key, amount in wanted.items():
        resource, option = options[key]
        most, unit = max((node.get(resource, 0) for node in nodes), default=0), 2**30 if key == "memory" else 1
        if amount > most:
            return f"no node has what {option} {amount / unit:g} asks for (at most {most / unit:.3g})"
    return None


def _last_words(logs: Path, task: str) -> str | None:
    """The last line that a task printed to stderr."""
    file = logs / f"{task}.log"
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
