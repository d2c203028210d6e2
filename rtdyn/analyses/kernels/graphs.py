"""Loops over graphs of correlations: sums over edges, Louvain's partition, and swaps that keep the degrees."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled


@compiled()
def totals(r: Any, threshold: float) -> Any:
    """float64 (3, F): each neuron's strength, number of edges and sum of r with all others; r (F, F)."""
    out = np.zeros((3, len(r)))
    for i in range(len(r)):
        for j in range(len(r)):
            value = np.float64(r[i, j])
            if j == i or np.isnan(value):
                continue
            out[2, i] += value
            if abs(value) >= threshold:
                out[0, i] += abs(value)
                out[1, i] += 1
    return out


@compiled()
def inside(r: Any, sets: Any, threshold: float) -> Any:
    """float64 (3, s): weight, number of edges and sum of r over each set's pairs; r (F, F), sets int64 (s, n)."""
    out = np.zeros((3, len(sets)))
    for k in range(len(sets)):
        for a in range(sets.shape[1]):
            row = r[sets[k, a]]
            for b in range(a + 1, sets.shape[1]):
                value = np.float64(row[sets[k, b]])
                if np.isnan(value):
                    continue
                out[2, k] += value
                if abs(value) >= threshold:
                    out[0, k] += abs(value)
                    out[1, k] += 1
    return out


