"""What a command asks of one suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtdyn.analyses.options import StepOptions
from rtdyn.names import WANDB
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.cluster_options import ClusterOptions
from rtdyn.text.options import EvaluationOptions


@dataclass(frozen=True)
class Job:
    """A suite to track: which steps, measured on what, analysed how, where, and into which run directory."""

    suite: SuiteSpec
    """The training run whose checkpoints are analysed."""
    steps: tuple[int, ...]
    """Asked for, ascending; an audit may leave some out."""
    measured_on: EvaluationOptions = field(default_factory=EvaluationOptions)
    """Settings of the evaluation set."""
    options: StepOptions = field(default_factory=StepOptions)
    """Settings of the analyses."""
    on_defect: str = "mark"
    """`mark`, `skip` or `fail`: what becomes of steps that the audit finds unsound."""
    cache_gb: float = 20.0
    """Disk for checkpoints from the Hub that wait for their analysis, in 10^9 bytes."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    """Where the steps are analysed."""
    out: Path | None = None
    """The run directory; None for `runs/` and a name of the suite and the configuration."""
    wandb: str | None = None
    """`online`, `offline` or `disabled`; None to decide by the credentials there are."""
    tracker: str = WANDB
    """What shows the numbers as they come: WANDB or TRACKIO."""
    no_report_upload: bool = False
    """Whether figures and page of the run are kept from W&B."""
    command: str | None = None
    """The command line, which the manifest of a new run keeps."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The options by their names on the command line, which the run directory keeps; empty where there were none."""
    design: str = ""
    """Of `rtdyn.sweep.paper`'s DESIGNS, where one command measures a suite by both; the manifest keeps it too."""
    group: str | None = None
    """The W&B group of a command over several suites, which the manifest keeps too."""
