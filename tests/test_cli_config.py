"""Options from a file, from variables and from the command line: which wins, what is refused, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from rtdyn.cli import main
from rtdyn.cli_cluster import of_other_executors
from rtdyn.cli_command import PANELS
from rtdyn.cli_config import settings_of
from rtdyn.cli_presets import preset_line
from rtdyn.names import ANALYSES
from rtdyn.store.settings_file import SETTINGS, read_settings, write_settings
from rtdyn.suites.find import load_suites


def parsed(*args: str | Path, of: str = "track", **variables: str) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """A command's parameters, what it would write of them, and what it says of its preset."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with main.make_context("rtdyn", [], resilient_parsing=True) as above:
            command = main.commands[of]
            with command.make_context(of, [str(a) for a in args], parent=above) as context:
                return (
                    context.params,
                    settings_of(context, of_other_executors(context.params.get("executor", "serial"))),
                    preset_line(),
                )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_a_file_gives_the_options_and_whatever_is_given_wins(file: Path) -> None:
    file.write_text("model: [tiny, pythia-14m]\nrare: 1:50\nseed: 3\ntokens: 2048\nsteps: [0, 512]\nbos: none\n")
    params, _, _ = parsed("--config", file)
    assert params["models"] == ("tiny", "pythia-14m") and params["bands"] == ("1:50",) and params["bos"] == "none"
    assert (params["seed"], params["tokens"], params["steps"]) == (3, 2048, "0,512")
    variables = {"RTDYN_TRACK_SEED": "4", "RTDYN_TRACK_MODEL": "pythia-31m", "RTDYN_TRACK_RARE": "0.1:0.2 0.3:0.4"}
    params, _, _ = parsed("--config", file, "--rare", "0.5:0.6", **variables)
    assert params["models"] == ("pythia-31m",) and params["bands"] == ("0.5:0.6",)
    assert (params["seed"], params["tokens"]) == (4, 2048)
    assert parsed("--config", file, "--seed", "5", **variables)[0]["seed"] == 5
    assert parsed(RTDYN_TRACK_CONFIG=str(file))[0]["seed"] == 3
    assert parsed("--config", file, of="plan")[0]["tokens"] == 2048
    file.write_text("model: tiny\ncalibration: false\ngpu-tflops: [40, 20]\nout: runs/a\n")
    params, _, _ = parsed("--config", file, of="plan")  # of which --out is another command's
    assert params["calibration"] is False and params["gpu_tflops"] == (40.0, 20.0)


def test_a_variable_holds_paths_with_spaces_and_texts_with_names() -> None:
    corpora = parsed("--model", "tiny", RTDYN_TRACK_CORPUS="my texts/a.txt law=my law.jsonl  gospels=b.txt")[0][
        "corpora"
    ]
    assert corpora == ("my texts/a.txt", ("law", "my law.jsonl"), ("gospels", "b.txt"))


@pytest.mark.parametrize("order", [1, -1])
def test_a_files_values_win_over_a_preset(order: int, file: Path) -> None:
    file.write_text("model: tiny\nclass-by: target\n")
    args = [("--preset", "paper-code"), ("--config", str(file))][::order]
    params, settings, line = parsed(*(word for pair in args for word in pair))
    assert (params["class_by"], params["heads_to"]) == ("target", "bos") and "preset" not in settings
    assert line is not None and line.endswith("given instead: --class-by target")
    file.write_text("preset: paper-code\nclass-by: target\nmodel: tiny\n")
    assert parsed("--config", file)[0] == params


GIVEN = (
    ("--model", "tiny"),
    (
        "--model",
        "tiny",
        "--model",
        "pythia-*",
        "--steps",
        "0,512",
        "--analyses",
        "regimes,ablation",
        "--tolerance",
        "0",
    ),
    (
        "--model",
        "tiny",
        "--preset",
        "paper-code",
        "--rare",
        "1:50",
        "--rare",
        "mid=0.3:0.6",
        "--corpus",
        "a: b.txt",
        "--corpus",
        "x=c=d.txt",
        "--domains",
        "e.jsonl::f",
    ),
    ("--model", "tiny", "--executor", "slurm", "--slurm-option", "qos=a=b", "--task-memory-gib", "1.5", "--out", "x y"),
)


