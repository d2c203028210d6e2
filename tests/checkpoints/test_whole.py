"""When a folder that somebody writes to holds a whole checkpoint, and what of it stays once it is linked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import trainer

from rtdyn.checkpoints.arriving import arrivals_folder, link_step, step_link
from rtdyn.checkpoints.polling import Watch
from rtdyn.checkpoints.whole import whole_state
from rtdyn.errors import InputError

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    trainer.save(tiny_folder / "step1", tmp_path / "step10", 10, 0)
    shutil.copy(tiny_folder / "tokenizer.json", tmp_path)
    return tmp_path / "step10"


def test_only_a_folder_with_every_file_in_full_length_is_whole(folder: Path) -> None:
    whole = whole_state(folder)
    assert whole is not None and whole == whole_state(folder)
    for name in ("config.json", "model.safetensors.index.json", SHARD):
        data = (folder / name).read_bytes()
        for damaged in (b"", data[: len(data) // 2], data[:-2]):
            (folder / name).write_bytes(damaged)
            assert whole_state(folder) is None, name
        (folder / name).unlink()
        assert whole_state(folder) is None, name
        (folder / name).write_bytes(data)
    again = whole_state(folder)
    assert again is not None and again != whole  # the times of their last changes are others
    with (folder / "optimizer.pt").open("ab") as file:
        file.write(b"more")
    assert whole_state(folder) not in (None, again)
    assert whole_state(folder.with_name("none")) is None


def test_links_keep_what_a_trainer_deletes(folder: Path, tmp_path: Path) -> None:
    data = (folder / SHARD).read_bytes()
    links = arrivals_folder(tmp_path / "run")
    link_step(folder, tmp_path, step_link(links, 10), copy=False)
    shutil.rmtree(folder)
    assert (links / "step10" / SHARD).read_bytes() == data
    assert sorted(p.name for p in (links / "step10").iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", SHARD, "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError):
        link_step(folder, tmp_path, links / "x", copy=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        link_step(tmp_path / "empty", tmp_path, links / "x", copy=True)
    assert [p.name for p in links.iterdir()] == ["step10"]


@pytest.mark.parametrize("copy", [True, False])
def test_where_the_disk_has_no_hard_links_files_are_copied_or_linked_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    link_step(folder, tmp_path, tmp_path / "link", copy=copy)
    assert (tmp_path / "link" / SHARD).read_bytes() == (folder / SHARD).read_bytes()
    assert (tmp_path / "link" / SHARD).is_symlink() != copy


def test_what_killed_processes_left_is_cleared_and_no_others(tmp_path: Path) -> None:
    mine = arrivals_folder(tmp_path / "run")
    alive = mine.with_name(mine.name.replace(f"-{os.getpid()}", f"-{os.getppid()}"))
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}", "-999999999"))
    for other in (alive, dead):
        (other / "step1").mkdir(parents=True)
    assert arrivals_folder(tmp_path / "run") == mine
    assert alive.is_dir() and not dead.exists()


def test_a_step_is_given_when_two_looks_agree_the_earliest_first_and_once() -> None:
    looks = iter(
        [{5: None, 10: "a"}, {5: "x", 10: "a"}, {5: "y", 20: None}, {5: "y", 20: "b"}, {20: "b"}, {20: "b", 30: "c"}]
    )
    said: list[str] = []
    refused = [20]

    def take(step: int, state: object) -> bool:
        return step not in refused or refused.pop() != step

    def look(passed: object) -> dict[int, str | None]:
        return {step: state for step, state in next(looks, {30: "c"}).items() if step not in passed}  # type: ignore[operator]  # a set

    assert list(Watch(look, take, 0.001, 30, None, said.append).steps()) == [10, 5, 20, 30]
    assert said == []
