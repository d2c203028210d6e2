"""Whether W&B is told online, offline or not at all: by option, environment, settings and key."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb
from support.wandb_runs import KEY

from rtdyn.views.wandb.mirror import choose_mode


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": ""}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_mode_follows_environment_and_key(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], mode: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert choose_mode(None) == mode


@pytest.mark.parametrize("asked", ["online", "offline", "disabled"])
@pytest.mark.parametrize("set_to", ["online", "disabled"])
def test_mode_asked_for_wins(home: Path, monkeypatch: pytest.MonkeyPatch, asked: str, set_to: str) -> None:
    monkeypatch.setenv("WANDB_MODE", set_to)
    assert choose_mode(asked) == asked


@pytest.mark.parametrize(
    ("machine", "server", "mode"),
    [
        (urlsplit(wandb.Settings().base_url).netloc, None, "online"),
        ("api.wandb.ai", None, "online"),
        ("api.wandb.ai", "https://wandb.example.org", "offline"),
        ("wandb.example.org", "https://wandb.example.org", "online"),
        ("localhost:8080", "http://localhost:8080", "online"),
        ("localhost:8080", "http://localhost:9090", "offline"),
    ],
)
@pytest.mark.parametrize("where", ["home", "NETRC"])
@pytest.mark.parametrize("configured", ["environment", "settings"])
def test_key_of_the_server_is_found_in_netrc(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    server: str | None,
    mode: str,
    where: str,
    configured: str,
) -> None:
    file = home / (".netrc" if where == "home" else "keys")
    file.write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    if where == "NETRC":
        monkeypatch.setenv("NETRC", str(file))
    if server is not None and configured == "environment":
        monkeypatch.setenv("WANDB_BASE_URL", server)
    elif server is not None:
        settings = home / ".config" / "wandb" / "settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"[default]\nbase_url = {server}\n")
    assert choose_mode(None) == mode
