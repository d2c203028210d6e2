"""Commands of `rtdyn track` on little text, and what their results are held against."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from click.testing import CliRunner, Result
from support.refusal import refusal

from rtdyn.cli import main
from rtdyn.store.run import read_run, read_table
from rtdyn.store.schema import TABLES

SMALL = ("--rare", "0.65:0.95", "--tokens", "8192", "--positions-per-rare", "1", "--wandb", "disabled")
CHEAP = (*SMALL, "--analyses", "ablation,regimes")
PLAIN = (*SMALL, "--analyses", "ablation")


def rtdyn(*args: str | Path) -> Result:
    """The command in this process, so that its imports are paid once; an escaped exception fails the test."""
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(result: Result, code: int, *words: str) -> None:
    """Ended with `code` and one sentence that holds `words`."""
    assert result.exit_code == code, result.stderr
    sentence = refusal(result.stderr)
    for word in words:
        assert word in sentence


def same_tables(one: Path, other: Path, steps: Sequence[int] = (0, 64, 1000, 4000)) -> None:
    for table in TABLES:
        left = read_table(read_run(one), table).filter(pl.col("step").is_in(steps))
        assert left.equals(read_table(read_run(other), table)), table


def broken_suite(tiny_folder: Path, tmp_path: Path) -> Path:
    suite = tmp_path / "suite"
    for name in ("step0", "step4000"):
        shutil.copytree(tiny_folder / name, suite / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny_folder / name, suite)
    return suite


def truncate(step: Path) -> None:
    file = step / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def folder_suite(tiny_folder: Path, suite: Path) -> tuple[str | Path, ...]:
    """Four steps in a folder, and the command that tracks them but for --out."""
    names = ("step0", "step64", "step1000", "step4000", "tokenizer.json", "tokenizer_config.json", "token_counts.npy")
    for name in names:
        (shutil.copytree if name.startswith("step") else shutil.copy)(tiny_folder / name, suite / name)
    return ("track", "--model", suite, "--corpus", "king-james-held-out", *CHEAP)
