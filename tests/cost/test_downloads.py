"""Bytes to download: each distinct file once, whether metadata are there or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtdyn.audit.listing import FileInfo, Listing
from rtdyn.audit.verdicts import audit
from rtdyn.cost.downloads import traffic
from rtdyn.model.sizes import model_shape
from rtdyn.suites.find import load_suites
from rtdyn.suites.suite import SuiteSpec


@pytest.fixture
def suite() -> SuiteSpec:
    return load_suites()["pythia-70m"]


def listing(**files: tuple[int, str | None]) -> Listing:
    named = {name.replace("__", "-").replace("_of", "-of") + ".safetensors": FileInfo(*f) for name, f in files.items()}
    small = {"config.json": FileInfo(500, "git:1"), "model.safetensors.index.json": FileInfo(90, "git:2")}
    return Listing("step", "c", {**named, **(small if len(named) > 1 else {"config.json": small["config.json"]})})


def test_whole_files_and_single_shards_that_steps_share_count_once(suite: SuiteSpec) -> None:
    one, two = "model__00001_of__00002", "model__00002_of__00002"
    listings = {
        0: listing(model=(1000, "a")),
        1: listing(model=(1000, "a")),
        2: listing(**{one: (700, "b"), two: (300, "c")}),
        4: listing(**{one: (700, "d"), two: (300, "c")}),
        8: listing(model=(1000, None)),
        16: listing(model=(1000, None)),
    }
    shape = model_shape(dict(suite.shape), "70m")
    found = traffic(suite, list(listings), audit(suite, listings, None), shape, False)
    assert (found.steps, found.analysed, found.largest, found.source) == (6, 5, 1000, "metadata")
    assert found.bytes == 1000 + (700 + 300) + 700 + 2 * 1000
    fewer = traffic(suite, [0, 2], audit(suite, listings, None), shape, False)
    assert (fewer.steps, fewer.bytes) == (2, 2000)


def test_weights_alone_are_ranges_of_safetensors_and_whole_old_files(suite: SuiteSpec) -> None:
    shape = model_shape(dict(suite.shape), "70m")
    listings = {0: listing(model=(1000, "a")), 1: listing(model=(1000, "b"))}
    found = traffic(suite, [0, 1], audit(suite, listings, None), shape, True)
    assert found.bytes == 2 * (2 * 512 * 2048 * 2) and "estimated" in found.source
    old = {0: Listing("s", "c", {"pytorch_model.bin": FileInfo(10**9, "a"), "config.json": FileInfo(1, "b")})}
    assert traffic(suite, [0], audit(suite, old, None), shape, True).bytes == 10**9


@pytest.mark.parametrize(("name", "distinct"), [("pythia-70m", 153), ("pythia-2.8b", 70), ("pythia-12b", 153)])
def test_without_metadata_known_duplicates_count_once(name: str, distinct: int) -> None:
    suite = load_suites()[name]
    shape = model_shape(dict(suite.shape), name)
    found = traffic(suite, suite.steps, None, shape, False)
    assert (found.steps, found.analysed) == (154, distinct)
    assert found.bytes == distinct * shape.file_bytes and found.source == "estimated by parameters"
    assert traffic(suite, suite.steps[-3:], None, shape, False).analysed == 3
    assert traffic(replace(suite, defects=()), suite.steps, None, shape, False).analysed == 154
