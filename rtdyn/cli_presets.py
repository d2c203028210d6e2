"""Presets: several options in one word, or the papers' whole design beside the options as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource

from rtdyn.cli_command import in_panel
from rtdyn.cli_config import from_config
from rtdyn.sweep.paper import PAPER, PAPER_SETTINGS

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper-code": {
        "bands": ("paper-code",),
        "class_by": "query",
        "heads_to": "bos",
        "heads_at": "query",
        "unigram": "longtail",
    }
}
"""What each preset makes the default, by parameter. Of heads the papers' code ablates the measured position alone."""


def option_name(parameter: str) -> str:
    """What a parameter is called as an option, without the dashes."""
    return "rare" if parameter == "bands" else parameter.replace("_", "-")


def _apply_preset(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Makes a preset's values the defaults, so that whatever is given wins, in any order, also in a file."""
    if name is not None and name in PRESETS:
        context.default_map = {**PRESETS[name], **(context.default_map or {})}
    return name


def _written(names: Iterable[str], values: Mapping[str, Any]) -> str:
    """The options as one types them."""

    def words(name: str) -> Iterator[str]:
        every = values[name] if isinstance(values[name], tuple) else (values[name],)
        return (f"--{option_name(name)} {f'{v:g}' if isinstance(v, float) else v}" for v in every)

    return " ".join(word for name in names for word in words(name))


def _given(names: Iterable[str]) -> list[str]:
    """Those of this command's parameters that were given: typed, or set by a variable or a file."""
    context = click.get_current_context()
    in_file, usual = from_config(context), (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return [name for name in names if name in in_file or context.get_parameter_source(name) not in usual]


def paper_settings() -> Mapping[str, Any] | None:
    """What the papers' design changes of this command's options, but for those given; None without --preset paper."""
    if click.get_current_context().params["preset"] != PAPER:
        return None
    given = _given(PAPER_SETTINGS)
    return {name: value for name, value in PAPER_SETTINGS.items() if name not in given}


def preset_line() -> str | None:
    """What this command's --preset sets, and what was given instead, in one line; None without one."""
    context = click.get_current_context()
    preset = context.params["preset"]
    if preset is None:
        return None
    settings = PRESETS.get(preset, PAPER_SETTINGS)
    given = _given(settings)
    chosen = _written((name for name in settings if name not in given), settings) or "nothing"
    if preset == PAPER:
        instead = f"; given for both: {_written(given, context.params)}" if given else ""
        return f"--preset paper measures twice: with the options as they are, and with {chosen}{instead}"
    instead = f"; given instead: {_written(given, context.params)}" if given else ""
    return f"--preset {preset} sets {chosen}{instead}"


def check_one_design(why: str) -> None:
    """Refuses --preset paper where only one run can be made. why: what makes only one, as a clause."""
    if click.get_current_context().params["preset"] == PAPER:
        raise click.UsageError(f"--preset paper makes two runs of a model, and {why}; leave it out")


PRESET = in_panel(
    "Classes",
    click.option(
        "--preset",
        type=click.Choice((*PRESETS, PAPER)),
        is_eager=True,
        callback=_apply_preset,
        help="Do as the papers' released code does; an option that is given wins. "
        + "".join(f"{name}: {_written(values, values)}. " for name, values in PRESETS.items())
        + "paper: measure by its whole design too, and compare. Its text is ten random windows of C4's first 500 "
        "documents. Its rare types are the less frequent half of those up to the elbow.",
    ),
)
"""Several options in one word."""
