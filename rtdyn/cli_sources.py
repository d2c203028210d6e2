"""The options that say where text and counts are from."""

from __future__ import annotations

import click

from rtdyn.cli_command import in_panel
from rtdyn.text.options import EvaluationOptions

SOURCES = in_panel(
    "Input",
    click.option(
        "--corpus",
        help="Evaluation text: a .txt, .jsonl or .parquet file, or hf://datasets/OWNER/NAME/PATH.  "
        "[default: the suite's]",
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
        help="Measure only rows of the corpus whose field has this value; nested fields are meta.pile_set_name and the "
        "like. Repeat it for more conditions.",
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
