"""The loops of windows that run again, against NumPy in float64."""

from __future__ import annotations

import numpy as np

from rtdyn.analyses.kernels.moved_products import moved_products
from rtdyn.analyses.kernels.rotation import rotate

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_moved_products_are_sums_of_two_vectors_and_a_bias() -> None:
    scale, step, before, along, bias, out = (
        normal(*shape) for shape in ((3, 5), (3, 5), (5, 7), (3, 7), (7,), (3, 5, 7))
    )
    moved_products(scale, step, before, along, bias, out)
    exact = scale[:, :, None].astype(float) * before + step[:, :, None].astype(float) * along[:, None] + bias
    np.testing.assert_allclose(out, exact, atol=1e-6)


def test_rotation_turns_pairs_of_the_first_numbers_and_no_others() -> None:
    heads = normal(2, 5, 3, 2, 8)
    before, angle = heads.copy(), normal(5, 2)
    angle = np.concatenate([angle, angle], axis=1)
    rotate(heads[:, :, :, 0], np.cos(angle), np.sin(angle))
    turned = (before[..., :2] + 1j * before[..., 2:4]) * np.exp(1j * angle[:, None, None, :2])
    np.testing.assert_allclose(heads[:, :, :, 0, :2], turned.real[:, :, :, 0], atol=1e-6)
    np.testing.assert_allclose(heads[:, :, :, 0, 2:4], turned.imag[:, :, :, 0], atol=1e-6)
    np.testing.assert_array_equal(heads[:, :, :, 0, 4:], before[:, :, :, 0, 4:])
    np.testing.assert_array_equal(heads[:, :, :, 1], before[:, :, :, 1])
