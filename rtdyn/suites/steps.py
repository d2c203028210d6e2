"""The steps that a specification such as `log` or `1000:143000:1000` names."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress

from rtdyn.errors import UsageError


def parse_steps(
    spec: str, schedule: tuple[int, ...], whose: str = "", unsound: Collection[int] = ()
) -> tuple[int, ...]:
    """Steps named by `spec`, ascending: `all`, `log`, `last`, numbers, ranges `a:b[:c]`, and mixes.

    A range means the schedule's steps from a to b inclusive, every c-th step counted from a if c is
    given. `log` means the scheduled step nearest to zero and to each power of two, and the last, of those that are
    not `unsound`.
    Raises UsageError for a step the schedule lacks, which begins with `whose`.
    """
    chosen: set[int] = set()
    for part in (p.strip() for p in spec.split(",")):
        if part == "all":
            chosen.update(schedule)
        elif part == "last":
            chosen.add(schedule[-1])
        elif part == "log":
            chosen.update(_log_steps(tuple(s for s in schedule if s not in unsound) or schedule))
        elif re.fullmatch(r"[0-9]+", part):
            if int(part) not in schedule:
                nearest = sorted(schedule, key=lambda s: abs(s - int(part)))[:2]
                raise UsageError(
                    f"{whose}step {part} is not in the suite's schedule; the nearest are "
                    f"{' and '.join(map(str, sorted(nearest)))} (`rtdyn steps` lists them)"
                )
            chosen.add(int(part))
        elif match := re.fullmatch(r"([0-9]+):([0-9]+)(?::([0-9]+))?", part):
            start, stop = int(match[1]), int(match[2])
            hits = [s for s in schedule if start <= s <= stop]
            if match[3] is not None:
                hits = [s for s in hits if _on_stride(s, start, int(match[3]))]
            if not hits:
                raise UsageError(f"{whose}the range {part!r} holds no step of the suite's schedule")
            chosen.update(hits)
        else:
            raise UsageError(
                f"cannot read {part!r} in --steps; use all, log, last, numbers, or ranges such as 1000:143000:1000"
            )
    return tuple(sorted(chosen))


def steps_so_far(spec: str, schedule: tuple[int, ...]) -> tuple[int, ...]:
    """The steps named by `spec` that are there so far, ascending: `all`, numbers, ranges, and mixes.

    Raises UsageError for what `parse_steps` cannot read, and for `log` and `last`, which change while steps come.
    """
    chosen: set[int] = set()
    for part in (p.strip() for p in spec.split(",")):
        if part in ("log", "last"):
            raise UsageError(f"--follow takes steps as they come, and {part!r} is known at the end; use all or ranges")
        # refused as ever where it cannot be read, whatever steps there are
        parse_steps(part, tuple(sorted({*map(int, re.findall(r"[0-9]+", part))})) or (0,))
        with suppress(UsageError):
            chosen.update(parse_steps(part, schedule))
    return tuple(sorted(chosen))


def _on_stride(step: int, start: int, stride: int) -> bool:
    if stride < 1:
        raise UsageError("the stride of a step range must be at least 1")
    return (step - start) % stride == 0


def _log_steps(schedule: tuple[int, ...]) -> set[int]:
    last = schedule[-1]
    powers = [0, *(2**k for k in range(last.bit_length()))]
    return {min(schedule, key=lambda s: abs(s - p)) for p in powers} | {last}
