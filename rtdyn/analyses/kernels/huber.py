"""Least Huber loss of two- and three-piece lines over all candidates for their boundaries."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled
from rtdyn.analyses.kernels.order import descending

MAX_STEPS = 60
"""Newton or reweighting steps that one candidate's Huber fit may take."""
CONVERGED = 1e-9
"""Share of a candidate's Huber loss that its last Newton step may still have to gain."""
CERTAINLY = 1 - 1e-3
"""Share of a floor that a loss surely has: fits of mostly outliers end a little above their least loss."""
SINGULAR = 1e-9
"""Share of a diagonal element under which a pivot counts as zero."""


# the compiler may reorder additions here, so that a sum is split into lanes
@compiled("contract", "reassoc")
def outlying(x: Any, y: Any, w: Any, start: Any, stop: Any, at: Any, level: Any, slope: Any, limit: Any) -> Any:
    """Huber loss of points [start, stop) about a line, its gradient, and the Hessian of the inliers."""
    loss, g0, g1, h0, h1, h2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for v in range(start, stop):
        d = x[v] - at
        r = y[v] - level - slope * d
        psi = r if r < limit else limit
        psi = psi if psi > -limit else -limit
        u = w[v] * psi
        inlier = w[v] if psi == r else 0.0
        loss += u * (r - 0.5 * psi)
        g0 += u
        g1 += u * d
        h0 += inlier
        h1 += inlier * d
        h2 += inlier * d * d
    return loss, g0, g1, h0, h1, h2


@compiled("contract", "reassoc")
def reweighted(x: Any, y: Any, w: Any, start: Any, stop: Any, at: Any, level: Any, slope: Any, limit: Any) -> Any:
    """Hessian of the quadratic that touches the Huber loss here and lies above it elsewhere."""
    h0, h1, h2 = 0.0, 0.0, 0.0
    for v in range(start, stop):
        d = x[v] - at
        size = abs(y[v] - level - slope * d)
        u = w[v] * (limit / size if size > limit else 1.0)
        h0 += u
        h1 += u * d
        h2 += u * d * d
    return h0, h1, h2


@compiled()
def solve(h0: Any, h1: Any, h2: Any, h3: Any, h4: Any, g0: Any, g1: Any, g2: Any, bent: Any) -> Any:
    """Solves [[h0 h1 h3], [h1 h2 h4], [h3 h4 h4]]·c = g, without the third if not bent; whether it could, and c."""
    if h0 <= 0:
        return False, 0.0, 0.0, 0.0
    ratio, c2 = h1 / h0, 0.0
    pivot = h2 - ratio * h1
    if pivot <= SINGULAR * h2:
        return False, 0.0, 0.0, 0.0
    rest = g1 - ratio * g0
    if bent:
        cross = h4 - ratio * h3
        last = h4 - h3 * h3 / h0 - cross * cross / pivot
        if last <= SINGULAR * h4:
            return False, 0.0, 0.0, 0.0
        c2 = (g2 - h3 / h0 * g0 - cross / pivot * rest) / last
        rest -= cross * c2
    c1 = rest / pivot
    return True, (g0 - h1 * c1 - h3 * c2) / h0, c1, c2


@compiled()
def huber(x: Any, y: Any, w: Any, start: Any, knot: Any, stop: Any, at: Any, c: Any, limit: Any) -> Any:
    """Least Huber loss on [start, stop) of c0 + c1·(x − at) that bends by c2 at point `knot`; c goes to it.

    Newton's step is exact once the inliers are the right ones; where it goes up, reweighting goes down instead.
    """
    bent = knot < stop
    c0, c1, c2 = c
    best, by_newton, reweigh = np.inf, False, False
    for _ in range(MAX_STEPS):
        loss, g0, g1, h0, h1, h2 = outlying(x, y, w, start, knot, at, c0, c1, limit)
        g2, h3, h4 = 0.0, 0.0, 0.0
        if bent:
            more, k0, g2, k1, h3, h4 = outlying(x, y, w, knot, stop, at, c0, c1 + c2, limit)
            loss, g0, g1, h0, h1, h2 = loss + more, g0 + k0, g1 + g2, h0 + k1, h1 + h3, h2 + h4
        if loss > best:
            if not by_newton:
                return best
            c0, c1, c2 = c
            by_newton, reweigh = False, True
            continue
        best = loss
        c[0], c[1], c[2] = c0, c1, c2
        by_newton = False
        if not reweigh:
            by_newton, s0, s1, s2 = solve(h0, h1, h2, h3, h4, g0, g1, g2, bent)
        reweigh = False
        if not by_newton:
            h0, h1, h2 = reweighted(x, y, w, start, knot, at, c0, c1, limit)
            if bent:
                k1, h3, h4 = reweighted(x, y, w, knot, stop, at, c0, c1 + c2, limit)
                h0, h1, h2 = h0 + k1, h1 + h3, h2 + h4
            solved, s0, s1, s2 = solve(h0, h1, h2, h3, h4, g0, g1, g2, bent)
            if not solved:
                return best
        if g0 * s0 + g1 * s1 + g2 * s2 <= 2 * CONVERGED * loss:
            return best
        c0, c1, c2 = c0 + s0, c1 + s1, c2 + s2
    return best


