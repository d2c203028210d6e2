"""A Ray cluster on the loopback interface: two nodes of one CPU each, of which the second can be killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class RayNodes:
    """A running cluster."""

    address: str
    cluster: Any
    second: Any

    def kill_second(self) -> None:
        """Kills a node with all that runs on it."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def start_second(self) -> None:
        """Starts a node in its place."""
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=STORE)


STORE = 100 * 2**20
"""Bytes of shared memory for each node's objects; tasks pass none."""


def why_not() -> str | None:
    """What keeps this machine from starting Ray, None if nothing."""
    try:
        import ray.cluster_utils  # noqa: F401  # only whether it is there
    except ImportError:
        return "Ray is not installed (pip install -c constraints.txt -e '.[ray]')"
    return None


@contextmanager
def cluster() -> Iterator[RayNodes]:
    """Two nodes that take tasks."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    both = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = RayNodes(both.address, both, None)
        nodes.start_second()
        both.wait_for_nodes()
        yield nodes
    finally:
        both.shutdown()
