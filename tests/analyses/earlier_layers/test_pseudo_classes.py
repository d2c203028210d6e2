"""First orders of pseudo-classes against derivatives of the whole model, and what they leave as it was."""

from __future__ import annotations

import numpy as np
import pytest
from analyses.earlier_layers.test_layer import CONFIGS, GIB, captured_layers, derivatives
from model.test_families import random_model, text

from rtdyn.analyses.earlier_layers.pseudo_classes import PseudoClasses, first_orders
from rtdyn.analyses.earlier_layers.sums import first_order_sums, windows_of

HALVES = np.array([0, 1, 0])


def pseudo_classes(draws: int = 5) -> PseudoClasses:
    n = len(text()[1].flat)
    return PseudoClasses(np.random.default_rng(0).random((draws, n)) < 0.4, HALVES)


@pytest.mark.parametrize("memory", [GIB, 1])
def test_sums_over_pseudo_classes_are_those_of_the_whole_models_derivatives(memory: int) -> None:
    """In one piece, and a window at a time."""
    model, positions, pseudo = random_model(CONFIGS["parallel"]), text()[1], pseudo_classes()
    earlier = captured_layers(model)
    _, found = first_orders(earlier, windows_of(positions), pseudo, memory)
    half = HALVES[positions.window]
    for layer, of_layer in found.items():
        delta = derivatives(model, layer, earlier.layers[layer].moments.mean).numpy()
        for h in (0, 1):
            member = (pseudo.members & (half == h)).astype(float)
            np.testing.assert_array_equal(of_layer.n[h], member.sum(1))
            np.testing.assert_allclose(of_layer.sum[h], member @ delta, atol=2e-4)
            np.testing.assert_allclose(of_layer.abs_sum[h], member @ np.abs(delta), atol=2e-4)
        assert np.abs(delta).max() > 0.1 and found.keys() == {0, 1}


@pytest.mark.parametrize("memory", [GIB, 1])
def test_the_classes_sums_are_to_the_bit_those_without_pseudo_classes(memory: int) -> None:
    earlier, windows = captured_layers(random_model(CONFIGS["gpt2"])), windows_of(text()[1])
    alone, none = first_orders(earlier, windows, None, memory)
    with_them, _ = first_orders(earlier, windows, pseudo_classes(), memory)
    assert not none
    for layer, sums in first_order_sums(earlier, windows, memory).items():
        for found in (alone[layer], with_them[layer]):
            assert found.classes.keys() == sums.classes.keys()
            np.testing.assert_array_equal(found.size, sums.size)
            for name, of_class in sums.classes.items():
                np.testing.assert_array_equal(found.classes[name].sum, of_class.sum)
                np.testing.assert_array_equal(found.classes[name].abs_sum, of_class.abs_sum)
                np.testing.assert_array_equal(found.slope[name], sums.slope[name])
                np.testing.assert_array_equal(found.abs_slope[name], sums.abs_slope[name])
