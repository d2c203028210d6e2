"""Settings of the analyses of a step."""

from __future__ import annotations

from dataclasses import dataclass

from rtdyn.names import ANALYSES

HEADS_TO, HEADS_AT, UNIGRAM = ("zero", "bos"), ("query", "all"), ("full", "longtail")
"""What the fields of these names may be."""


@dataclass(frozen=True)
class StepOptions:
    """Settings of the analyses, by the names of the command line and with its defaults."""

    analyses: tuple[str, ...] = ANALYSES
    """Of `rtdyn.analyses.ANALYSES`, in that order."""
    mean_over: str = "kept"
    """`kept` or `all`: positions that the ablation's mean activation is taken over."""
    rank_by: str = "mean_abs"
    """`mean_abs` or `abs_mean`: the influence that ranks neurons."""
    tolerance: float = 1e-5
    """Error a neuron's class mean may carry, in nats."""
    memory_gib: float = 2.0
    """Memory for the ablation's blocks, in 2^30 bytes, beside the model and what is captured."""
    stream_layers: str = "auto"
    """`auto`, `always` or `never`: whether the model is run one layer at a time."""
    device: str = "auto"
    """`cpu` or `cuda`; `auto` until the machine is known."""
    seed: int = 0
    """Of every random draw."""
    heads_to: str = "zero"
    """`zero` or `bos`: what an ablated head's output becomes, zero or that of attention on the first token alone."""
    heads_at: str = "query"
    """`query` or `all`: whether heads are ablated at the measured position alone or at every position."""
    unigram: str = "full"
    """`full` or `longtail`: the unigram direction that mediation freezes, of all types or of the rare band's."""
    task_memory_gib: float | None = None
    """What a cluster's task was given, in 2^30 bytes; None for what there is."""
    layers: str = "last"
    """`last`, `all`, or numbers from the end, as in `-1,-2`: layers whose MLP neurons are measured."""
    exact_neurons: int = 32
    """Random neurons of each earlier layer that are measured on all windows, and at least as many of its top."""

    @property
    def most_bytes(self) -> int | None:
        """Memory that the process may take, None for what there is."""
        return None if self.task_memory_gib is None else int(self.task_memory_gib * 2**30)

    @property
    def memory_bytes(self) -> int:
        """Memory for arrays beside the model and the capture."""
        return int(self.memory_gib * 2**30)
