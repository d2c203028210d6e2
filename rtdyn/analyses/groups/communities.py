"""Do a group's neurons form modules? Louvain's partition of its own graph (METHODS §6).

Newman's modularity Q (see `segregation`) is that of Louvain's partition (Blondel et al. 2008), resolution 1, best of
several orders. Q falls with density whatever the structure. So groups are compared at equal numbers of edges, or by z
against rewired graphs of the same degrees (Maslov & Sneppen 2002).
Louvain is compiled here: networkx takes fifty times as long, and igraph is under the GPL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rtdyn.analyses.groups.graph import THRESHOLD, Graph, checked_sets, graph_of, joined
from rtdyn.analyses.kernels import graphs
from rtdyn.analyses.threads import in_threads
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

RESTARTS = 5
"""Orders of the nodes that Louvain is started with.

Of sets of `tiny`'s neurons these find a Q that is at most 0.004 below that of twenty orders on average. What is left
scatters by 0.4 of the sd between sets where nothing is learnt yet, and by 0.2 or less from step 32 on.
"""
REWIRINGS = 99
"""Rewired graphs that a graph is held against, enough for p = 0.04 after Bonferroni's correction over two halves."""
SWAPS_PER_EDGE = 10.0
ATTEMPTS_PER_SWAP = 100.0
"""Most proposals for a swap wanted: where nearly all are refused (a star, a complete graph) fewer swaps are made."""


@dataclass(frozen=True)
class Rewired:
    """Each set's modularity beside that of graphs of the same degrees; float64 (s,), NaN where undefined."""

    modularity: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    z: np.ndarray
    """(modularity − null_mean)/null_sd, NaN where that is 0, as all rewired graphs have the same modularity.

    Correlations are transitive, so random sets have a large z too: it says something beside METHODS §4's sets only.
    """
    p_value: np.ndarray
    """Two-sided, +1 corrected, against the rewired graphs; what is said of z holds for it too."""
    swaps_per_edge: np.ndarray
    """Swaps made, mean over the rewired graphs; 0 where the degrees allow one graph only and weights alone move."""


