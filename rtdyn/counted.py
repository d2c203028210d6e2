"""A number with its noun, in the number that the noun then has."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 step`, `18 steps`, `2,048 tokens`. noun: in the singular, of a plural in -s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
