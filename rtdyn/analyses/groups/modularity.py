"""Spatial organisation: do a group's neurons form modules, and are they a module of the layer? (METHODS §6)

Neurons are nodes; an edge joins two whose activations have |Pearson r| ≥ threshold, with weight w_ij = |r_ij|. With
k_i = Σ_j w_ij and 2m = Σ_i k_i, Newman's modularity of a partition is Q = Σ_c [in_c/2m − (Σ_{i∈c} k_i/2m)²], in_c
being the sum of w_ij over ordered pairs inside c. In a group Q is that of Louvain's partition (Blondel et al. 2008),
resolution 1, best of several orders; in the graph of the whole layer it is that of {group, rest}. Q falls with density
whatever the structure, so groups are compared at equal numbers of edges, or by z against rewired graphs of the same
degrees (Maslov & Sneppen 2002). Neurons that never vary have no correlation: they leave the group and the layer.
Louvain is compiled here: networkx takes fifty times as long, and igraph is under the GPL.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups import modularity
from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.kernels import graphs
from rtdyn.undefined import Undefined

THRESHOLD = 0.3
"""|r| from which two neurons are joined; None, as in the preset `paper-code`, joins all whose r is not 0."""


MIN_NODES = 10


MIN_EDGES = 10


RESTARTS = 10
"""Orders of the nodes that Louvain is started with."""


REWIRINGS = 50
"""Rewired graphs that a graph is held against."""


SWAPS_PER_EDGE = 10.0


ATTEMPTS_PER_SWAP = 100.0
"""Most proposals for a swap wanted: where nearly all are refused (a star, a complete graph) fewer swaps are made."""


BLOCK = 1024
"""Neurons whose standardised activations are held in float64 at a time."""


@dataclass(frozen=True)
class Segregation:
    """Each set in the graph of all F neurons; float64 (s,), NaN where undefined."""

    modularity: np.ndarray
    """Newman's weighted Q of the partition {set, rest}: above 0 where the set holds together more than degrees say."""
    inside_share: np.ndarray
    """Share of the edges with an end in the set that have both ends there."""
    inside_weight_share: np.ndarray
    """The same share of their weights."""


@dataclass(frozen=True)
class MeanCorrelation:
    """Signed mean Pearson r of each set; float64 (s,), NaN where undefined."""

    within: np.ndarray
    """Over pairs inside the set."""
    across: np.ndarray
    """Over pairs of a neuron inside and one outside."""


@dataclass(frozen=True)
class Rewired:
    """Each set's modularity beside that of graphs of the same degrees; float64 (s,), NaN where undefined."""

    modularity: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    z: np.ndarray
    """(modularity − null_mean)/null_sd, NaN where that is 0, as all rewired graphs have the same modularity.

    Correlations are transitive, so random sets have a large z too: it says something beside the z of §4's sets only.
    """
    p_value: np.ndarray
    """Two-sided, +1 corrected, against the rewired graphs; what is said of z holds for it too."""
    swaps_per_edge: np.ndarray
    """Swaps made, mean over the rewired graphs; 0 where the degrees allow one graph only and weights alone move."""


@dataclass(frozen=True)
class _Graph:
    """A graph whose nodes all have an edge, numbered by falling strength."""

    nodes: int
    ends: np.ndarray
    """int64 (E, 2), two nodes each."""
    weights: np.ndarray
    """float64 (E,), positive."""


def correlation(z: Tensor, *, block: int = BLOCK) -> np.ndarray:
    """float32 (F, F): Pearson r of every two columns of activations z (N, F), exactly symmetric, diagonal 1.

    Columns may have any mean and scale: they are standardised in float64, `block` at a time, and so are their
    products. A column that is constant or not finite has NaN with every other and itself. Memory beyond z: 4·F² bytes
    (256 MiB at F = 8,192) and 16·block·(N + block) for the blocks, on the device of z.
    """
    neurons = z.shape[1]
    r = np.empty((neurons, neurons), dtype=np.float32)
    starts = range(0, neurons, block)
    for first in starts:
        left = _standardised(z[:, first : first + block])
        for second in range(first, neurons, block):
            right = left if second == first else _standardised(z[:, second : second + block])
            product = (left.T @ right).clamp_(-1, 1).float().cpu().numpy()
            r[first : first + block, second : second + block] = product
            r[second : second + block, first : first + block] = product.T
    diagonal = r.diagonal()
    r[np.arange(neurons), np.arange(neurons)] = np.where(np.isnan(diagonal), np.nan, 1.0)
    return r