@compiled()
def pair_weights(r: Any, members: Any, least: float) -> Any:
    """float64 (n(n − 1)/2,): |r| of every two of `members` (n,), row by row, 0 where undefined or under `least`."""
    out = np.zeros(len(members) * (len(members) - 1) // 2)
    pair = 0
    for a in range(len(members)):
        row = r[members[a]]
        for b in range(a + 1, len(members)):
            value = abs(np.float64(row[members[b]]))
            if value >= least:
                out[pair] = value
            pair += 1
    return out


@compiled()
def linked(weight: Any, nodes: int, cut: float, ties: int) -> Any:
    """The graph whose edges are the pairs of a weight above `cut`, and the first `ties` of those that have it.

    weight: of `pair_weights`, for n = `nodes`. Returns the number of nodes with an edge, and the edges, int64 (E, 2)
    and float64 (E,). Nodes are numbered by falling strength, so Q does not depend on the order of the neurons, which
    Louvain's would follow.
    """
    strength, between = np.zeros(nodes), np.zeros((nodes, nodes))
    pair, edges = 0, 0
    for a in range(nodes):
        for b in range(a + 1, nodes):
            value = weight[pair]
            pair += 1
            if value < cut or value == 0 or (value == cut and ties == 0):
                continue
            ties -= value == cut
            edges += 1
            strength[a] += value
            strength[b] += value
            between[a, b] = between[b, a] = value
    order = np.arange(nodes)
    for i in range(nodes):  # numba's own sort takes seconds to compile
        u, j = order[i], i
        while j > 0 and strength[order[j - 1]] < strength[u]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = u
    ends, weights = np.empty((edges, 2), np.int64), np.empty(edges)
    edge = 0
    for i in range(nodes):
        row = between[order[i]]
        for j in range(i + 1, nodes):
            if row[order[j]] > 0:
                ends[edge, 0], ends[edge, 1], weights[edge] = i, j, row[order[j]]
                edge += 1
    return (strength > 0).sum(), ends, weights


@compiled()
def neighbours(nodes: int, ends: Any, weights: Any) -> Any:
    """The graph of edges (E, 2) and weights (E,), node by node.

    Returns where each node's neighbours begin, int64 (nodes + 1,), the neighbours, int64 (2E,), and the weights of the
    edges to them, float64 (2E,): `start`, `neighbour` and `weight` of the functions below.
    """
    start = np.zeros(nodes + 1, np.int64)
    for e in range(len(ends)):
        start[ends[e, 0] + 1] += 1
        start[ends[e, 1] + 1] += 1
    for u in range(nodes):
        start[u + 1] += start[u]
    free = start[:-1].copy()
    neighbour, weight = np.empty(start[nodes], np.int64), np.empty(start[nodes])
    for e in range(len(ends)):
        for side in range(2):
            u, v = ends[e, side], ends[e, 1 - side]
            neighbour[free[u]], weight[free[u]] = v, weights[e]
            free[u] += 1
    return start, neighbour, weight


@compiled()
def renamed(community: Any) -> Any:
    """Communities (n,) numbered from 0 by their first node, int64 (n,), and how many there are."""
    name, count = np.full(len(community), -1), 0
    out = np.empty_like(community)
    for u in range(len(community)):
        if name[community[u]] < 0:
            name[community[u]] = count
            count += 1
        out[u] = name[community[u]]
    return out, count


@compiled()
def sweep(
    start: Any, neighbour: Any, weight: Any, strength: Any, total: float, order: Any, community: Any, held: Any
) -> bool:
    """Moves each node in turn to the neighbouring community where Q gains most; whether any moved.

    order and community: int64 (n,), the latter changed in place; strength (n,), with sum `total`; held (n,): the
    strength of each community, changed in place.
    """
    towards, touched = np.zeros(len(strength)), np.empty(len(strength) + 1, np.int64)
    moved = False
    for u in order:
        home, count = community[u], 0
        for e in range(start[u], start[u + 1]):
            c = community[neighbour[e]]
            touched[count] = c
            count += towards[c] == 0  # a branch would often be foreseen wrongly
            towards[c] += weight[e]
        held[home] -= strength[u]
        best, most = home, towards[home] - held[home] * strength[u] / total
        for k in range(count):
            c = touched[k]
            gain = towards[c] - held[c] * strength[u] / total
            # a gain within round-off could go to and fro for ever
            if gain > most + 1e-13 * total:
                best, most = c, gain
            towards[c] = 0
        held[best] += strength[u]
        if best != home:
            community[u] = best
            moved = True
    return moved


@compiled()
def settle(
    start: Any, neighbour: Any, weight: Any, strength: Any, total: float, order: Any, community: Any, count: int
) -> None:
    """Sweeps until no node moves, for graphs dense enough that each node's weight towards each community is kept.

    community: int64 (n,), numbered from 0 to count − 1, changed in place; other arguments as `sweep` has them.
    """
    held, towards = np.zeros(count), np.zeros((len(strength), count))
    for u in range(len(strength)):
        held[community[u]] += strength[u]
        for e in range(start[u], start[u + 1]):
            towards[u, community[neighbour[e]]] += weight[e]
    moved = True
    while moved:
        moved = False
        for u in order:
            home, share = community[u], strength[u] / total
            best, most = home, towards[u, home] - (held[home] - strength[u]) * share
            for c in range(count):
                gain = towards[u, c] - held[c] * share
                if c != home and gain > most + 1e-13 * total:
                    best, most = c, gain
            if best != home:
                moved = True
                community[u] = best
                held[home] -= strength[u]
                held[best] += strength[u]
                for e in range(start[u], start[u + 1]):
                    towards[neighbour[e], home] -= weight[e]
                    towards[neighbour[e], best] += weight[e]


@compiled()
def move(start: Any, neighbour: Any, weight: Any, strength: Any, total: float, order: Any) -> Any:
    """int64 (n,): communities after moving nodes one by one, in `order` (n,), until Q gains by no move."""
    community, held = np.arange(len(strength)), strength.copy()
    moved = sweep(start, neighbour, weight, strength, total, order, community, held)
    few, count = renamed(community)
    if moved and len(neighbour) > len(strength) * count:
        settle(start, neighbour, weight, strength, total, order, few, count)
        return few
    while moved:
        moved = sweep(start, neighbour, weight, strength, total, order, community, held)
    return community


@compiled()
def merged(start: Any, neighbour: Any, weight: Any, community: Any, count: int) -> Any:
    """The graph, as of `neighbours`, of communities (n,) as nodes, `count` of them, without the weights inside them."""
    nodes_start = np.zeros(count + 2, np.int64)
    for u in range(len(community)):
        nodes_start[community[u] + 2] += 1
    for c in range(count):
        nodes_start[c + 2] += nodes_start[c + 1]
    by_community = np.empty_like(community)
    for u in range(len(community)):
        by_community[nodes_start[community[u] + 1]] = u
        nodes_start[community[u] + 1] += 1
    new_start = np.zeros(count + 1, np.int64)
    new_neighbour, new_weight = np.empty_like(neighbour), np.empty_like(weight)
    towards, touched = np.zeros(count), np.empty(count + 1, np.int64)
    filled = 0
    for c in range(count):
        reached = 0
        for u in by_community[nodes_start[c] : nodes_start[c + 1]]:
            for e in range(start[u], start[u + 1]):
                other = community[neighbour[e]]
                if other == c:
                    continue
                touched[reached] = other
                reached += towards[other] == 0
                towards[other] += weight[e]
        for k in range(reached):
            new_neighbour[filled], new_weight[filled] = touched[k], towards[touched[k]]
            towards[touched[k]] = 0
            filled += 1
        new_start[c + 1] = filled
    return new_start, new_neighbour[:filled], new_weight[:filled]


@compiled()
def shuffled(count: int, rng: Any) -> Any:
    """int64 (count,): 0 to count − 1 in random order; numba's own permutation takes seconds to compile."""
    order = np.arange(count)
    for last in range(count - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


@compiled()
def best(nodes: int, ends: Any, weights: Any, restarts: int, rng: Any) -> Any:
    """Largest modularity of `restarts` runs, and its partition, int64 (nodes,); edges (E, 2) and weights (E,)."""
    first = neighbours(nodes, ends, weights)
    first_strength = np.zeros(nodes)
    for u in range(nodes):
        for e in range(first[0][u], first[0][u + 1]):
            first_strength[u] += first[2][e]
    total = first_strength.sum()
    best_value, best_community = -np.inf, np.arange(nodes)
    for _ in range(restarts):
        community = np.arange(nodes)
        (start, neighbour, weight), strength = first, first_strength
        while True:
            level, count = renamed(move(start, neighbour, weight, strength, total, shuffled(len(strength), rng)))
            if count == len(strength):
                break
            for u in range(nodes):
                community[u] = level[community[u]]
            held = np.zeros(count)
            for u in range(len(strength)):
                held[level[u]] += strength[u]
            start, neighbour, weight = merged(start, neighbour, weight, level, count)
            strength = held
        crossing = weight.sum()
        value = 1 - crossing / total - np.square(strength / total).sum()
        if value > best_value:
            best_value, best_community = value, community
    return best_value, best_community


@compiled()
def swap(pairs: Any, adjacent: Any, attempts: int, rng: Any) -> int:
    """Exchanges ends of random pairs in place; the number of proposals that made neither loop nor double.

    pairs: int64 (p, 2); adjacent: bool (nodes, nodes), where the pairs are.
    """
    made, count = 0, len(pairs)
    for _ in range(attempts if count > 1 else 0):
        x, y, side = int(rng.random() * count), int(rng.random() * count), int(rng.random() * 2)
        a, b, c, d = pairs[x, 0], pairs[x, 1], pairs[y, side], pairs[y, 1 - side]
        if x == y or a == d or b == c or adjacent[a, d] or adjacent[b, c]:
            continue
        adjacent[a, b] = adjacent[b, a] = adjacent[c, d] = adjacent[d, c] = False
        adjacent[a, d] = adjacent[d, a] = adjacent[b, c] = adjacent[c, b] = True
        pairs[x, 0], pairs[x, 1], pairs[y, 0], pairs[y, 1] = a, d, c, b
        made += 1
    return made
