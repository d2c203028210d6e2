"""How a command asks for a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rtdyn.cli import main
from rtdyn.execute.ray import passed_on
from rtdyn.execute.slurm import job_parameters, seconds_to_leave
from rtdyn.sweep.cluster_options import ClusterOptions


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slurm-partition", "gpu"), "--slurm-partition is for --executor slurm, and this is serial"),
        (("--executor", "ray", "--slurm-time", "5"), "--slurm-time is for --executor slurm, and this is ray"),
        (("--steps-per-task", "2"), "--steps-per-task is for --executor slurm or ray, and this is serial"),
        (("--executor", "slurm", "--slurm-option", "qos"), "'qos' is not of the form key=value"),
        (("--executor", "slurm", "--slurm-option", "time=10"), "'time' is rtdyn's own to set; use --slurm-time"),
        (("--executor", "slurm", "--slurm-option", "--job_name=mine"), "'job_name' is rtdyn's own to set"),
        (("--executor", "ray", "--device", "cuda"), "--device cuda, and tasks without a GPU; give --task-gpus 1"),
    ],
)
def test_options_that_would_be_passed_over_are_usage_errors(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, ["track", "--model", "tiny", *arguments])
    assert result.exit_code == 2 and said in result.stderr


def test_tasks_with_gpus_use_cuda_wherever_the_command_is_given() -> None:
    on_gpus, on_cpus = (ClusterOptions("slurm", 1, 1, gpus, None, None, None, 60, (), None) for gpus in (1, 0))
    assert (on_gpus.device("auto"), on_gpus.device("cpu")) == ("cuda", "cpu")
    assert (on_cpus.device("auto"), on_cpus.device("cuda")) == ("cpu", "cuda")


def test_an_array_runs_as_many_jobs_at_once_as_it_has_and_a_short_one_is_told_late_enough_to_work() -> None:
    asked = ClusterOptions("slurm", 1, 1, 0, None, None, None, 2, (("qos", "high"),), None)
    parameters = job_parameters(asked, "name", 1000)
    assert parameters["array_parallelism"] == 1000 and parameters["additional_parameters"]["qos"] == "high"
    assert parameters["signal_delay_s"] == seconds_to_leave(2) == 30 and seconds_to_leave(240) == 90


def test_rays_tasks_find_the_folders_that_the_commands_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"HF_HOME": "cache", "HF_ENDPOINT": "http://hub", "TMPDIR": "/large", "HF_HUB_CACHE": "", "PATH": "x"}
    assert passed_on(environment) == {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_ENDPOINT": "http://hub",
        "TMPDIR": "/large",
        "HF_HUB_CACHE": "",
    }