@compiled()
def moments(sums: Any, start: Any, stop: Any, at: Any) -> Any:
    """Σw, Σwd, Σwd², Σwy, Σwyd over [start, stop), d = x − at."""
    s0, s1, g0 = sums[stop, 0] - sums[start, 0], sums[stop, 1] - sums[start, 1], sums[stop, 3] - sums[start, 3]
    s2 = sums[stop, 2] - sums[start, 2] - 2 * at * s1 + at * at * s0
    return s0, s1 - at * s0, s2, g0, sums[stop, 4] - sums[start, 4] - at * g0


@compiled()
def least_squares(sums: Any, start: Any, knot: Any, stop: Any, at: Any, c: Any) -> Any:
    """The loss of the same piece's weighted least squares, from prefix sums; fills c."""
    h0, h1, h2, g0, g1 = moments(sums, start, stop, at)
    _, h3, h4, _, g2 = moments(sums, knot, stop, at)
    _, c[0], c[1], c[2] = solve(h0, h1, h2, h3, h4, g0, g1, g2, knot < stop)
    return sums[stop, 5] - sums[start, 5] - (g0 * c[0] + g1 * c[1] + g2 * c[2])


@compiled()
def squares(x: Any, first: Any, second: Any, sums: Any, tops: Any, rests: Any) -> Any:
    """Place of the best pair by least squares; fills tops (n, 3) by the plateau's end, and rests (pairs, 3)."""
    n, least, best, top = len(x), np.inf, 0, 0.0
    for pair in range(len(first)):
        i, j = first[pair], second[pair]
        if pair == 0 or first[pair - 1] != i:
            top = least_squares(sums, 0, i, i, 0.0, tops[i])
        loss = top + least_squares(sums, i, j, n, x[j - 1], rests[pair])
        if loss < least:
            least, best = loss, pair
    return best


@compiled()
def robust(
    x: Any, y: Any, w: Any, first: Any, second: Any, tops: Any, rests: Any, limit: Any, start: Any, top: Any
) -> Any:
    """Place and Huber loss of the best pair; tops and rests go from least squares to Huber's fits where they count.

    A later plateau's end leaves the rest fewer points, so that its loss is a floor of the rest's before it. So pairs
    that cannot be the best are not fitted. start: a pair that is likely to be near the best. Fills top (n,), plateaus'
    Huber losses by their ends.
    """
    n, floor = len(x), np.zeros(len(x))
    for pair in range(len(first)):
        i = first[pair]
        if pair == 0 or first[pair - 1] != i:
            top[i] = huber(x, y, w, 0, i, i, 0.0, tops[i], limit)
    i, j, best = first[start], second[start], start
    of_start = huber(x, y, w, i, j, n, x[j - 1], rests[start], limit)
    least = top[i] + of_start
    for pair in range(len(first) - 1, -1, -1):
        i, j = first[pair], second[pair]
        if pair == start:
            floor[j] = of_start
        elif (top[i] + floor[j]) * CERTAINLY <= least:
            floor[j] = huber(x, y, w, i, j, n, x[j - 1], rests[pair], limit)
            loss = top[i] + floor[j]
            if loss < least or (loss == least and pair < best):
                least, best = loss, pair
    return best, least


