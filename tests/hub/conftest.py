"""A Hub of data sets on loopback and the processes that ask it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from loopback.datasets import LoopbackDatasets
from support.dataset_client import HubClient


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    # what is kept has to be found again under any name of a home
    with LoopbackDatasets() as hub, HubClient(tmp_path_factory.mktemp("hf [1]"), hub) as place:
        yield place


@pytest.fixture(scope="module")
def offline(place: HubClient) -> Iterator[HubClient]:
    """The same home without a network."""
    with HubClient(place.home, place.hub, {"HF_HUB_OFFLINE": "1"}) as offline:
        yield offline


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """A data set of the test's own."""
    return "o/" + re.sub("[^a-z]+", "-", request.node.name)[:60].strip("-")
