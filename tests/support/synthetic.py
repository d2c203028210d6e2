"""A run directory of any size whose numbers are noise about smooth trends, with rows of the kinds a real run stores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rtdyn.analyses.regimes.resampled import CORRECTED
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import Run, config_digest, open_run, write_manifest, write_step
from rtdyn.store.schema import PLAIN, Metric, StepTables, metric_frame
from rtdyn.tables.curves import curve_table

LAYERS = (4, 5)
KEYS = 32
TOP = 40


def synthetic_run(
    path: Path,
    steps: int,
    neurons: int,
    heads: int = 4,
    suite: str = "synthetic",
    left_out: dict[int, str] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a run of steps 0, 1, 2, 4, … 512, 1000, 2000, … and returns its directory."""
    schedule = [0, *(2**k for k in range(10)), *range(1000, 1000 * steps, 1000)][:steps]
    config = {"suite": suite, "seed": seed, "rank_by": "mean_abs", "analyses": ["ablation"]}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        suite=suite,
        config=config,
        config_digest=config_digest(config),
        left_out=left_out or {},
        wandb_id=f"{suite}-{seed}",
    )
    run = open_run(path, manifest)
    checkpoints = {}
    rng = np.random.default_rng(seed)
    gain = rng.lognormal(0, 0.8, neurons)
    empty = pl.DataFrame({"step": []}, schema={"step": pl.Int64})
    for step in schedule:
        frame = _neurons(step, gain, rng)
        metrics = metric_frame(_metrics(step, frame, rng), step, step * 2**21)
        tables = StepTables(metrics, frame, empty, curves=curve_table(step, _curves(frame, heads, rng)))
        digests = {"model.safetensors": f"{step:064x}"}
        checkpoints[step] = CheckpointRecord(revision=f"step{step}", commit=None, digests=digests)
        write_step(run, step, checkpoints[step], tables)
    write_manifest(Run(path, manifest.replace(checkpoints=checkpoints)))
    return path


def _neurons(step: int, gain: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    scale = 1e-3 * np.log1p(step + 1)
    columns: dict[str, Any] = {"step": step, "layer": LAYERS[-1], "neuron": np.arange(len(gain))}
    for name in ("rare", "common"):
        influence = scale * gain * rng.lognormal(0, 0.3, len(gain))
        rank = np.argsort(np.argsort(-influence)) + 1
        suffix = "" if name == "rare" else "_common"
        columns |= {
            f"delta_{name}": influence * rng.uniform(-1, 1, len(gain)), f"mean_abs_{name}": influence,
            f"se_{name}": influence / 8, f"se_abs_{name}": influence / 10, f"rank{suffix}": rank,
            f"regime{suffix}": np.where(rank <= TOP, "plateau", np.where(rank <= len(gain) // 2, "powerlaw", "decay")),
            f"stable_share{suffix}": np.clip(1.2 - rank / TOP, 0, 1),
        }  # fmt: skip
    return pl.DataFrame(columns)


def _metrics(step: int, frame: pl.DataFrame, rng: np.random.Generator) -> list[Metric]:
    x, count, rows = float(np.log1p(step)), frame.height, []
    for name in ("rare", "common"):
        rows.append(Metric("capture", "loss", 9 - 0.5 * x, name, ci_low=8.9 - 0.5 * x, ci_high=9.1 - 0.5 * x, n=200))
        largest = float(frame[f"mean_abs_{name}"].to_numpy().max())
        rows.append(Metric("ablation", "influence_max", largest, name, layer=LAYERS[-1], n=200))
        rows.append(Metric("ablation", "influence_mean", largest / 9, name, layer=LAYERS[-1], n=200, clusters=40))
        fit = {
            "r1": float(TOP), "r2": count / 2, "last": float(count), "kappa": 0.7, "beta": float(np.log(largest)),
            "plateau_slope": -0.2, "plateau_intercept": float(np.log(largest)), "decay_slope": -2.0,
            "excess": 0.1 * x - 0.3, "raised": float(x > 3), "shape_p_value": float(rng.uniform(0.01, 1)),
            "plateau_fraction": TOP / count,
        }  # fmt: skip
        of_class = partial(Metric, "regimes", token_class=name, layer=LAYERS[-1])
        for metric, value in fit.items():
            if metric in (*CORRECTED, "plateau_fraction"):
                reach = 0.1 * abs(value)
                interval: dict[str, Any] = {"ci_low": value - reach, "ci_high": value + reach, "clusters": 40}
                rows.append(of_class(metric, value, **interval))
            if metric != "plateau_fraction":
                rows.append(of_class(metric + PLAIN * (metric in CORRECTED), value))
    for analysis, metric in (("dimensionality", "participation_ratio_unbiased"), ("modularity", "q_excess"),
                             ("heavytail", "hill_alpha_half"), ("mediation", "mediation")):  # fmt: skip
        value = float(20 - 2 * x + rng.normal(0, 0.3))
        rows += [
            Metric(analysis, metric, value, "rare", "top", null, LAYERS[-1], null_mean=20.0, null_sd=0.5, p_value=p)
            for null, p in (("selected", 0.9 if x < 3 else 0.002), ("matched", 0.7), ("random", 0.5))
        ]
    for layer in LAYERS:
        rows += [Metric("routing", "profile_r", 0.95, "rare", layer=layer, ci_low=0.9, ci_high=1.0, clusters=40),
                 Metric("routing", "profile_r_plain", 0.9, "rare", None, "pseudo-class", layer, null_mean=0.9,
                        null_sd=0.02, p_value=0.5)]  # fmt: skip
    return rows


def _curves(frame: pl.DataFrame, heads: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    ranked = np.sort(frame["mean_abs_common"].to_numpy())[::-1]
    ranks = np.unique(np.geomspace(1, len(ranked), 97).round().astype(int))
    band = ranked[ranks - 1]
    parts: list[dict[str, Any]] = [
        {
            "kind": "pseudo_influence",
            "layer": LAYERS[-1],
            "x": ranks,
            "value": band,
            "low": band * 0.9,
            "high": band * 1.1,
        }
    ]
    for layer in LAYERS:
        for name in ("rare", "common"):
            value = np.exp(-np.tile(np.arange(KEYS), heads) / 6) * rng.uniform(0.1, 0.2, heads * KEYS)
            spread = {"low": value * 0.8, "high": value * 1.2} if name == "common" else {}
            parts.append({"kind": "attention", "token_class": name, "layer": layer,
                          "head": np.repeat(np.arange(heads), KEYS), "x": np.tile(np.arange(KEYS), heads),
                          "value": value, **spread})  # fmt: skip
    for group, size in (("top", TOP), ("plateau", 2 * TOP)):
        x = np.arange(1, size + 1)
        value = 5 / x**0.7
        fit = np.where(x <= size // 2 + 1, value, np.nan)
        parts += [
            {"kind": "eigenvalue", "group": group, "half": half, "layer": LAYERS[-1], "x": x, "value": value,
             "low": value * 0.9, "high": value * 1.1, "fit": fit}
            for half in (0, 1)
        ]  # fmt: skip
    k = np.arange(2, 9)
    for whose, half in ((None, None), ("top", 0), ("top", 1)):
        alpha = 1.8 + 0.1 * k
        band = {"low": alpha / 2, "high": alpha * 2}
        parts.append({"kind": "hill_alpha", "group": whose, "half": half, "layer": LAYERS[-1], "x": k, "value": alpha,
                      **band})  # fmt: skip
        if whose:
            parts.append({**parts[-1], "kind": "selected_hill_alpha", "value": alpha + 0.3})
    return parts
