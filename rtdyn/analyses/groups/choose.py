"""Groups of neurons chosen on one half of the windows and measured on the other (METHODS §4).

Choosing neurons by influence alone changes their statistics even in an untrained model. So no group is measured on the
windows it was chosen on, and every number is the mean over both ways. Each group has its nulls (`nulls.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.nulls import DRAWS, LARGE, LARGE_DRAWS, permuted_sets
from rtdyn.analyses.influence.ablation import ClassInfluence, Influence, PseudoInfluence
from rtdyn.analyses.influence.signs import clear_signs
from rtdyn.analyses.regimes.fit import Regimes, fit_regimes
from rtdyn.analyses.regimes.resampled import stable_members
from rtdyn.analyses.statistics import CLEAR_SE, as_numpy, clustered_se, indicator
from rtdyn.analyses.top import top_size
from rtdyn.counted import counted
from rtdyn.names import BOOST, DECAY, MATCHED, PLATEAU, POWER_LAW, RANDOM, RARE, SELECTED, SUPPRESS, TOP
from rtdyn.store.schema import STABLE
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

GROUPS = (PLATEAU, TOP, BOOST, SUPPRESS, POWER_LAW, DECAY)


@dataclass(frozen=True)
class HalfInfluence:
    """Influence of each neuron on one class over one half of the windows, as ClassInfluence has it; (F,)."""

    ranking: np.ndarray
    """The influence that ranks neurons: mean |Δ|, or |mean Δ|."""
    ranking_se: np.ndarray
    mean: np.ndarray
    mean_se: np.ndarray
    error_bound: np.ndarray
    clusters: int
    """Independent pieces of text in the half."""

    def uncertainty(self) -> np.ndarray:
        """What `ranking` must exceed not to be censored, (F,)."""
        return CLEAR_SE * self.ranking_se + self.error_bound


def window_halves(cluster: np.ndarray) -> np.ndarray:
    """int64 (windows,): 0 or 1. cluster (windows,); each goes whole to the half that has fewer windows so far."""
    halves = np.empty(len(cluster), dtype=np.int64)
    sizes = [0, 0]
    for piece in dict.fromkeys(cluster.tolist()):
        mine = cluster == piece
        half = int(sizes[1] < sizes[0])
        halves[mine] = half
        sizes[half] += int(mine.sum())
    return halves


def half_influence(
    c: ClassInfluence, halves: np.ndarray, half: int, rank_by: str = "mean_abs"
) -> HalfInfluence | Undefined:
    """A class's influence over one half of the windows, or why there is none. halves: (windows,), by window id."""
    in_half = torch.from_numpy(halves[c.window_ids.cpu().numpy()] == half)
    _, piece = torch.unique(c.window_cluster[in_half], return_inverse=True)
    held = int(piece.max()) + 1 if len(piece) else 0
    if held < 2:
        return Undefined(f"half of the text holds {counted(held, 'independent piece')} with positions of the class")
    by_cluster = indicator(piece, held)
    counts = by_cluster @ c.window_n[in_half].double()
    n = counts.sum()
    abs_sums, sums = by_cluster @ c.window_abs_sum[in_half], by_cluster @ c.window_sum[in_half]
    mean, mean_se = sums.sum(0) / n, clustered_se(sums, counts)
    ranking, ranking_se = (
        (mean.abs(), mean_se) if rank_by == "abs_mean" else (abs_sums.sum(0) / n, clustered_se(abs_sums, counts))
    )
    bound = c.error_bound * (c.n / n)
    return HalfInfluence(
        as_numpy(ranking), as_numpy(ranking_se), as_numpy(mean), as_numpy(mean_se), as_numpy(bound), held
    )


def half_regimes(influence: HalfInfluence) -> Regimes:
    """The fit of a half's curve."""
    return fit_regimes(influence.ranking, influence.uncertainty())


def choose(influence: HalfInfluence, regimes: Regimes, stable: np.ndarray) -> dict[str, np.ndarray]:
    """Members of each group by one half's influence. stable: bool (F,), the plateau's stable members."""
    signs = clear_signs(influence.mean, influence.mean_se, influence.error_bound, influence.clusters)
    flags = {
        PLATEAU: stable,
        TOP: regimes.rank <= top_size(len(stable)),
        BOOST: signs > 0,
        SUPPRESS: signs < 0,
        POWER_LAW: regimes.label == POWER_LAW,
        DECAY: regimes.label == DECAY,
    }
    return {name: np.flatnonzero(flag) for name, flag in flags.items()}


