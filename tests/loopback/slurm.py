"""Debian's Slurm on the loopback interface: a controller and two nodes of one CPU each, as root, without accounting."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
_CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout={lost_after}
InactiveLimit=0
KillWait=3
MinJobAge=30
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@dataclass
class Slurm:
    """A running cluster, and the processes that make it up."""

    folder: Path
    environment: Mapping[str, str]
    """What a process needs to find it."""
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        ended = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return ended.stdout

    def start_node(self, name: str) -> None:
        """Starts a node's daemon, again if it was killed."""
        self.nodes[name] = _start(["slurmd", "-D", "-N", name], self.folder / f"{name}.out", self.environment)

    def kill_node(self, name: str) -> None:
        """Kills a node's daemon; what it started stays."""
        self.nodes[name].kill()
        self.nodes[name].wait()


def why_not() -> str | None:
    """What keeps this machine from starting Slurm, None if nothing."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)} not found; Debian: apt-get install slurm-wlm)"
    if os.geteuid() != 0:
        return "Slurm's daemons on loopback are started as root, and this is another user"
    try:
        import submitit  # noqa: F401  # only whether it is there
    except ImportError:
        return "submitit is not installed (the extra slurm)"
    return None


@contextmanager
def cluster(lost_after: int = 10) -> Iterator[Slurm]:
    """Two nodes that take jobs. lost_after: seconds until a silent node's jobs are given up.

    Raises RuntimeError with the controller's log if they do not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(folder=folder, host=socket.gethostname(), lost_after=lost_after, **ports))
    slurm = Slurm(folder, {"SLURM_CONF": str(config)})
    daemons = []
    try:
        names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        places = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in names]
        # as root it is content with folders that root owns
        daemons.append(_start(["munged", "--foreground", "--force", *places], folder / "munged.out", {}))
        daemons.append(_start(["slurmctld", "-D", "-c"], folder / "slurmctld.out", slurm.environment))
        for name in NODES:
            slurm.start_node(name)
        deadline = time.monotonic() + 120
        while slurm.ask("sinfo", "-h", "-N", "-o", "%T").split() != ["idle"] * len(NODES):
            if time.monotonic() > deadline:
                raise RuntimeError((folder / "slurmctld.log").read_text()[-2000:])
            time.sleep(0.2)
        yield slurm
    finally:
        slurm.ask("scancel", "--user=root", "--full", "--signal=KILL")
        for process in (*slurm.nodes.values(), *reversed(daemons)):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
