"""What all figures share: their font, and the labels of logarithmic axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rtdyn.views.report.plots.style import grid, log_scale, save, styled, symlog


def labels(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text for tick in figure.axes[0].get_yticklabels(which="both") if (text := tick.get_text())]


def test_powers_of_ten_are_plain_text() -> None:
    with styled():
        figure, axes = grid(1, 1, 3, 2)
        axes[0, 0].plot([1, 2, 3], [1e-4, 1e-2, 1])
        log_scale(axes[0, 0], "y")
        assert {"10⁻⁴", "10⁰"} <= set(labels(figure))
        figure, axes = grid(1, 1, 3, 2)
        axes[0, 0].plot([1, 2], [2e-3, 7e-3])
        log_scale(axes[0, 0], "y")
        assert {"2×10⁻³", "6×10⁻³"} <= set(labels(figure))
        figure, axes = grid(1, 1, 3, 2)
        axes[0, 0].plot([1, 2, 3], [-0.3, 0, 0.3])
        symlog(axes[0, 0], np.array([-0.3, 0, 0.3]))
        assert {"−10⁻¹", "0", "10⁻¹"} <= set(labels(figure))


def test_a_pdf_embeds_the_font_that_is_cut(tmp_path: Path) -> None:
    """As TrueType, which journals take; a character that it lacks comes from the whole font."""
    for name, text in (("plain", "Δ log₁₀ κ"), ("other", "\N{HEBREW LETTER ALEF}")):
        with styled():
            figure, axes = grid(1, 1, 3, 2)
            axes[0, 0].set_title(text)
        save(figure, tmp_path, name)
    plain, other = ((tmp_path / f"{name}.pdf").read_bytes() for name in ("plain", "other"))
    assert b"+DejaVuSansCut-Bold" in plain and b"+DejaVuSans-Bold" not in plain
    assert b"+DejaVuSans-Bold" in other
    assert b"/Type3" not in plain + other
