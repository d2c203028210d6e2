"""How long a test waits for a process: its limit is there to end a hang, whatever else the machine has to do."""

from __future__ import annotations

HANG = 900.0
"""Seconds. The longest of these processes takes a tenth of it on an idle machine of two cores."""
