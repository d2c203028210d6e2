"""The figures' font: matplotlib's own, cut to the characters that figures use.

A PDF embeds the glyphs that it draws, which are cut from the whole font anew for each file. That takes most of the time
of a small PDF. From this font it is little. A character that it lacks is drawn from the whole one.
"""

from __future__ import annotations

import atexit
import logging
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from fontTools import subset
from matplotlib import font_manager

WHOLE, CUT = "DejaVu Sans", "DejaVu Sans, cut"
RANGES = (range(0x20, 0x180), range(0x370, 0x3D0), range(0x2010, 0x2130), range(0x2190, 0x21A0), range(0x2200, 0x2270))
"""Latin, Greek, punctuation with raised and lowered digits, arrows, operators."""
FAMILY, STYLE, FULL_NAME, POSTSCRIPT_NAME, TYPOGRAPHIC_FAMILY = 1, 2, 4, 6, 16
"""Entries of a font's table of names; matplotlib before 3.11 finds a font by the last where there is one."""


@cache
def families() -> list[str]:
    """What matplotlib's `font.family` takes: the font that is cut, then the whole."""
    folder = Path(mkdtemp(prefix="rtdyn-fonts-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    for weight in ("normal", "bold"):
        whole = font_manager.findfont(font_manager.FontProperties(family=WHOLE, weight=weight))
        file = folder / f"{weight}.ttf"
        _cut(whole, file, weight)
        font_manager.fontManager.addfont(file)
    return [CUT, WHOLE]


def _cut(whole: str, file: Path, weight: str) -> None:
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)  # it tells which foreign tables it drops
    options = subset.Options(layout_features=["kern"], name_IDs=["*"], notdef_outline=True)
    font = subset.load_font(whole, options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[code for codes in RANGES for code in codes])
    cutter.subset(font)
    style = "Regular" if weight == "normal" else "Bold"
    names = {family: CUT for family in (FAMILY, TYPOGRAPHIC_FAMILY)}
    names |= {STYLE: style, FULL_NAME: f"{CUT} {style}", POSTSCRIPT_NAME: f"DejaVuSansCut-{style}"}
    for record in font["name"].names:
        record.string = names.get(record.nameID, record.string)
    font.save(file)
