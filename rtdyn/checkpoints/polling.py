"""Steps of a training that goes on, each once it is whole, by looking again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """How a training is watched."""

    look: Callable[[Collection[int]], Mapping[int, Hashable | None]]
    """The steps that are there now but for those it is given, each with what tells a change; None of one not whole."""
    take: Callable[[int, Hashable], bool]
    """Secures a whole step; False if it is gone or changed since."""
    poll: float
    """Seconds from one look to the next."""
    until: int | None
    """The step with which it ends, or the first after it; None for no end."""
    idle: float | None
    """Seconds without a change after which it ends; None for no end."""
    say: Callable[[str], None]
    """Told of steps that are lost."""

    def steps(self) -> Iterator[int]:
        """Each step once, the earliest first, when two looks found it whole and alike, and it is secured.

        A step that was deleted before is said.
        """
        seen: Mapping[int, Hashable | None] = {}
        taken: set[int] = set()
        changed = time.monotonic()
        while True:
            looked = time.monotonic()
            now = self.look(taken)
            if now != seen:
                changed = looked
            for step in sorted(seen.keys() - now.keys() - taken):
                self.say(f"step {step} was deleted before it could be analysed")
            ready = [step for step, state in sorted(now.items()) if state is not None and seen.get(step) == state]
            seen = now
            for step in ready[:1]:
                if self.take(step, now[step]):
                    taken.add(step)
                    yield step
                    changed = time.monotonic()
                    if self.until is not None and step >= self.until:
                        return
            if not ready and self.idle is not None and time.monotonic() - changed >= self.idle:
                return
            time.sleep(max(0.0, looked + self.poll - time.monotonic()))