@compiled()
def fewer(x: Any, y: Any, w: Any, inside: Any, sums: Any, limit: Any, top: Any, start: Any) -> Any:
    """Huber losses of one line and of the best two, the second of which joins the first or not.

    inside: ascending ends of the first; top (n,): its losses where `robust` knows them, else negative. start: an end to
    begin with. As there, ends that cannot be the best are left out.
    """
    n, c = len(x), np.zeros(3)
    least_squares(sums, 0, n, n, 0.0, c)
    one = huber(x, y, w, 0, n, n, 0.0, c, limit)
    least_squares(sums, start, n, n, 0.0, c)
    of_start = huber(x, y, w, start, n, n, 0.0, c, limit)
    two, floor = top[start] + of_start, 0.0
    for cut in inside[::-1]:
        if cut == start:
            floor = of_start
        elif (max(top[cut], 0.0) + floor) * CERTAINLY <= two:
            least_squares(sums, cut, n, n, 0.0, c)
            floor = huber(x, y, w, cut, n, n, 0.0, c, limit)
            if top[cut] < 0.0:
                least_squares(sums, 0, cut, cut, 0.0, c)
                top[cut] = huber(x, y, w, 0, cut, cut, 0.0, c, limit)
            two = min(two, top[cut] + floor)
    return one, two


@compiled()
def prefix_sums(x: Any, y: Any, w: Any) -> Any:
    """float64 (n + 1, 6): sums of w, wx, wx², wy, wxy and wy² over the points before each."""
    sums = np.zeros((len(x) + 1, 6))
    for v in range(len(x)):
        sums[v + 1, 0] = sums[v, 0] + w[v]
        sums[v + 1, 1] = sums[v, 1] + w[v] * x[v]
        sums[v + 1, 2] = sums[v, 2] + w[v] * (x[v] * x[v])
        sums[v + 1, 3] = sums[v, 3] + w[v] * y[v]
        sums[v + 1, 4] = sums[v, 4] + w[v] * (x[v] * y[v])
        sums[v + 1, 5] = sums[v, 5] + w[v] * (y[v] * y[v])
    return sums


@compiled()
def weighted_median(size: Any, w: Any) -> Any:
    """The least of `size` (n,) up to which half of the weights w lie, which sum to 1."""
    order = descending(-size)
    total, last = 0.0, size[order[0]]
    for place in order:
        total, last = total + w[place], size[place]
        if total >= 0.5:
            break
    return last


@compiled()
def residuals(x: Any, y: Any, i: Any, j: Any, top: Any, rest: Any) -> Any:
    """Of points (n,) from the line `top` (3,) up to place i, then from `rest` (3,), which bends after place j − 1."""
    out, r2 = np.empty(len(x)), x[j - 1]
    for v in range(len(x)):
        d = x[v] - r2
        out[v] = y[v] - (top[0] + top[1] * x[v] if v < i else rest[0] + rest[1] * d + rest[2] * max(d, 0.0))
    return out


@compiled()
def segments(
    x: Any, y: Any, w: Any, first: Any, second: Any, inside: Any, deviations: float, least_scale: float
) -> Any:
    """Three segments of points (n,) whose weights sum to 1, by least squares and then by Huber's loss.

    first, second: (pairs,), candidates for their boundaries; inside: for that of two. Huber's threshold is `deviations`
    times one scale for all candidates: 1.4826 × weighted median |residual| of the best by least squares, at least
    `least_scale`. Returns the best pair's place, its loss, and the losses of one line and of the best two. Then
    follow coefficients by the plateau's end (n, 3) and by pair (pairs, 3).
    """
    sums = prefix_sums(x, y, w)
    tops, rests, top = np.zeros((len(x), 3)), np.zeros((len(first), 3)), np.full(len(x), -1.0)
    start = squares(x, first, second, sums, tops, rests)
    apart = np.abs(residuals(x, y, first[start], second[start], tops[first[start]], rests[start]))
    limit = deviations * max(1.4826 * weighted_median(apart, w), least_scale)
    best, loss = robust(x, y, w, first, second, tops, rests, limit, start, top)
    one, two = fewer(x, y, w, inside, sums, limit, top, first[best])
    return best, loss, one, two, tops, rests
