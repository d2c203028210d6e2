"""The command in surroundings that it did not choose: settings of other programs, terminals that are not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hang import HANG
from support.processes import run_python
from support.refusal import refusal

pytestmark = pytest.mark.slow  # each starts a process


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "0", **environment}
    return run_python(["-m", "rtdyn.cli", *arguments], env=env, timeout=HANG)


def fresh(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python that makes its streams by PYTHONIOENCODING."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        encoding=environment["PYTHONIOENCODING"],
        errors="backslashreplace",  # click writes UTF-8 where it finds ASCII
    )


def refused(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    sentence = refusal(ended.stderr)
    assert ended.returncode == 3
    for word in words:
        assert word in sentence


AUDIT = ("audit", "--model", "pythia-14m")
TRACK = ("track", "--model", "tiny", "--steps", "4000", "--analyses", "heavytail", "--wandb", "disabled")


@pytest.mark.parametrize("asked", [AUDIT, TRACK], ids=["asks the Hub", "asks nobody"])
@pytest.mark.parametrize(("name", "value"), [("HF_HUB_DOWNLOAD_TIMEOUT", "0.5"), ("HF_ENDPOINT", "http://[")])
def test_a_setting_that_a_client_cannot_read_as_it_is_imported_is_named(
    asked: tuple[str, ...], name: str, value: str, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "run") if asked is TRACK else ()
    refused(command(*asked, *out, **{name: value}), "huggingface_hub", "correct or unset ", name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("proxy", ["socks5://user:sesame@127.0.0.1:9", "socks://127.0.0.1:9"])
def test_a_proxy_that_the_client_cannot_use_is_named(proxy: str) -> None:
    ended = command(*AUDIT, ALL_PROXY=proxy, all_proxy=proxy)
    refused(ended, "correct ALL_PROXY in the environment")
    assert "sesame" not in ended.stderr


@pytest.mark.parametrize("name", ["HF_HOME", "HF_TOKEN_PATH"])
def test_a_cache_that_is_no_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" if name == "HF_HOME" else tmp_path / "file" / "token"
    refused(command(*AUDIT, **{name: str(place)}), str(place), "set HF_HOME to a folder")


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    refused(command(*AUDIT, SSL_CERT_FILE="/nowhere"), "correct or unset SSL_CERT_FILE='/nowhere'")


def test_what_ends_a_command_is_said_where_neither_standard_stream_is_utf8(tmp_path: Path) -> None:
    ended = fresh("-m", "rtdyn.cli", "claims", tmp_path / "löwe", PYTHONIOENCODING="ascii")
    refused(ended, "we is not an rtdyn run")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_are_printed_in_whatever_a_terminal_can_show(encoding: str) -> None:
    asked = [["plan", "--model", "tiny", "--no-calibration"], ["models"], ["audit", "--model", "tiny"]]
    code = f"from rtdyn.cli import main\nfor asked in {asked}: main(asked, standalone_mode=False)"
    ended = fresh("-c", code, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii() or encoding != "ascii"
    assert "of 18 steps 18 sound" in ended.stdout and "pythia-1.4b" in ended.stdout


def test_figures_are_drawn_whatever_a_notebook_left_in_the_environment(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = command(*TRACK, "--steps", "512,2000,4000", "--out", run, MPLBACKEND="nonsense")
    assert made.returncode == 0, made.stderr
    few = ("--figures", "hill-over-k", "--format", "png")
    for backend in ("nonsense", "module://ipykernel.pylab.backend_inline"):
        drawn = command("report", run, "--out", tmp_path / backend[:3], *few, MPLBACKEND=backend)
        assert drawn.returncode == 0, drawn.stderr
        assert list((tmp_path / backend[:3]).glob("*.png"))