def with_nulls(
    name: str,
    members: tuple[np.ndarray, np.ndarray],
    regimes: tuple[Regimes, Regimes],
    pseudo: PseudoInfluence | None,
    overlap: float,
    cell: np.ndarray,
    rng: np.random.Generator,
    draws: int = DRAWS,
    rank_by: str = "mean_abs",
) -> Group:
    """The group with its random, matched and selected sets.

    members: int (n,), chosen on each half.

    cell: `nulls.matching_cells`. overlap: `pseudo_classes.overlap`.
    """
    if max(map(len, members)) > LARGE:
        draws = min(draws, LARGE_DRAWS)
    matched = permuted_sets(members, cell, draws, rng)
    selected = [_selected(name, mine, regimes[half], pseudo, half, rank_by) for half, mine in enumerate(members)]
    sets: dict[str, tuple[np.ndarray, np.ndarray] | Undefined] = {
        RANDOM: permuted_sets(members, np.zeros_like(cell), draws, rng),
        MATCHED: matched,
    }
    first, second = selected
    if isinstance(first, Undefined):
        sets[SELECTED] = first
    elif isinstance(second, Undefined):
        sets[SELECTED] = second
    else:
        sets[SELECTED] = (first, second)
    own_shares = [np.isin(drawn, mine).mean() for drawn, mine in zip(matched, members, strict=True)]
    return Group(name, members, sets, float(np.mean(own_shares)), overlap)


def _selected(
    name: str, members: np.ndarray, regimes: Regimes, pseudo: PseudoInfluence | None, half: int, rank_by: str
) -> np.ndarray | Undefined:
    """What the group's rule picks for each pseudo-class, at the group's size: by rank of influence, or of its sign."""
    if pseudo is None:
        return Undefined("there are no pseudo-classes")
    n = pseudo.n[half].cpu().numpy()[:, None]
    if (n == 0).any():
        return Undefined("a pseudo-class has no position in half of the windows")
    signed = pseudo.sum[half].cpu().numpy() / n
    if name in (BOOST, SUPPRESS):
        score = signed if name == BOOST else -signed
    else:
        score = np.abs(signed) if rank_by == "abs_mean" else pseudo.abs_sum[half].cpu().numpy() / n
    order = np.argsort(-score, axis=1, kind="stable")
    first = 0 if name in (PLATEAU, TOP, BOOST, SUPPRESS) else int(regimes.rank[members].min(initial=1)) - 1
    return np.sort(order[:, first : first + len(members)], axis=1)


def split_groups(
    result: Influence,
    cluster: np.ndarray,
    cell: np.ndarray,
    overlap: float,
    seed: int,
    rank_by: str = "mean_abs",
    draws: int = DRAWS,
    names: Sequence[str] = GROUPS,
) -> dict[str, Group | Undefined]:
    """Each of the groups with its nulls, chosen by the influence on `rare`, or why there is none.

    cluster: (windows,), the independent piece of text that each window is of. cell: `nulls.matching_cells`. overlap:
    `pseudo_classes.overlap`.
    """
    halves, rare = window_halves(cluster), result.classes[RARE]
    chosen, fits, undefined = [], [], {}
    for half in (0, 1):
        influence = half_influence(rare, halves, half, rank_by)
        if isinstance(influence, Undefined):
            return dict.fromkeys(names, influence)
        stable = _stable(rare, halves, half, influence, rank_by, seed)
        if isinstance(stable, Undefined):
            undefined[PLATEAU] = stable
            stable = np.zeros(len(influence.mean), dtype=bool)
        fits.append(half_regimes(influence))
        chosen.append(choose(influence, fits[-1], stable))
    groups: dict[str, Group | Undefined] = {}
    for name in names:
        members = (chosen[0][name], chosen[1][name])
        if name in undefined:
            groups[name] = undefined[name]
        elif min(map(len, members)) == 0:
            groups[name] = Undefined(f"no {name} neuron on one half of the windows")
        else:
            rng = stream(seed, "null sets", name)
            groups[name] = with_nulls(
                name, members, (fits[0], fits[1]), result.pseudo, overlap, cell, rng, draws, rank_by
            )
    return groups


def _stable(
    c: ClassInfluence, halves: np.ndarray, half: int, influence: HalfInfluence, rank_by: str, seed: int
) -> np.ndarray | Undefined:
    """bool (F,): in the plateau in more than half of one half's halves, or why that is unknown."""
    in_half = torch.from_numpy(halves[c.window_ids.cpu().numpy()] == half)
    _, piece = torch.unique(c.window_cluster[in_half], return_inverse=True)
    by_cluster = indicator(piece, influence.clusters)
    sums = by_cluster @ (c.window_sum if rank_by == "abs_mean" else c.window_abs_sum)[in_half]
    counts = by_cluster @ c.window_n[in_half].double()
    rng = stream(seed, "resampled text", half)
    share = stable_members(as_numpy(sums), as_numpy(counts), influence.uncertainty(), rng)
    return share if isinstance(share, Undefined) else share > STABLE
