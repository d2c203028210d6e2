"""One layer before the last: direct, first-order and exact effects of its neurons, and how they agree (METHODS §11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.calibration import (
    Calibration,
    Sampled,
    calibrate,
    direct_share,
    missed_share,
    ranks,
)
from rtdyn.analyses.earlier_layers.curve import LayerCurve, known_influence, layer_curve
from rtdyn.analyses.earlier_layers.estimate import ClassMean, TextPieces, class_mean
from rtdyn.analyses.earlier_layers.pseudo_classes import PseudoClasses, first_orders
from rtdyn.analyses.earlier_layers.sample import Budget, Sample, draw_sample
from rtdyn.analyses.earlier_layers.sums import (
    ClassSums,
    FirstOrderSums,
    Window,
    exact_sums,
    windows_of,
)
from rtdyn.analyses.earlier_layers.trusted_blocks import trusted_blocks
from rtdyn.analyses.influence.ablation import ClassInfluence, PseudoInfluence, influence
from rtdyn.analyses.statistics import as_numpy, indicator
from rtdyn.capture.earlier_layers import EarlierLayers
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import RARE
from rtdyn.streams import stream
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class LayerClass:
    """A layer's F neurons on one token class."""

    text: TextPieces
    signed: ClassMean
    """Of Δ: positive where the neuron helps."""
    absolute: ClassMean
    """Of |Δ|."""
    direct: ClassInfluence
    """Along the residual stream alone, certified."""
    calibration: Calibration
    """Of the mean of Δ."""
    calibration_abs: Calibration
    """Of the mean of |Δ|."""
    direct_share: Sampled | Undefined
    """Of the mean of Δ."""
    missed_share: Sampled | Undefined
    """Of the neurons most influential by what ranks them."""


@dataclass(frozen=True)
class Layer:
    """What one layer's neurons do to the loss."""

    captured: Capture
    sample: Sample
    classes: Mapping[str, LayerClass]
    reruns: int
    """Pairs of neuron and window that were run again."""
    ranking: Sampled | Undefined
    """Spearman's correlation of the first order with the exact influence on `rare`, of what ranks neurons."""
    ranks: bool | Undefined
    """Whether neurons may be ranked by their influence on `rare`, or why not."""
    pseudo: PseudoInfluence | None = None
    """Of pseudo-classes to first order, where they were asked for."""

    def rank(self, rank_by: str) -> np.ndarray | Undefined:
        """int64 (F,): places by influence on `rare`, from 1: exact where measured, else by first order, calibrated."""
        if isinstance(self.ranks, Undefined):
            return self.ranks
        c = self.classes[RARE]
        known = known_influence(c.signed if rank_by == "abs_mean" else c.absolute, self.sample)
        place = np.empty(len(known), dtype=np.int64)
        place[np.argsort(-known, kind="stable")] = np.arange(1, len(known) + 1)
        return place

    def curve(self, name: str, rank_by: str, seed: int) -> LayerCurve | Undefined:
        """The rank–influence curve of one class; none where its first order may rank no neurons.

        seed: of halves of the text.
        """
        c = self.classes[name]
        allowed = ranks(_ranking(c, self.sample, rank_by), bool(self.sample.measured.all()))
        if isinstance(allowed, Undefined):
            return allowed
        return layer_curve(c.signed if rank_by == "abs_mean" else c.absolute, c.text, self.sample, seed)


