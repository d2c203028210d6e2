"""Which machines analyse the steps of a command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterOptions:
    """Settings of the executor, by the names of the command line and with its defaults."""

    executor: str = "serial"
    """`serial`, `slurm` or `ray`: where steps are analysed."""
    steps_per_task: int = 1
    """Checkpoints a task."""
    task_cpus: int = 1
    """CPUs, and threads, a task."""
    task_gpus: int = 0
    """GPUs a task."""
    task_memory_gib: float | None = None
    """Memory a task, in 2^30 bytes; None for the cluster's default."""
    slurm_partition: str | None = None
    """None for the cluster's default."""
    slurm_account: str | None = None
    """None for the user's default."""
    slurm_time: int = 240
    """Minutes a job may take."""
    slurm_option: tuple[tuple[str, str], ...] = ()
    """Further options of sbatch, name and value."""
    ray_address: str | None = None
    """None for RAY_ADDRESS, the cluster on this machine, or one of the command's own."""

    def device(self, asked: str) -> str:
        """`cpu` or `cuda` for the tasks, which may have GPUs that the machine of the command lacks."""
        return ("cuda" if self.task_gpus else "cpu") if asked == "auto" else asked
