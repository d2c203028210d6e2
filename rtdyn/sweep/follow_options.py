"""Whether a run goes on taking steps, and until when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FollowOptions:
    """Settings of a run that is followed while it trains, by the names of the command line and with its defaults."""

    follow: bool = False
    """Whether steps are taken as they come."""
    until: int | None = None
    """The step with which it ends, or the first after it; None for no end."""
    idle: float | None = None
    """Seconds without any change in the training's folder after which it ends; None for no end."""
    poll: float = 10.0
    """Seconds between two looks; a step is whole when two find it so."""
