"""The last layer's part of what acts on rare targets beyond common ones, on planted sums."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from rtdyn.analyses.earlier_layers.localised import FinalLayer, _ratio, final_layer
from rtdyn.analyses.statistics import Estimate, jackknife_se
from rtdyn.intervals import t_quantile
from rtdyn.undefined import Undefined

PIECES, NEURONS, EACH = 40, 6, 5
CLUSTER = np.repeat(np.arange(PIECES), 2)


def share(last: tuple[float, float], *earlier: tuple[float, float], seed: int = 0) -> FinalLayer:
    """Of layers by their summed influence on rare and common targets; every other window holds a class."""
    rng = np.random.default_rng(seed)
    rare, common = np.arange(0, 2 * PIECES, 2), np.arange(1, 2 * PIECES, 2)

    def sums(level: float) -> np.ndarray:
        return EACH * level / NEURONS * rng.lognormal(-0.125, 0.5, (PIECES, NEURONS))

    def final(windows: np.ndarray, level: float) -> Any:
        counts = torch.full((PIECES,), EACH)
        return SimpleNamespace(
            window_ids=torch.from_numpy(windows), window_n=counts, window_abs_sum=torch.from_numpy(sums(level))
        )

    def before(windows: np.ndarray, level: float) -> Any:
        text = SimpleNamespace(of_window=CLUSTER[windows])
        return SimpleNamespace(text=text, absolute=SimpleNamespace(window_sum=sums(level)))

    classes = {"rare": final(rare, last[0]), "common": final(common, last[1])}
    classes["rare"].mean_abs = torch.zeros(NEURONS)
    result = SimpleNamespace(classes=classes)
    layers = {
        k: SimpleNamespace(classes={"rare": before(rare, r), "common": before(common, c)})
        for k, (r, c) in enumerate(earlier)
    }
    return final_layer(cast(Any, result), cast(Any, layers), CLUSTER)


def test_the_share_is_of_the_sums_over_neurons_and_its_interval_covers() -> None:
    held = []
    for seed in range(200):
        last = share((5.0, 2.0), (1.5, 1.0), (2.0, 1.5), seed=seed)
        assert isinstance(last.rare_excess, Estimate) and abs(last.rare_excess.value - 3 / NEURONS) < 0.15
        found = last.share
        assert isinstance(found, Estimate) and found.low is not None and found.high is not None
        assert found.clusters == PIECES
        held.append(found.low <= 3 / 4 <= found.high)
    assert 0.9 < np.mean(held) <= 1


@pytest.mark.parametrize(("noise_last", "noise_earlier"), [(0.5, 0.1), (1.0, 0.1), (0.4, 0.4), (0.1, 0.5)])
def test_half_and_half_is_found_to_be_more_than_half_in_one_text_of_forty(
    noise_last: float, noise_earlier: float
) -> None:
    """Of all texts, those without a clear total among them, which decide nothing."""
    rng, pieces, more = np.random.default_rng(1), 20, []
    for _ in range(2000):
        last, earlier = 1 + np.sqrt(pieces) * rng.normal(0, [[noise_last], [noise_earlier]], (2, pieces))
        left_last, left_total = ((v.sum() - v) / (pieces - 1) for v in (last, last + earlier))
        total = float(left_total.mean())
        if total <= t_quantile(pieces) * jackknife_se(left_total):
            more.append(False)
            continue
        found = _ratio(float(left_last.mean()), total, left_last, left_total)
        assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
        more.append(found.low > 0.5)
    assert 0.012 < np.mean(more) < 0.037


def test_an_earlier_layer_that_prefers_common_targets_makes_a_share_above_one() -> None:
    found = share((5.0, 1.0), (1.0, 2.0)).share
    assert isinstance(found, Estimate) and found.value > 1


@pytest.mark.parametrize("last", [(1.0, 1.0), (1.0, 4.0)])
def test_without_a_clear_excess_there_is_nothing_to_share(last: tuple[float, float]) -> None:
    found = share(last, (1.0, 1.0)).share
    assert isinstance(found, Undefined) and "do not clearly act more on rare" in found.reason
