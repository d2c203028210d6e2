"""Writes docs/cli.md from the command's own help.

python scripts/docs/write_cli.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rtdyn.cli import main

PAGE = Path(__file__).parents[2] / "docs/cli.md"
WIDTH: dict[str, Any] = {"terminal_width": 110, "max_content_width": 110}

HEAD = """# Command line

This page is made by `scripts/docs/write_cli.py`. It is the help of each command.
"""


def page() -> str:
    """The whole page."""
    whole = click.Context(main, info_name="rtdyn", **{**main.context_settings, **WIDTH})
    parts = [HEAD, f"```text\n{main.get_help(whole)}\n```\n"]
    for name in main.list_commands(whole):
        command = main.commands[name]
        context = click.Context(command, info_name=name, parent=whole, **WIDTH)
        parts += [f"## rtdyn {name}\n", f"```text\n{command.get_help(context)}\n```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
