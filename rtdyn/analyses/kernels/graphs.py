"""Loops over graphs of correlations: sums over edges, Louvain's partition, and swaps that keep the degrees."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled
from rtdyn.analyses.kernels.order import descending


@compiled("reassoc")
def totals(r: Any, threshold: float) -> Any:
    """float64 (3, F): each neuron's strength, number of edges and sum of r with all others; r (F, F)."""
    out = np.zeros((3, len(r)))
    for i in range(len(r)):
        # selections, no branches: half of them would be foreseen wrongly
        strength, edges, signed = 0.0, 0.0, 0.0
        for j in range(len(r)):
            value = np.float64(r[i, j])
            defined = value if j != i and value == value else 0.0
            signed += defined
            strength += abs(defined) if abs(defined) >= threshold else 0.0
            edges += 1.0 if abs(defined) >= threshold else 0.0
        out[0, i], out[1, i], out[2, i] = strength, edges, signed
    return out


@compiled("reassoc")
def products(first: Any, second: Any, threshold: float, strengths: Any) -> Any:
    """Σ over i ≠ j of products of both graphs' weights, and of their r; first and second (F, F), without NaN.

    strengths: float64 (2, F), k. Returns float64 (3, 2, 2): of every two graphs, by weights and by r, and then
    kᵀWk of each graph's weights by each graph's k.
    """
    out = np.zeros((3, 2, 2))
    for i in range(len(first)):
        row, other = first[i], second[i]
        ww, wv, vv, aa, ab, bb, wk, wh, vk, vh = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(len(first)):
            a = np.float64(row[j]) if j != i else 0.0
            b = np.float64(other[j]) if j != i else 0.0
            w = abs(a) if abs(a) >= threshold else 0.0
            v = abs(b) if abs(b) >= threshold else 0.0
            k, h = strengths[0, j], strengths[1, j]
            ww, wv, vv = ww + w * w, wv + w * v, vv + v * v
            aa, ab, bb = aa + a * a, ab + a * b, bb + b * b
            wk, wh, vk, vh = wk + w * k, wh + w * h, vk + v * k, vh + v * h
        k, h = strengths[0, i], strengths[1, i]
        out += np.array([[[ww, wv], [wv, vv]], [[aa, ab], [ab, bb]], [[k * wk, h * wh], [k * vk, h * vh]]])
    return out


@compiled("reassoc")
def inside(r: Any, sets: Any, threshold: float) -> Any:
    """float64 (3, s): weight, number of edges and sum of r over each set's pairs; r (F, F), sets int64 (s, n)."""
    out = np.zeros((3, len(sets)))
    for k in range(len(sets)):
        members, strength, edges, signed = sets[k], 0.0, 0.0, 0.0
        for a in range(len(members)):
            row = r[members[a]]
            for b in range(a + 1, len(members)):
                value = np.float64(row[members[b]])
                defined = value if value == value else 0.0
                signed += defined
                strength += abs(defined) if abs(defined) >= threshold else 0.0
                edges += 1.0 if abs(defined) >= threshold else 0.0
        out[0, k], out[1, k], out[2, k] = strength, edges, signed
    return out


@compiled()
def unsigned(places: Any) -> Any:
    """uint64 (n,) of int64 (n,), none below 0: an index that could count from the end is read more slowly."""
    return places.astype(np.uint64)


