"""Options in a file: by their names, as one types them, and no other way to read them than as text.

YAML's own guesses would make another value of some: `1:50` a number in base 60, `none` a word and `no` a truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rtdyn.blame import reading
from rtdyn.errors import InputError
from rtdyn.files import replace_file
from rtdyn.git_lfs import refuse_pointer

SETTINGS = "run.yaml"
"""The file's name in a run directory."""
_HEAD = (
    "# The options of this run. `rtdyn track --config FILE` takes them all from such a file; the command line wins.\n"
)
Value = str | list[str]
"""What stands after a name: a text, or several for an option that may be repeated."""


def read_settings(file: Path) -> dict[str, Value]:
    """The file's options by name, without the dashes. Raises InputError if it is no mapping of names to values."""
    try:
        with reading(str(file)):
            refuse_pointer(file)
            node = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{file} is no list of options; write a line `name: value` for each")
    settings: dict[str, Value] = {}
    for key, value in node.value:
        name = str(key.value).removeprefix("--").replace("_", "-")
        if name in settings:
            raise InputError(f"{file} gives {name!r} twice; an option of several values takes a list")
        settings[name] = _value(value, f"{file}: {name}")
    return settings


def _value(node: yaml.Node, where: str) -> Value:
    if isinstance(node, yaml.ScalarNode) and node.value:
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(n, yaml.ScalarNode) and n.value for n in node.value):
        return [str(item.value) for item in node.value]
    raise InputError(f"{where} is neither a value nor a list of values")


def write_settings(run: Path, settings: Mapping[str, Any]) -> None:
    """Writes a run directory's options, with the steps that earlier commands asked for.

    Raises InputError if it cannot, or if a file that is there cannot be read.
    """
    file = run / SETTINGS
    steps = str(settings["steps"])
    if file.is_file():
        earlier = read_settings(file).get("steps", steps)
        steps = _joined(earlier if isinstance(earlier, str) else ",".join(earlier), steps)
    text = _HEAD + yaml.safe_dump({**settings, "steps": steps}, sort_keys=False, allow_unicode=True)
    replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def _joined(earlier: str, now: str) -> str:
    """Two specifications of steps as one."""
    parts = dict.fromkeys(part.strip() for part in f"{earlier},{now}".split(","))
    return "all" if "all" in parts else ",".join(parts)