@pytest.mark.parametrize("args", GIVEN, ids=range(len(GIVEN)))
def test_what_is_written_is_read_again_as_it_was(args: tuple[str, ...], tmp_path: Path) -> None:
    params, settings, _ = parsed(*args)
    write_settings(tmp_path, settings)
    again, rewritten, _ = parsed("--config", tmp_path / SETTINGS)
    assert {**again, "preset": params["preset"]} == params and rewritten == settings
    assert ("steps-per-task" in settings) == ("slurm" in args) and not {"json", "quiet", "config"} & set(settings)


def test_steps_of_earlier_commands_stay(tmp_path: Path) -> None:
    for steps, joined in (("0,512", "0,512"), ("512,4000", "0,512,4000"), ("all", "all"), ("0", "all")):
        write_settings(tmp_path, {"model": "tiny", "steps": steps})
        assert read_settings(tmp_path / SETTINGS) == {"model": "tiny", "steps": joined}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: tiny\nsed: 3\n", "no option is called 'sed'; did you mean seed?"),
        ("model: tiny\nconfig: x\n", "no option is called 'config'"),
        ("model: tiny\nseed: 1.5\n", "1.5"),
        ("model: tiny\nwindow: yes\n", "'yes' is not a valid integer"),
        ("model: tiny\nseed: 1\nseed: 2\n", "gives 'seed' twice"),
        ("model: tiny\ncorpus:\n", "corpus is neither a value nor a list"),
        ("model: tiny\nrare: [[1]]\n", "rare is neither a value nor a list"),
        ("- model\n", "is no list of options"),
        ("model: 'tiny\n", "cannot be read as YAML"),
        ("model: tiny\nanalyses: ablation,nothing\n", "no analysis is called 'nothing'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str, words: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(click.UsageError) as refusal:
        parsed("--config", file)
    assert words in refusal.value.format_message() and refusal.value.exit_code == 2


def test_help_has_every_option_in_a_panel() -> None:
    shown = CliRunner().invoke(main, ["track", "--help"], env={"COLUMNS": "100"}).stdout
    titles = [line.rstrip(":") for line in shown.splitlines() if line and not line.startswith((" ", "Usage"))]
    assert titles == list(PANELS)
    others = shown.partition("Others:\n")[2].partition("\n\n")[0]
    assert others.strip().removeprefix("-h, ") == "--help  Show this message and exit."
    assert shown.count("  rtdyn track ") == 3
    assert "130 interrupted" in shown and "RTDYN_TRACK_SEED" in shown


def completed(*args: str) -> list[str]:
    *before, incomplete = args
    items = ShellComplete(main, {}, "rtdyn", "_RTDYN_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in items if item.type == "plain"]


def test_a_shell_completes_models_analyses_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [name for name in load_suites() if name.startswith("pythia-14m-seed")]
    assert completed("track", "--model", "pythia-14m-s") == seeds and len(seeds) == 9
    assert completed("track", "--analyses", "") == [*ANALYSES, "all"]
    assert completed("track", "--analyses", "ablation,r") == ["ablation,regimes", "ablation,routing"]
    monkeypatch.chdir(tmp_path)
    for name in ("tiny-1", "tiny-2", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").touch()
    (tmp_path / "runs" / "none").mkdir()
    assert completed("claims", "") == ["runs/other", "runs/tiny-1", "runs/tiny-2"]
    assert completed("report", "runs/tiny-1", "runs/tiny") == ["runs/tiny-1", "runs/tiny-2"]
    assert completed("show", f"{tmp_path}/runs/o") == [f"{tmp_path}/runs/other"]


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.mark.slow
def test_a_run_directory_holds_the_file_that_makes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--analyses", "heavytail", "--wandb", "disabled")
    assert rtdyn("track", "--model", "tiny", "--steps", "0,4000", *given).exit_code == 0
    [run] = (tmp_path / "runs").iterdir()
    again = rtdyn("track", "--config", run / SETTINGS)
    assert again.exit_code == 0 and "2 of 2 steps are stored already" in again.stderr
    assert list((tmp_path / "runs").iterdir()) == [run]
    more = rtdyn("track", "--config", run / SETTINGS, "--steps", "512", "--out", run)
    assert more.exit_code == 0, more.stderr
    kept = read_settings(run / SETTINGS)
    assert kept["steps"] == "0,4000,512" and kept["out"] == str(run) and kept["model"] == ["tiny"]