@compiled()
def pair_weights(r: Any, members: Any, least: float) -> Any:
    """(n(n − 1)/2,), of r's type: |r| of every two of `members` (n,), row by row; 0 where undefined, under `least`."""
    out = np.empty(len(members) * (len(members) - 1) // 2, r.dtype)
    places, pair = unsigned(members), 0
    for a in range(len(members)):
        row = r[places[a]]
        for b in range(a + 1, len(members)):
            value = abs(row[places[b]])
            out[pair + b - a - 1] = value if np.float64(value) >= least else 0.0
        pair += len(members) - a - 1
    return out


@compiled("reassoc")
def linked(r: Any, members: Any, weight: Any, cut: float, ties: int) -> Any:
    """The graph whose edges are the pairs of a weight above `cut`, and the first `ties` of those that have it.

    weight: of `pair_weights` for r and `members`; cut: positive. Returns the weight of the edge between every two of
    the nodes that have one, float64 (nodes, nodes), 0 where there is none. Nodes are numbered by falling strength, so Q
    does not depend on the order of the neurons, which Louvain's would follow.
    """
    n, pair = len(members), 0
    strength, tied = np.zeros(n), np.empty((ties, 2), np.int64)
    for a in range(n):
        own = 0.0
        for b in range(a + 1, n):
            value = np.float64(weight[pair + b - a - 1])
            kept = value if value > cut else 0.0
            own += kept
            strength[b] += kept
        strength[a] += own
        pair += n - a - 1
    pair, found = 0, 0
    for a in range(n if ties > 0 else 0):
        for b in range(a + 1, n):
            if weight[pair] == cut:
                tied[found, 0], tied[found, 1] = a, b
                strength[a] += cut
                strength[b] += cut
                found += 1
                if found == ties:
                    break
            pair += 1
        if found == ties:
            break
    order = descending(strength)
    nodes, place = (strength > 0).sum(), np.empty(n, np.int64)
    for i in range(n):
        place[order[i]] = i
    between, neurons = np.empty((nodes, nodes)), unsigned(members[order[:nodes]])
    for i in range(nodes):
        row = r[neurons[i]]
        for j in range(nodes):
            value = abs(np.float64(row[neurons[j]]))
            between[i, j] = value if value > cut else 0.0
        between[i, i] = 0.0
    for k in range(found):
        i, j = place[tied[k, 0]], place[tied[k, 1]]
        between[i, j] = between[j, i] = cut
    return between


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
def largest_gain(row: Any, alone: Any, share: float, least: float) -> float:
    """By how much the most of row − alone·share, both (n,), exceeds `least`; 0 where it does not."""
    top = np.int64(0)
    for c in range(len(row)):
        gain = row[c] - alone[c] * share - least
        # bits of positive floats are ordered as they are, and whole numbers are compared several at a time
        bits = np.float64(gain if gain > 0 else 0.0).view(np.int64)
        top = bits if bits > top else top
    return np.int64(top).view(np.float64)


@compiled()
def add(row: Any, to: Any) -> None:
    """Adds row (n,) to another in place: rows by themselves are added several numbers at a time."""
    for v in range(len(row)):
        to[v] += row[v]


@compiled()
def settled(between: Any, strength: Any, total: float, order: Any) -> Any:
    """Communities after moving nodes one by one, in `order` (n,), until Q gains by no move.

    between: float64 (n, n), weights with 0 on the diagonal; strength (n,) has the sum `total`. Each node begins alone,
    and moves where Q gains most. A community of several is named by its first node, and every node's weight towards it
    is kept. Towards a node alone that is the weight between the two.

    Returns each node's community, int64 (n,), and every node's weight towards those of several, float64 (n, n), a row
    each. The row of a name is int64 (n,), −1 for a node alone.
    """
    n = len(strength)
    community, alone, singles = np.arange(n), strength.copy(), n
    towards, held, size = np.empty((n, n)), np.empty(n), np.empty(n, np.int64)
    name, place = np.empty(n, np.int64), np.full(n, -1)
    count, moved = 0, True
    while moved:
        moved = False
        for u in order:
            row, share, home = between[u], strength[u] / total, community[u]
            here = -1 if alone[u] < np.inf else place[home]
            there, most = here, 0.0 if here < 0 else towards[here, u] - (held[here] - strength[u]) * share
            for k in range(count):
                gain = towards[k, u] - held[k] * share
                # a gain within round-off could go to and fro for ever
                if k != here and gain > most + 1e-13 * total:
                    there, most = k, gain
            more = largest_gain(row, alone, share, most) if singles > 0 else 0.0
            if more > 1e-13 * total:
                best = 0
                while row[best] - alone[best] * share - most != more:
                    best += 1
                there = count
                name[there], held[there], size[there], place[best] = best, strength[best], 1, there
                towards[there] = between[best]
                alone[best] = np.inf
                singles -= 1
                count += 1
            if there == here:
                continue
            moved, community[u] = True, name[there]
            held[there] += strength[u]
            size[there] += 1
            add(row, towards[there])
            if here < 0:
                alone[u] = np.inf
                singles -= 1
            elif size[here] > 1:
                held[here] -= strength[u]
                size[here] -= 1
                for v in range(n):
                    towards[here, v] -= row[v]
            else:  # nobody is left there: the last community takes its place
                count -= 1
                name[here], held[here], size[here] = name[count], held[count], size[count]
                towards[here] = towards[count]
                place[name[here]] = here
    return community, towards, place


@compiled()
def merged(between: Any, settled: Any, level: Any, count: int) -> Any:
    """Weights between communities, float64 (count, count), without those inside them.

    settled: what that returned for `between`; level: its communities (n,), `count` of them, of `renamed`.
    """
    community, towards, place = settled
    out, done = np.zeros((count, count)), 0
    for u in range(len(level)):
        if level[u] == done:  # names go by the first nodes
            row = between[u] if place[community[u]] < 0 else towards[place[community[u]]]
            for v in range(len(level)):
                out[done, level[v]] += row[v]
            out[done, done] = 0
            done += 1
    return out


@compiled()
def shuffled(count: int, rng: Any) -> Any:
    """int64 (count,): 0 to count − 1 in random order; numba's own permutation takes seconds to compile."""
    order = np.arange(count)
    for last in range(count - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


@compiled()
def best(first: Any, restarts: int, rng: Any) -> Any:
    """Largest modularity of `restarts` runs, and its partition, int64 (nodes,); first: weights (nodes, nodes)."""
    nodes, first_strength = len(first), np.zeros(len(first))
    for u in range(nodes):  # a sum over one axis takes seconds to compile
        first_strength[u] = first[u].sum()
    total = first_strength.sum()
    best_value, best_community = -np.inf, np.arange(nodes)
    for _ in range(restarts):
        community = np.arange(nodes)
        between, strength = first, first_strength
        while True:
            found = settled(between, strength, total, shuffled(len(strength), rng))
            level, count = renamed(found[0])
            if count == len(strength):
                break
            for u in range(nodes):
                community[u] = level[community[u]]
            held = np.zeros(count)
            for u in range(len(strength)):
                held[level[u]] += strength[u]
            between, strength = merged(between, found, level, count), held
        value = 1 - between.sum() / total - np.square(strength / total).sum()
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
