"""Graphs of planted correlations for the tests of groups, and what is tested by arrays of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import torch

from rtdyn.analyses.groups import communities, correlations, graph, set_sums
from rtdyn.analyses.groups import segregation as segregations
from rtdyn.analyses.groups.graph import Graph
from rtdyn.analyses.groups.set_sums import SetSums, layer
from rtdyn.analyses.statistics import Comparison, compare


def of_array(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of correlations, given as an array."""
    return lambda r, *arguments, **options: function(torch.from_numpy(r), *arguments, **options)


group_modularity, rewired_z, modularity_reason = map(
    of_array, (communities.group_modularity, communities.rewired_z, communities.modularity_reason)
)
graph_of, edge_counts = of_array(graph.graph_of), of_array(set_sums.edge_counts)


def correlation(columns: torch.Tensor, **options: int) -> np.ndarray:
    return correlations.correlation(columns, **options).numpy()


def sums_of(r: np.ndarray, sets: np.ndarray, threshold: float | None = 0.3) -> SetSums:
    return set_sums.set_sums(layer(torch.from_numpy(r), threshold), np.atleast_2d(sets))


def of_sums(function: Callable[[SetSums], Any]) -> Callable[..., Any]:
    """The function of sums over sets, given correlations, sets and perhaps a threshold."""
    return lambda r, sets, **options: function(sums_of(r, sets, **options))


segregation, segregation_reason, mean_correlation, mean_correlation_reasons = map(
    of_sums,
    (
        segregations.segregation,
        segregations.segregation_reason,
        segregations.mean_correlation,
        segregations.mean_correlation_reasons,
    ),
)


def from_weights(weights: np.ndarray) -> np.ndarray:
    """A matrix shaped like correlations, from the upper triangle of `weights`."""
    r = np.triu(weights, 1).astype(np.float32)
    r += r.T
    np.fill_diagonal(r, 1.0)
    return r


def random_graph(rng: np.random.Generator, nodes: int, density: float) -> np.ndarray:
    weights = rng.uniform(0.3, 1, (nodes, nodes)) * rng.choice([-1, 1], (nodes, nodes))
    return from_weights(weights * (rng.random((nodes, nodes)) < density))


def factors(rng: np.random.Generator, neurons: int, modules: int, noise: float = 1.0, n: int = 1500) -> np.ndarray:
    """Correlations of neurons that each follow one of `modules` latent signals."""
    latent = rng.standard_normal((n, modules))
    own = rng.integers(modules, size=neurons)
    return correlation(torch.from_numpy(latent[:, own] + noise * rng.standard_normal((n, neurons))))


def as_networkx(r: np.ndarray, members: np.ndarray, threshold: float) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(members.tolist())
    for i, j in combinations(members.tolist(), 2):
        weight = abs(float(r[i, j]))
        if weight >= threshold and weight > 0:
            graph.add_edge(i, j, weight=weight)
    return graph


def everyone(r: np.ndarray) -> np.ndarray:
    return np.arange(len(r))[None]


def built(r: np.ndarray, threshold: float | None = 0.3) -> Graph:
    graph = graph_of(r, np.arange(len(r)), threshold, None)
    assert isinstance(graph, Graph)
    return graph


def compared(value: float, null: np.ndarray) -> Comparison:
    result = compare(value, null)
    assert isinstance(result, Comparison)
    return result


def degrees(graph: Graph) -> np.ndarray:
    return (graph.between > 0).sum(1)
