"""Settings of the analyses of a step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepOptions:
    """Settings of the analyses, by the names of the command line."""

    analyses: tuple[str, ...]
    mean_over: str
    rank_by: str
    tolerance: float
    memory_gib: float
    stream_layers: str
    device: str
    seed: int
    task_memory_gib: float | None = None
    """What a cluster's task was given."""

    @property
    def most_bytes(self) -> int | None:
        """Memory that the process may take, None for what there is."""
        return None if self.task_memory_gib is None else int(self.task_memory_gib * 2**30)

    @property
    def memory_bytes(self) -> int:
        """Memory for arrays beside the model and the capture."""
        return int(self.memory_gib * 2**30)
