"""What is met at every look is said once, and a fault that was over is said when it comes again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class SayOnce:
    """Passes a text on to `say`, unless it was said before."""

    say: Callable[[str], None]
    said: set[str] = field(default_factory=set)

    def __call__(self, text: str) -> None:
        """Says the text if it is new."""
        if text not in self.said:
            self.said.add(text)
            self.say(text)

    def over(self) -> None:
        """What was said is past: it is said again if it comes again."""
        self.said.clear()