def equal_edges(counts: np.ndarray) -> int:
    """The number of edges at which sets are compared: the lower median of their own, the group's among them.

    It treats all sets alike, so that under exchangeability of group and null sets ranks stay uniform; the group's own
    number would not do that. counts: int (s,), edges of each set. Raises ValueError where there are none.
    """
    if len(counts) == 0:
        raise ValueError("no sets to compare")
    return int(np.sort(counts)[(len(counts) - 1) // 2])


def group_modularity(
    r: Tensor,
    sets: np.ndarray,
    *,
    threshold: float | None = THRESHOLD,
    edges: int | None = None,
    restarts: int = RESTARTS,
    seed: int = 0,
) -> np.ndarray:
    """float64 (s,): Louvain's Q of the graph of each set of sets (s, n), NaN where `modularity_reason` gives one.

    r: (F, F) of `correlation`. edges: take each set's strongest `edges` pairs, whatever the threshold (ties at the last
    by neuron), as any comparison of sets must. A set's value depends on its own graph and the seed only. Takes up
    to 60·n² bytes a thread, of which torch's number is used. Raises ValueError for sets that are no sets of neurons.
    """

    def largest_q(members: np.ndarray) -> float:
        graph = graph_of(r, members, threshold, edges)
        return np.nan if isinstance(graph, Undefined) else louvain(graph, restarts, stream(seed, "communities"))[0]

    return np.array(in_threads(largest_q, checked_sets(r, sets)), dtype=np.float64)


def rewired_z(
    r: Tensor,
    sets: np.ndarray,
    *,
    threshold: float | None = THRESHOLD,
    edges: int | None = None,
    draws: int = REWIRINGS,
    swaps_per_edge: float = SWAPS_PER_EDGE,
    attempts_per_swap: float = ATTEMPTS_PER_SWAP,
    restarts: int = RESTARTS,
    seed: int = 0,
) -> Rewired:
    """Louvain's Q of each set's graph against `draws` random graphs with its degrees and weights, weights shuffled.

    r: (F, F). sets: int (s, n).

    Graphs are drawn by exchanging ends of two edges, where this makes neither loops nor double edges. Proposals, not
    swaps, are fixed beforehand, as only then all graphs are equally likely. By a pilot's rate of acceptance they make
    about `swaps_per_edge` swaps an edge; they are at most `attempts_per_swap` times that. Every graph gets
    the same `restarts`. Raises ValueError for under two draws; other arguments and limits as in `group_modularity`.
    """
    if draws < 2:
        raise ValueError(f"{draws} rewired graphs have no standard deviation")
    value, mean, sd, p, swaps = np.full((5, len(sets)), np.nan)
    for k, members in enumerate(checked_sets(r, sets)):
        graph = graph_of(r, members, threshold, edges)
        if isinstance(graph, Undefined):
            continue
        value[k] = louvain(graph, restarts, stream(seed, "communities"))[0]
        null, swaps[k] = _rewired_modularity(
            graph, draws, swaps_per_edge, attempts_per_swap, restarts, stream(seed, "rewired graphs")
        )
        mean[k], sd[k] = null.mean(), null.std(ddof=1)
        p[k] = min(1.0, 2 * (1 + min((null <= value[k]).sum(), (null >= value[k]).sum())) / (draws + 1))
    # round-off alone is no spread: Q is of the order of 1
    spread = sd > 1e-12
    z = np.divide(value - mean, sd, out=np.full(len(sets), np.nan), where=spread)
    return Rewired(value, mean, sd, z, p, swaps)


def modularity_reason(
    r: Tensor, members: np.ndarray, *, threshold: float | None = THRESHOLD, edges: int | None = None
) -> Undefined | None:
    """Why the graph of `members` (n,) in r (F, F) has no modularity; None where it has one."""
    graph = graph_of(r, checked_sets(r, members[None])[0], threshold, edges)
    return graph if isinstance(graph, Undefined) else None


def louvain(graph: Graph, restarts: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The largest Q of `restarts` runs of Louvain, and the community of each node, int64 (nodes,)."""
    value, community = graphs.best(graph.between, restarts, rng)
    return float(value), community


def _rewired_modularity(
    graph: Graph,
    draws: int,
    swaps_per_edge: float,
    attempts_per_swap: float,
    restarts: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Q of `draws` rewired graphs, float64 (draws,), and the swaps per edge that each took on average."""
    values = np.empty(draws)
    attempts, swaps = swap_attempts(graph, swaps_per_edge, attempts_per_swap, rng), 0
    for draw in range(draws):
        rewired, made = rewired_graph(graph, attempts, rng)
        values[draw] = louvain(rewired, restarts, rng)[0]
        swaps += made
    return values, swaps / (draws * graph.edges)


def swap_attempts(graph: Graph, swaps_per_edge: float, attempts_per_swap: float, rng: np.random.Generator) -> int:
    """Proposals that make about `swaps_per_edge` swaps, by the rate at which a pilot's are accepted."""
    wanted = int(np.ceil(swaps_per_edge * graph.edges))
    made = rewired_graph(graph, wanted, rng)[1]
    return int(np.ceil(wanted * min(attempts_per_swap, 1.1 * wanted / max(1, made))))


def rewired_graph(graph: Graph, attempts: int, rng: np.random.Generator) -> tuple[Graph, int]:
    """A random graph with the same degrees and the same weights elsewhere, and the number of swaps that made it."""
    nodes, adjacent = len(graph.between), graph.between > 0
    pairs = np.stack(np.triu_indices(nodes, 1), axis=1)
    dense = 2 * graph.edges > len(pairs)
    # a swap takes two edges and two pairs that are none: proposals start from the rarer, so fewer are refused
    chosen = pairs[~adjacent[pairs[:, 0], pairs[:, 1]]] if dense else graph.ends
    made = int(graphs.swap(chosen, ~adjacent if dense else adjacent, attempts, rng))
    if dense:
        adjacent[...] = True
        adjacent[chosen[:, 0], chosen[:, 1]] = adjacent[chosen[:, 1], chosen[:, 0]] = False
        chosen = pairs[adjacent[pairs[:, 0], pairs[:, 1]]]
    return joined(nodes, chosen, rng.permutation(graph.weights)), made
