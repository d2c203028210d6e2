"""Which layers are asked for: `last`, `all`, or offsets from the end, as in `-1,-2`."""

from __future__ import annotations

from rtdyn.counted import counted
from rtdyn.errors import InputError

LAST, ALL = "last", "all"


def normal_layers(asked: str) -> str:
    """`last`, `all`, or the offsets, each once and −1 first: the last layer is always measured.

    Raises ValueError for anything else.
    """
    if asked.strip() in (LAST, ALL):
        return asked.strip()
    try:
        offsets = {int(part) for part in asked.split(",")} | {-1}
    except ValueError:
        offsets = {0}
    if max(offsets) > -1:
        raise ValueError(f"{asked!r} names no layers; give last, all, or numbers from the end as in -1,-2")
    return LAST if offsets == {-1} else ",".join(map(str, sorted(offsets, reverse=True)))


def earlier_layers(layers: str, count: int) -> tuple[int, ...]:
    """Indices of the layers before the last that are asked for, ascending, in a model of so many.

    layers: as `normal_layers` has it. Raises InputError for a layer that the model does not have.
    """
    if layers == LAST:
        return ()
    if layers == ALL:
        return tuple(range(count - 1))
    offsets = [int(part) for part in layers.split(",")]
    if -min(offsets) > count:
        raise InputError(
            f"--layers {layers}: the model has {counted(count, 'layer')}; give numbers from -1 to -{count}, or all"
        )
    return tuple(sorted(count + offset for offset in offsets if offset != -1))
