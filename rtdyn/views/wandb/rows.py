"""What a stored step and a run look like in Weights & Biases: keys, tables, grouping. Nothing here loads the client.

The rule for keys: a number that all models of a family have is a line under its name (`metric_name`), the same in all.
Its interval and its nulls are lines under `band/`. Charts can show these with it, and they get no charts of their own.
Heads differ between models and are many: they are rows of a table a step, with their nulls. So the number of keys
depends on the analyses, classes and groups, not on the size of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from rtdyn.intervals import normal_interval
from rtdyn.judge.sizes import OF_THE_MODEL, family_and_size
from rtdyn.names import LAYERS
from rtdyn.store.manifest import Manifest
from rtdyn.store.metric_names import final_layer, metric_name
from rtdyn.store.run import config_digest
from rtdyn.store.schema import METRIC_SCHEMA
from rtdyn.views.wandb.overlay import LOG2_STEP, log2_step

TOP_NEURONS = 50
"""Neurons in a step's table, the most influential on `rare`."""
BAND = "band"
CONSTANTS = ("groups/size/rare/top", "mediation/null_space_directions", "routing/matched_positions/rare")
"""Numbers that are the same at every step of a run, and are no chart."""
_HEAD_COLUMNS = [c for c in METRIC_SCHEMA if c not in ("step", "tokens_seen", "analysis", "status")]


@dataclass(frozen=True)
class Grouping:
    """Where a run stands among others."""

    name: str
    """The suite's, with the design where one command measured it by two."""
    family: str
    """The suite's name without the model's size: `pythia-deduped` for pythia-1.4b-deduped."""
    size: str | None
    group: str
    """Runs of one command over several suites, or of one family and one configuration."""
    tags: tuple[str, ...]


def grouping(manifest: Manifest) -> Grouping:
    """The W&B group and tags of a run."""
    name, config = manifest.suite, manifest.config
    family, size = family_and_size(name)
    shared = {key: value for key, value in config.items() if key not in OF_THE_MODEL}
    tags = (family, size or "", config.get("device", ""), manifest.design)
    # W&B takes groups of up to 128 characters and tags of up to 64
    return Grouping(
        " ".join(filter(None, (name, manifest.design))),
        family or name,
        size,
        manifest.group or f"{(family or name)[:100]}-{config_digest(shared)[:8]}",
        tuple(tag[:64] for tag in dict.fromkeys(tags) if tag),
    )


def settings_of(manifest: Manifest) -> dict[str, Any]:
    """What W&B shows of a run beside its numbers: its configuration, what it was measured on, and with what."""
    stands, recorded = grouping(manifest), manifest.as_json()
    names: dict[str, str] = {}
    if manifest.evaluation is not None and "corpus" in manifest.config:
        names["corpus"] = manifest.evaluation.corpus
    if manifest.frequencies is not None and "frequencies" in manifest.config:
        names["frequencies"] = manifest.frequencies.source
    measured_on: dict[str, Any] = {key: recorded[key] for key in ("evaluation", "classes") if key in recorded}
    return {
        **manifest.config,
        **names,
        "digests": {key: manifest.config[key] for key in names},
        "family": stands.family,
        "size": stands.size,
        **({"design": manifest.design} if manifest.design else {}),
        "config_digest": manifest.config_digest,
        **measured_on,
        "versions": manifest.versions,
    }


def scalars(metrics: pl.DataFrame) -> dict[str, float]:
    """A step's lines: each defined number that is not a head's, with its interval and nulls under `band/`.

    metrics: one step's rows of metrics/.
    """
    rows = metrics.to_dicts()
    final = final_layer(rows)
    values: dict[str, float] = {"step": rows[0]["step"], LOG2_STEP: log2_step(rows[0]["step"])}
    if rows[0]["tokens_seen"] is not None:
        values["tokens_seen"] = rows[0]["tokens_seen"]
    for row in rows:
        if row["value"] is not None and row["head"] is None:
            name = metric_name(row, final)
            values[name] = row["value"]
            values |= {f"{BAND}/{name}/{key}": number for key, number in _band(row) if number is not None}
    return values


def _band(row: Mapping[str, Any]) -> Iterable[tuple[str, float | None]]:
    """A row's interval, and its null's mean, 95 % band and p under the null's name."""
    yield "ci_low", row["ci_low"]
    yield "ci_high", row["ci_high"]
    null = "" if row["null"] is None else f"{row['null']}/"
    mean, sd = row["null_mean"], row["null_sd"]
    yield f"{null}mean", mean
    if mean is not None and sd is not None:
        low, high = normal_interval(mean, sd)
        yield f"{null}low", low
        yield f"{null}high", high
    yield f"{null}p", row["p_value"]


def prefixes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """First parts of the names that a run of this configuration may log."""
    return ("capture", "groups", *config["analyses"], *([LAYERS] if LAYERS in config else []))


def top_neurons(neurons: pl.DataFrame) -> pl.DataFrame:
    """The final layer's most influential neurons with all that the store knows of them, by rank; none of weights alone.

    Without the regimes there is no rank; they go by mean |Δ| of the first class then.
    """
    if "layer" in neurons.columns:
        neurons = neurons.filter(pl.col("layer") == pl.col("layer").max())
    if "rank" in neurons.columns and neurons["rank"].count():
        return neurons.sort("rank").head(TOP_NEURONS)
    influence = [name for name in neurons.columns if name.startswith("mean_abs_")]
    return neurons.sort(influence[0], descending=True).head(TOP_NEURONS) if influence else neurons.clear()


def heads(metrics: pl.DataFrame) -> pl.DataFrame:
    """A step's rows that belong to single attention heads, undefined ones with their reason."""
    return metrics.filter(pl.col("head").is_not_null()).select("step", *_HEAD_COLUMNS)
