"""How a command says that it ends."""

from __future__ import annotations


def refusal(stderr: str) -> str:
    """The one sentence that a command ends on; only progress may stand before it."""
    *before, last = (line for line in stderr.splitlines() if line.strip())
    assert last.startswith("rtdyn: ") and not any(line.startswith(("rtdyn: ", "Traceback")) for line in before), stderr
    return last