def _standardised(columns: Tensor) -> Tensor:
    """float64: columns with mean 0 and norm 1, NaN for those that never vary."""
    values = columns.double()
    if len(values) == 0:
        return values.new_full((1, values.shape[1]), torch.nan)
    constant = ~(columns.amax(0) > columns.amin(0))
    # scaled first, so that neither the mean nor the squares of extreme activations overflow
    values = values / values.abs().amax(0)
    values -= values.mean(0)
    values /= values.norm(dim=0)
    values[:, constant] = torch.nan
    return values


def edge_counts(r: np.ndarray, sets: np.ndarray, *, threshold: float | None = THRESHOLD) -> np.ndarray:
    """int64 (s,): edges inside each set of sets (s, n), neurons of r (F, F)."""
    sets = _checked(r, sets)
    return graphs.inside(r, sets, _least(threshold))[1].astype(np.int64)


def equal_edges(counts: np.ndarray) -> int:
    """The number of edges at which sets are compared: the lower median of their own numbers, the group's among them.

    It treats all sets alike, so that under exchangeability of group and null sets ranks stay uniform; the group's own
    number would not do that. Raises ValueError where there are no counts.
    """
    if len(counts) == 0:
        raise ValueError("no sets to compare")
    return int(np.sort(counts)[(len(counts) - 1) // 2])


def group_modularity(
    r: np.ndarray,
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

    def one(members: np.ndarray) -> float:
        graph = _graph(r, members, threshold, edges)
        return np.nan if isinstance(graph, str) else _louvain(graph, restarts, np.random.default_rng(seed))[0]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.fromiter(pool.map(one, _checked(r, sets)), np.float64, len(sets))


def rewired_z(
    r: np.ndarray,
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

    Graphs are drawn by exchanging ends of two edges, where this makes neither loops nor double edges. Proposals, not
    swaps, are fixed beforehand, from a pilot's rate of acceptance, since only then all graphs are equally likely; they
    are as many as make about `swaps_per_edge` swaps an edge, at most `attempts_per_swap` times that. Every graph gets
    the same `restarts`. Raises ValueError for under two draws; other arguments and limits as in `group_modularity`.
    """
    if draws < 2:
        raise ValueError(f"{draws} rewired graphs have no standard deviation")
    value, mean, sd, p, swaps = np.full((5, len(sets)), np.nan)
    for k, members in enumerate(_checked(r, sets)):
        graph = _graph(r, members, threshold, edges)
        if isinstance(graph, str):
            continue
        value[k] = _louvain(graph, restarts, np.random.default_rng(seed))[0]
        null, swaps[k] = _rewired_modularity(
            graph, draws, swaps_per_edge, attempts_per_swap, restarts, np.random.default_rng([seed, 1])
        )
        mean[k], sd[k] = null.mean(), null.std(ddof=1)
        p[k] = min(1.0, 2 * (1 + min((null <= value[k]).sum(), (null >= value[k]).sum())) / (draws + 1))
    # round-off alone is no spread: Q is of the order of 1
    spread = sd > 1e-12
    z = np.divide(value - mean, sd, out=np.full(len(sets), np.nan), where=spread)
    return Rewired(value, mean, sd, z, p, swaps)


def modularity_reason(
    r: np.ndarray, members: np.ndarray, *, threshold: float | None = THRESHOLD, edges: int | None = None
) -> str | None:
    """Why the graph of `members` (n,) has no modularity; None where it has one."""
    graph = _graph(r, _checked(r, members[None])[0], threshold, edges)
    return graph if isinstance(graph, str) else None


def segregation(r: np.ndarray, sets: np.ndarray, *, threshold: float | None = THRESHOLD) -> Segregation:
    """How far each set of sets (s, n) is a block of its own in the graph of all F neurons of r (F, F).

    With K the sum of k_i over the set and x the weight of edges that leave it, Q = 2·[K·(2m − K)/(2m)² − x/2m]. NaN
    where `segregation_reason` gives a reason. Takes F² + s·n² steps and no memory to speak of. Raises ValueError for
    sets that are no sets of neurons.
    """
    sets = _checked(r, sets)
    least = _least(threshold)
    totals = graphs.totals(r, least)
    inside = graphs.inside(r, sets, least)
    strength, degree = totals[0][sets].sum(1), totals[1][sets].sum(1)
    total = totals[0].sum()
    _, bad = _segregation_limits(r, sets, totals, inside)
    with np.errstate(divide="ignore", invalid="ignore"):
        leaving = strength - 2 * inside[0]
        q = 2 * (strength * (total - strength) / total**2 - leaving / total)
        share = inside[1] / (degree - inside[1])
        weight_share = inside[0] / (strength - inside[0])
    return Segregation(*(np.where(bad, np.nan, v) for v in (q, share, weight_share)))


def segregation_reason(r: np.ndarray, members: np.ndarray, *, threshold: float | None = THRESHOLD) -> str | None:
    """Why `segregation` is undefined for `members` (n,); None where it is not."""
    sets = _checked(r, members[None])
    least = _least(threshold)
    inside = graphs.inside(r, sets, least)
    return _segregation_limits(r, sets, graphs.totals(r, least), inside)[0]


def _segregation_limits(
    r: np.ndarray, sets: np.ndarray, totals: np.ndarray, inside: np.ndarray
) -> tuple[str | None, np.ndarray]:
    """Which sets are undefined, bool (s,), and why the first of them is."""
    varying = ~np.isnan(r.diagonal())
    nodes = varying[sets].sum(1)
    touching = (totals[1][sets].sum(1) - inside[1]).astype(np.int64)
    few_nodes, few_edges, no_rest = nodes < MIN_NODES, touching < MIN_EDGES, nodes == varying.sum()
    bad = few_nodes | few_edges | no_rest
    if not bad.any():
        return None, bad
    first = int(bad.argmax())
    if few_nodes[first]:
        return _few_nodes(int(nodes[first])), bad
    if no_rest[first]:
        return "no varying neuron lies outside the group", bad
    return f"only {touching[first]} edges have an end in the group", bad


def mean_correlation(r: np.ndarray, sets: np.ndarray) -> MeanCorrelation:
    """Signed mean r inside each set of sets (s, n) and between it and the other neurons of r (F, F).

    Within is NaN for under two varying neurons in the set, across for none there or none outside. Raises ValueError
    for sets that are no sets of neurons.
    """
    sets = _checked(r, sets)
    varying = ~np.isnan(r.diagonal())
    nodes = varying[sets].sum(1).astype(np.float64)
    within_sum = graphs.inside(r, sets, _least(None))[2]
    across_sum = graphs.totals(r, _least(None))[2][sets].sum(1) - 2 * within_sum
    pairs, across_pairs = nodes * (nodes - 1) / 2, nodes * (varying.sum() - nodes)
    undefined = np.full(len(sets), np.nan)
    return MeanCorrelation(
        np.divide(within_sum, pairs, out=undefined.copy(), where=pairs > 0),
        np.divide(across_sum, across_pairs, out=undefined, where=across_pairs > 0),
    )


def mean_correlation_reasons(r: np.ndarray, members: np.ndarray) -> tuple[str | None, str | None]:
    """Why `members` (n,) have no mean correlation within, and none across; None where they have."""
    members = _checked(r, members[None])[0]
    varying = ~np.isnan(r.diagonal())
    nodes, outside = int(varying[members].sum()), int(varying.sum() - varying[members].sum())
    within = _few_nodes(nodes) if nodes < 2 else None
    if nodes == 0:
        return within, _few_nodes(nodes)
    return within, "no varying neuron lies outside the group" if outside == 0 else None


def _few_nodes(nodes: int) -> str:
    return f"only {nodes} of the group's neurons vary"


def _checked(r: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """int64 (s, n), each row ascending. The compiled loops check no index themselves."""
    if r.ndim != 2 or r.shape[0] != r.shape[1]:
        raise ValueError(f"correlations of shape {r.shape} are not square")
    if sets.ndim != 2 or not np.issubdtype(sets.dtype, np.integer):
        raise ValueError(f"sets must be whole numbers (s, n), not {sets.dtype} of shape {sets.shape}")
    ordered = np.sort(sets.astype(np.int64), axis=1)
    if ordered.size and (ordered.min() < 0 or ordered.max() >= len(r)):
        raise ValueError(f"sets hold neurons that are not among the {len(r)} of the correlations")
    if (np.diff(ordered, axis=1) == 0).any():
        raise ValueError("a set holds the same neuron twice")
    return ordered


def _least(threshold: float | None) -> float:
    # an edge of weight 0 is none, so that a threshold of 0 is the same as no threshold
    return max(threshold or 0.0, float(np.nextafter(0.0, 1.0)))


def _graph(r: np.ndarray, members: np.ndarray, threshold: float | None, edges: int | None) -> _Graph | str:
    """The graph of `members` (n,), or why it is too small."""
    nodes = len(members) - int(np.isnan(r[members, members]).sum())
    if nodes < MIN_NODES:
        return _few_nodes(nodes)
    weight = graphs.pair_weights(r, members, _least(threshold if edges is None else None))
    available = int(np.count_nonzero(weight))
    if edges is not None and available < edges:
        return f"only {available} pairs of the group's neurons are correlated, fewer than the {edges} compared"
    kept = available if edges is None else edges
    if kept < MIN_EDGES:
        return f"only {kept} edges in the group's graph"
    cut = np.partition(weight, len(weight) - kept)[len(weight) - kept]
    return _Graph(*graphs.linked(weight, len(members), cut, kept - np.count_nonzero(weight > cut)))


def _louvain(graph: _Graph, restarts: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The largest Q of `restarts` runs of Louvain, and the community of each node, int64 (nodes,)."""
    value, community = graphs.best(graph.nodes, graph.ends, graph.weights, restarts, rng)
    return float(value), community


def _rewired_modularity(
    graph: _Graph,
    draws: int,
    swaps_per_edge: float,
    attempts_per_swap: float,
    restarts: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Q of `draws` rewired graphs, float64 (draws,), and the swaps per edge that each took on average."""
    values = np.empty(draws)
    attempts, swaps = _attempts(graph, swaps_per_edge, attempts_per_swap, rng), 0
    for draw in range(draws):
        rewired, made = _rewired(graph, attempts, rng)
        values[draw] = _louvain(rewired, restarts, rng)[0]
        swaps += made
    return values, swaps / (draws * len(graph.ends))


def _attempts(graph: _Graph, swaps_per_edge: float, attempts_per_swap: float, rng: np.random.Generator) -> int:
    """Proposals that make about `swaps_per_edge` swaps, by the rate at which a pilot's are accepted."""
    wanted = int(np.ceil(swaps_per_edge * len(graph.ends)))
    made = _rewired(graph, wanted, rng)[1]
    return int(np.ceil(wanted * min(attempts_per_swap, 1.1 * wanted / max(1, made))))


def _rewired(graph: _Graph, attempts: int, rng: np.random.Generator) -> tuple[_Graph, int]:
    """A random graph with the same degrees and the same weights elsewhere, and the number of swaps that made it."""
    adjacent = np.zeros((graph.nodes, graph.nodes), dtype=np.bool_)
    adjacent[graph.ends[:, 0], graph.ends[:, 1]] = True
    adjacent |= adjacent.T
    pairs = np.stack(np.triu_indices(graph.nodes, 1), axis=1)
    dense = 2 * len(graph.ends) > len(pairs)
    # a swap takes two edges and two pairs that are none: proposals start from the rarer, so fewer are refused
    chosen = pairs[~adjacent[pairs[:, 0], pairs[:, 1]]] if dense else graph.ends.copy()
    made = int(graphs.swap(chosen, ~adjacent if dense else adjacent, attempts, rng))
    if dense:
        adjacent[...] = True
        adjacent[chosen[:, 0], chosen[:, 1]] = adjacent[chosen[:, 1], chosen[:, 0]] = False
        chosen = pairs[adjacent[pairs[:, 0], pairs[:, 1]]]
    return _Graph(graph.nodes, chosen, rng.permutation(graph.weights)), made


LOUVAIN_DRAWS = 199
"""Sets of each null that Louvain's algorithm runs on."""


REWIRINGS = 99
"""Rewired graphs of each half, enough for p = 0.04 after Bonferroni's correction."""


LARGEST_GRAPH = 512
"""Neurons of a group whose own graph is searched for communities."""


LARGEST_REWIRED = 64
"""Neurons of a group whose own graph is rewired."""


def _equal_edges(r: list[np.ndarray], group: Group) -> list[int]:
    """For each half measured, the number of edges at which the group's graph and its nulls' are compared."""
    edges = []
    for half in (0, 1):
        # the half measured is the one that did not choose
        chosen = 1 - half
        drawn = [sets[chosen][:LOUVAIN_DRAWS] for sets in group.sets.values() if not isinstance(sets, Undefined)]
        counts = modularity.edge_counts(r[half], np.concatenate([group.members[chosen][None], *drawn]))
        edges.append(modularity.equal_edges(counts))
    return edges