def measure_layers(
    earlier: EarlierLayers,
    cluster: np.ndarray,
    *,
    rank_by: str,
    tolerance: float,
    seed: int,
    memory_bytes: int,
    budget: Budget,
    pseudo: PseudoClasses | None = None,
) -> dict[int, Layer]:
    """All layers that were captured, ascending.

    cluster: int64 (windows,), the independent piece of text that each window is of. rank_by: `mean_abs` or `abs_mean`.
    tolerance: of the direct effect's class means, in nats. Arrays take about `memory_bytes`. pseudo: whose first orders
    are summed too. Raises InputError for a model whose blocks, run again, do not give the forward pass's losses.
    """
    positions = next(iter(earlier.layers.values())).positions
    windows = windows_of(positions)
    blocks = trusted_blocks(earlier, windows, memory_bytes)
    first, of_pseudo = first_orders(earlier, windows, pseudo, memory_bytes, blocks)
    samples = {
        layer: draw_sample(sums.size, _ranked_by(sums, rank_by), budget, stream(seed, "earlier layers", layer))
        for layer, sums in first.items()
    }
    run_again = {layer: sample.run_again for layer, sample in samples.items()}
    exact = exact_sums(earlier, windows, run_again, memory_bytes, seed, blocks)
    return {
        layer: replace(
            _layer(
                captured, cluster, windows, first[layer], exact[layer], samples[layer], rank_by, tolerance, memory_bytes
            ),
            pseudo=of_pseudo.get(layer),
        )
        for layer, captured in earlier.layers.items()
    }


def _ranked_by(sums: FirstOrderSums, rank_by: str) -> np.ndarray:
    rare = sums.classes[RARE]
    return np.abs(rare.sum.sum(0)) if rank_by == "abs_mean" else rare.abs_sum.sum(0)


def _layer(
    captured: Capture,
    cluster: np.ndarray,
    windows: list[Window],
    first: FirstOrderSums,
    exact: Mapping[str, ClassSums],
    sample: Sample,
    rank_by: str,
    tolerance: float,
    memory_bytes: int,
) -> Layer:
    nowhere = torch.full((len(captured.anatomy.readout.unembedding),), -1)
    direct = influence(captured, nowhere, 1, tolerance=tolerance, memory_bytes=memory_bytes, cluster=cluster)
    classes = {
        name: _class(name, captured, cluster, windows, first, exact[name], sample, of_class, rank_by)
        for name, of_class in direct.classes.items()
    }
    ranking = _ranking(classes[RARE], sample, rank_by)
    every = bool(sample.measured.all())
    return Layer(captured, sample, classes, int(sample.run_again.sum()), ranking, ranks(ranking, every))


def _ranking(c: LayerClass, sample: Sample, rank_by: str) -> Sampled | Undefined:
    """Of |mean Δ| where it ranks: signs alone make means of Δ correlate, and say nothing of sizes."""
    mean = c.signed if rank_by == "abs_mean" else c.absolute
    return calibrate(np.abs(mean.first_order), np.abs(mean.value), sample).spearman


def text_pieces(name: str, captured: Capture, cluster: np.ndarray, windows: list[Window]) -> TextPieces:
    """One class's positions by piece of text. captured: of the layer. cluster: int (windows,), the piece of each."""
    assert captured.mean_parts is not None
    pieces = indicator(torch.from_numpy(cluster), int(cluster.max()) + 1)
    return TextPieces(
        window_n=np.array([int(w.members[name].sum()) for w in windows]),
        of_window=cluster[[w.index for w in windows]],
        mean_parts=as_numpy(pieces @ captured.mean_parts.cpu()),
    )


def _class(
    name: str,
    captured: Capture,
    cluster: np.ndarray,
    windows: list[Window],
    first: FirstOrderSums,
    exact: ClassSums,
    sample: Sample,
    direct: ClassInfluence,
    rank_by: str,
) -> LayerClass:
    text = text_pieces(name, captured, cluster, windows)
    of_first = first.classes[name]
    signed, absolute = (
        class_mean(by_first, by_exact, of_first.abs_sum, slope[name], sample, text)
        for by_first, by_exact, slope in (
            (of_first.sum, exact.sum, first.slope),
            (of_first.abs_sum, exact.abs_sum, first.abs_slope),
        )
    )
    calibration, calibration_abs = (calibrate(mean.first_order, mean.value, sample) for mean in (signed, absolute))
    return LayerClass(
        text=text,
        signed=signed,
        absolute=absolute,
        direct=direct,
        calibration=calibration,
        calibration_abs=calibration_abs,
        direct_share=direct_share(as_numpy(direct.mean), signed.value, sample),
        missed_share=missed_share(np.abs(signed.value) if rank_by == "abs_mean" else absolute.value, sample),
    )
