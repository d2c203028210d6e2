"""A number with its noun, in the number that the noun then has."""

from __future__ import annotations


def plural(noun: str) -> str:
    """`steps`, `queries`. noun: in the singular, of a plural in -s."""
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeou" else noun + "s"


def counted(number: int, noun: str) -> str:
    """`1 step`, `18 steps`, `2,048 tokens`. noun: in the singular, of a plural in -s."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"
