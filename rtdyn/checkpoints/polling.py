"""Steps of a folder that a trainer is writing to, each once it is whole, by looking again and again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rtdyn.checkpoints.arriving import link_step, step_link
from rtdyn.checkpoints.whole import State, whole_state
from rtdyn.errors import InputError


@dataclass(frozen=True)
class Watch:
    """How a folder is watched."""

    look: Callable[[], Mapping[int, Path]]
    """The steps whose folders are there now, each with its folder."""
    tokenizer: Path
    """The folder with the tokenizer of steps that have none."""
    links: Path
    """Where the links of whole steps are put."""
    poll: float
    """Seconds from one look to the next."""
    until: int | None
    """The step with which it ends, or the first after it; None for no end."""
    idle: float | None
    """Seconds without a change after which it ends; None for no end."""
    say: Callable[[str], None]
    """Told of steps that are lost."""

    def steps(self) -> Iterator[int]:
        """Each step once, the earliest first, when two looks found it whole and alike; its links lie ready then.

        A step that was deleted before is said. Raises InputError if a file can be neither linked nor copied.
        """
        seen: dict[int, State | None] = {}
        taken: set[int] = set()
        changed = time.monotonic()
        while True:
            looked, folders = time.monotonic(), self.look()
            now = {step: whole_state(folder) for step, folder in folders.items() if step not in taken}
            if now != seen:
                changed = looked
            for step in sorted(seen.keys() - now.keys() - taken):
                self.say(f"step {step} was deleted before it could be analysed")
            ready = [step for step, state in sorted(now.items()) if state is not None and seen.get(step) == state]
            seen = now
            for step in ready[:1]:
                if self._take(step, folders[step], now[step] or ()):
                    taken.add(step)
                    yield step
                    changed = time.monotonic()
                    if self.until is not None and step >= self.until:
                        return
            if not ready and self.idle is not None and time.monotonic() - changed >= self.idle:
                return
            time.sleep(max(0.0, looked + self.poll - time.monotonic()))

    def _take(self, step: int, folder: Path, state: State) -> bool:
        """Links a step's files; whether they are those that were seen, for its trainer may delete them meanwhile."""
        link = step_link(self.links, step)
        try:
            link_step(folder, self.tokenizer, link, copy=True)
        except (FileNotFoundError, InputError):
            return False
        except OSError as error:
            raise InputError(
                f"cannot keep the files of step {step} ({error}); make room, or give another --out"
            ) from error
        if set(state) <= set(whole_state(link) or ()):
            return True
        shutil.rmtree(link)
        return False
