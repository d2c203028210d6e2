"""Steps as actors of a Ray cluster of two nodes on loopback, and of a command's own: killed, poisoned, refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import ray_nodes
from loopback.sweeps import CHEAP, STEPS, TINY, Sweep, logged, same_tables, until
from support.hang import HANG
from support.processes import run_python
from support.refusal import refusal

from rtdyn.store.run import done_steps, read_run

REASON = ray_nodes.why_not()
needs_ray = pytest.mark.skipif(REASON is not None, reason=str(REASON))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[ray_nodes.RayNodes]:
    with ray_nodes.cluster() as cluster:
        yield cluster


@needs_ray
def test_driver_and_node_killed_a_sweep_comes_to_the_tables_of_a_serial_one(
    nodes: ray_nodes.RayNodes, here: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "run", (*TINY, "--executor", "ray", "--ray-address", nodes.address), {})
    driver = sweep.start()
    until(lambda: len(sweep.at_work()) == 2)
    driver.kill()
    driver.communicate()
    until(lambda: sweep.at_work().keys() & {512, 4000})  # by workers that nobody watches
    nodes.kill_second()
    nodes.start_second()
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    same_tables(sweep.out, here)
    assert logged(sweep.out) == list(STEPS)
    assert not (sweep.out / "tasks").exists() and not (sweep.out / "workers").exists()


@needs_ray
def test_the_suites_of_one_command_go_to_the_cluster_one_after_another(
    nodes: ray_nodes.RayNodes, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "copy")
    models = ("--model", "tiny", "--model", str(tmp_path / "copy"), "--steps", "1", "--corpus", "king-james-held-out")
    ended = Sweep(tmp_path / "out", (*models, "--executor", "ray", "--ray-address", nodes.address), {}).run()
    assert ended.returncode == 0, ended.stderr
    assert [list(done_steps(read_run(tmp_path / "out" / name))) for name in ("tiny", "copy")] == [[1], [1]]


@needs_ray
def test_a_cluster_of_its_own_gives_up_a_step_that_kills_three_workers(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "run", ("--model", "tiny", "--steps", "1,4000", "--executor", "ray"), {"RAY_ADDRESS": ""})
    driver = sweep.start()
    for _ in range(3):
        sweep.kill_worker(1)
    _, err = driver.communicate(timeout=HANG)
    assert driver.returncode == 3 and sweep.stored() == [4000], err
    said = refusal(err)
    assert "1 of 2 steps could not be analysed: step 1: 3 workers failed" in said


@needs_ray
def test_what_cannot_be_had_is_refused_in_a_sentence(tmp_path: Path) -> None:
    cases = (
        (("--ray-address", "127.0.0.1:1"), "Ray at 127.0.0.1:1 cannot be reached"),
        (("--ray-address", "local", "--task-gpus", "64"), "no node has what --task-gpus 64 asks for"),
    )
    for options, said in cases:
        ended = Sweep(tmp_path / "run", (*TINY, "--executor", "ray", "--device", "cpu", *options), {}).run()
        assert ended.returncode == 3 and said in refusal(ended.stderr)
        assert not (tmp_path / "run" / "tasks").exists()


def test_without_ray_it_is_refused_in_a_sentence(tmp_path: Path) -> None:
    script = "import sys; sys.modules['ray'] = None; from rtdyn.cli import main; main()"
    arguments = ["track", *TINY, *CHEAP, "--out", str(tmp_path / "run"), "--executor", "ray"]
    ended = run_python(["-c", script, *arguments], timeout=HANG)
    assert ended.returncode == 3 and "pip install ray" in refusal(ended.stderr)
