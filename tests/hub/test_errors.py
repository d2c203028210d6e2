"""What the Hub answers, or another server in its place, as a sentence that anybody may read and mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback.other_servers import OtherServer
from loopback.place import COMMANDS, hub_environment
from support.hang import HANG
from support.processes import run_python
from support.refusal import refusal

from rtdyn.hub.errors import explained

AUDIT = ["audit", "--model", "pythia-14m"]
READ = ["track", "--model", "tiny", "--steps", "4000", "--corpus", "hf://datasets/a/b/x.jsonl", "--wandb", "disabled"]


def test_no_signature_password_or_token_of_an_address_is_said() -> None:
    said = explained(OSError("no answer from https://me:secret@mirror.org/a/b?Signature=secret (twice)"), "a file")
    assert str(said) == (
        "a file cannot be downloaded (OSError: no answer from https://mirror.org/a/b (twice)); run the command again"
    )


def said_of(folder: Path, endpoint: str, **env: str) -> list[str]:
    """The sentences that the commands end with."""
    environment = hub_environment(endpoint, folder / "hf", **env)
    done = run_python(["-c", COMMANDS, json.dumps([AUDIT, READ])], cwd=folder, env=environment, timeout=HANG)
    assert done.returncode == 0, done.stderr
    sentences = []
    for code, err, _ in json.loads(done.stdout):
        assert code == 3
        sentences.append(refusal(err))
    return sentences


ANSWERS = {
    "a refusal without text": (403, b"", {}, "(HfHubHTTPError: 403 Forbidden); check that HF_TOKEN may read it"),
    "a legal refusal": (451, b"", {}, "no proxy or filter refuses it"),
    "a proxy": (407, b"", {}, "put them into HTTPS_PROXY"),
    "a login page": (200, b"<html>Welcome to the hotel</html>", {}, "is no Hub, so log in to the network"),
    "another service": (200, b'{"service": "up"}', {}, "is no Hub, so log in to the network or check HF_ENDPOINT"),
    "endless redirects": (302, b"", {"Location": "/login"}, "is no Hub, so log in to the network"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_stands_is_not_to_be_asked_for_again(kind: str, tmp_path: Path) -> None:
    status, body, headers, words = ANSWERS[kind]
    with OtherServer(status=status, body=body, headers=headers) as server:
        for sentence in said_of(tmp_path, server.url):
            assert words in sentence and "run the command again" not in sentence
        assert server.requests


@pytest.mark.slow
@pytest.mark.parametrize("token", ["hf_sécret", "hf_\U0001f600"])
def test_a_token_that_is_none_is_named_and_not_shown(token: str, tmp_path: Path) -> None:
    with OtherServer() as server:
        for sentence in said_of(tmp_path, server.url, HF_TOKEN=token):
            assert "HF_TOKEN holds a character that no token has, so copy it anew" in sentence
            assert token not in sentence
        assert server.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["localhost:1234", "huggingface.co", "ftp://mirror.org"])
def test_an_endpoint_that_is_no_address_is_named(endpoint: str, tmp_path: Path) -> None:
    for sentence in said_of(tmp_path, endpoint):
        assert f"HF_ENDPOINT is {endpoint!r}, which is no address, so correct it (https://...)" in sentence
