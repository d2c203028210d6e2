"""Where commands run that talk to a loopback Hub: in processes of their own, with a cache and a suites file.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so nothing of it runs in the tests' own process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.hang import HANG
from support.processes import Process, run_python

from rtdyn.suites.suite import PACKAGE

TINY = PACKAGE / "data" / "tiny"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SUITES = """
schedules:
  few: 0,512,4000
  broken: 1,2,4,8,16,512
  faulty: 0,1,512,4000
suites:
  on-hub: {repo: loopback/suite, revision: "step{step}", schedule: few, tokens_per_step: 4096}
  broken: {repo: loopback/suite, revision: "step{step}", schedule: broken}
  faulty: {repo: loopback/suite, revision: "step{step}", schedule: faulty, tokens_per_step: 4096}
  unknown: {repo: loopback/unknown, revision: "step{step}", schedule: few}
  misnamed: {repo: loopback/suite/tiny, revision: "step{step}", schedule: few}
"""
STREAM = """
import hashlib, json, sys, time
from pathlib import Path
from rtdyn.checkpoints.stream import open_stream
from rtdyn.errors import RtdynError
from rtdyn.hub.retry import Patience
from rtdyn.suites.find import load_suites

settings = json.loads(sys.argv[1])
suite = load_suites(Path(settings["suites"]))[settings["model"]]
patience = Patience(tries=settings["tries"], first=0.01, longest=0.05)


def sweep(steps):
    got, told, said, refusal, ahead = {}, [], [], None, {}
    try:
        with open_stream(
            suite, steps, {}, settings["cache_gb"], settings["weights_only"], said.append, patience, settings["keep"]
        ) as stream:
            for step in stream.steps:
                checkpoint = stream.take(step, told.append)
                bytes_of = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in checkpoint.folder.iterdir()}
                got[step] = {"digests": checkpoint.digests, "files": bytes_of, "commit": checkpoint.commit}
                if settings["hold"]:  # nothing is released until all have come
                    deadline = time.monotonic() + 900
                    while len(list(checkpoint.folder.parent.glob("step-*/*.safetensors"))) < len(steps):
                        assert time.monotonic() < deadline
                    ahead[step] = True
                    continue
                time.sleep(settings["linger"])
                stream.release(step)
            repeats = {of: [r.step for r in which] for of, which in stream.repeats.items()}
            got = {"steps": got, "repeats": repeats, "ahead": ahead}
    except RtdynError as error:
        got, refusal = {"steps": got}, str(error)
    return {**got, "refusal": refusal, "told": told, "said": said}


