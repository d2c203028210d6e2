"""The options that say where text and counts are from."""

from __future__ import annotations

import re

import click

from rtdyn.cli_command import in_panel
from rtdyn.text.options import EvaluationOptions

_NAME = r"[A-Za-z0-9][\w.-]*"
_NAMED = re.compile(rf"({_NAME})=(.+)", re.DOTALL)
"""A text with a name; an address or a path with a slash before the `=` is none."""


class _Texts(click.types.StringParamType):
    """Texts, of which a variable may hold several: each but the first begins with its name, and paths have spaces."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The texts in a variable's value."""
        return re.split(rf"\s+(?={_NAME}=)", rv.strip())


def _main_and_named(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str | tuple[str, ...], ...]:
    """Each value, or a pair of name and address where it is both."""
    texts = tuple(match.groups() if (match := _NAMED.fullmatch(value)) else value for value in values)
    unnamed = [text for text in texts if isinstance(text, str)]
    if len(unnamed) > 1:
        raise click.BadParameter(
            f"{unnamed[0]} and {unnamed[1]} both would be the main text; give one of them a name, as in NAME=ADDRESS"
        )
    return texts


SOURCES = in_panel(
    "Input",
    click.option(
        "--corpus",
        "corpora",
        type=_Texts(),
        multiple=True,
        callback=_main_and_named,
        metavar="[NAME=]ADDRESS",
        help="Evaluation text: a .txt, .jsonl or .parquet file, or hf://datasets/OWNER/NAME/PATH. With NAME= it is a "
        "domain, measured beside the main text; repeat it for several.  [default: the suite's]",
    ),
    click.option(
        "--domains",
        metavar="pile | ADDRESS::FIELD",
        help="Texts to measure beside the main one. pile: the 22 parts of the Pile's validation split. "
        "news.jsonl::meta.language: the parts of a .jsonl or .parquet text, which the values of that field tell apart.",
    ),
    click.option(
        "--text-field",
        default=EvaluationOptions.text_field,
        show_default=True,
        help="Column of the text in .jsonl and .parquet.",
    ),
    click.option(
        "--text-where",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Measure only rows of the main text whose field has this value; nested fields are meta.pile_set_name "
        "and the like. Repeat it for more conditions.",
    ),
    click.option(
        "--documents",
        type=click.IntRange(min=1),
        help="Measure only the corpus's first so many documents.  [default: all of them]",
    ),
    click.option(
        "--frequencies",
        help="Counts: a .npy or .parquet file, hf://datasets/OWNER/NAME/PATH, `pile` or `corpus`.  "
        "[default: the suite's]",
    ),
    click.option(
        "--frequency-tokens",
        type=click.IntRange(min=1),
        default=EvaluationOptions.frequency_tokens,
        show_default=True,
        help="Tokens to count of a data set on the Hub.",
    ),
)
"""Where text and counts are from."""