print(json.dumps([sweep(steps) for steps in settings["sweeps"]]))
"""
COMMANDS = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from rtdyn.cli import main

ends = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stderr(StringIO()) as err, redirect_stdout(StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as end:
            ends.append([end.code, err.getvalue(), out.getvalue()])
print(json.dumps(ends))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stderr: str
    stdout: str


@dataclass(frozen=True)
class Machine:
    """Where commands run: their text and suites file, and whom they ask."""

    folder: Path
    endpoint: str

    def settings(self, out: Path) -> list[str]:
        return [
            *("--corpus", str(self.folder / "text.txt"), "--frequencies", str(TINY / "token_counts.npy")),
            *("--rare", "0.3:0.95", "--tokens", "512", "--window", "32", "--min-targets", "10"),
            *("--positions-per-rare", "1", "--analyses", "ablation", "--tolerance", "0.01"),
            *("--wandb", "disabled", "--out", str(out)),
        ]

    def arguments(self, name: str, model: str, steps: str) -> list[str]:
        """Of a command that tracks into the run directory `name`."""
        command = ["track", "--model", model, "--steps", steps, *self.settings(self.folder / name)]
        return [*command, "--suites", str(self.folder / "suites.yaml")]

    def track(self, name: str, model: str, steps: str, **env: str) -> Ended:
        done = self.python(["-m", "rtdyn.cli", *self.arguments(name, model, steps)], **env)
        return Ended(done.returncode, done.stderr, done.stdout)

    def track_each(self, *arguments: list[str], **env: str) -> list[Ended]:
        """Commands one after another in one process, which spares them its start."""
        done = self.python(["-c", COMMANDS, json.dumps(arguments)], **env)
        assert done.returncode == 0, done.stderr
        return [Ended(code, done.stderr + err, out) for code, err, out in json.loads(done.stdout)]

    def sweep(self, model: str, *sweeps: list[int], env: dict[str, str] | None = None, **settings: Any) -> list[Any]:
        """What streaming each list of steps in turn gave: digests and bytes by step, or the sentence of a refusal."""
        done = self.python(self.sweep_program(model, *sweeps, **settings), **(env or {}))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def cache(self, *revisions: str) -> None:
        """Has the user's own cache hold these branches, by the client itself."""
        for_each = "from huggingface_hub import snapshot_download\nimport sys\n"
        for_each += "for branch in sys.argv[1:]: snapshot_download('loopback/suite', revision=branch)"
        done = self.python(["-c", for_each, *revisions])
        assert done.returncode == 0, done.stderr

    def files_in_cache(self) -> dict[Path, float]:
        """The blobs of the user's own cache, with their times of change."""
        blobs = (self.folder / "hf" / "hub").glob("models--*/blobs/*")
        return {blob: blob.stat().st_mtime for blob in sorted(blobs) if blob.is_file()}

    def start_sweep(self, model: str, steps: list[int], **settings: Any) -> Process:
        """The same in a process that goes on by itself."""
        return Process(self.sweep_program(model, steps, **settings), cwd=self.folder, env=self.environment())

    def sweep_program(self, model: str, *sweeps: list[int], **settings: Any) -> list[str]:
        """What Python is given for `sweep`."""
        return ["-c", STREAM, self._stream_settings(model, sweeps, settings)]

    def _stream_settings(self, model: str, sweeps: Any, settings: dict[str, Any]) -> str:
        given = {
            "tries": 5,
            "cache_gb": 20.0,
            "weights_only": False,
            "hold": False,
            "linger": 0.0,
            "keep": False,
            **settings,
        }
        return json.dumps({**given, "suites": str(self.folder / "suites.yaml"), "model": model, "sweeps": sweeps})

    def python(self, arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        return run_python(arguments, cwd=self.folder, env=self.environment(**env), timeout=HANG)

    def environment(self, **env: str) -> dict[str, str]:
        return hub_environment(self.endpoint, self.folder / "hf", **env)


def hub_environment(endpoint: str, home: Path, **env: str) -> dict[str, str]:
    """This process's environment, in which a Hub's client asks `endpoint` and keeps its files in `home`."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and not k.lower().endswith("_proxy")
    }
    ours = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {**kept, **ours, **env}


def files_of(place: Machine) -> dict[Path, int]:
    """What the stream keeps on the disk: bytes by file; what goes meanwhile, a folder too, counts as gone."""
    sizes = {}
    for folder, _, names in os.walk(place.folder / "hf" / "rtdyn"):
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):
                if not path.is_symlink():
                    sizes[path] = path.stat().st_size
    return sizes


def workplace(folder: Path, endpoint: str) -> Machine:
    (folder / "suites.yaml").write_text(SUITES)
    words = (TINY / "card.json").read_text().split()
    (folder / "text.txt").write_text("\n\n".join(" ".join(words[i % 50 :]) for i in range(8)))
    return Machine(folder, endpoint)


def copy_step(step: int, suite: Path, *, weights: bool = True) -> Path:
    """A bundled step as a branch of `suite`."""
    folder = suite / f"step{step}"
    folder.mkdir(parents=True)
    for name in ("config.json", *(["model.safetensors"] if weights else [])):
        shutil.copy(TINY / folder.name / name, folder)
    return folder
