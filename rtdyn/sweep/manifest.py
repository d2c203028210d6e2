"""What a run directory says of itself: what its tables depend on, and what they were measured on."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from typing import Any

from rtdyn.analyses.earlier_layers.chosen import LAST
from rtdyn.analyses.options import StepOptions
from rtdyn.store.manifest import (
    SCHEMA_VERSION,
    DomainRecord,
    EvaluationRecord,
    FrequenciesRecord,
    LeftOutDomainRecord,
    Manifest,
    SampledFrequency,
    ScheduleRecord,
    TargetKindsRecord,
    TokenClassRecord,
)
from rtdyn.store.run import config_digest
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.target_kinds import TargetKinds
from rtdyn.text.token_classes import class_errors, rare_overlap
from rtdyn.undefined import Undefined
from rtdyn.version import __version__


def run_config(
    suite: SuiteSpec, evaluation: Evaluation | None, measured_on: EvaluationOptions, options: StepOptions
) -> dict[str, Any]:
    """Everything the tables depend on, by the names of the command line where they have one."""
    config = {
        "suite": suite.name,
        "location": suite.name if suite.is_bundled else suite.location,
        "rtdyn": __version__,
        "analyses": list(options.analyses),
        **({"revisions": suite.series} if suite.names else {}),
    }
    if evaluation is None:
        return config
    return {
        **config,
        "corpus": evaluation.corpus_sha256,
        "frequencies": evaluation.counts.sha256,
        "evaluation_set": evaluation.text.sha256,
        "rare": list(measured_on.bands),
        "window": measured_on.window,
        "bos": measured_on.bos,
        "class_by": measured_on.class_by,
        "mean_over": options.mean_over,
        "rank_by": options.rank_by,
        "heads_to": options.heads_to,
        "heads_at": options.heads_at,
        "unigram": options.unigram,
        **({} if options.layers == LAST else {"layers": options.layers, "exact_neurons": options.exact_neurons}),
        "min_targets": measured_on.min_targets,
        "positions_per_rare": measured_on.positions_per_rare,
        "tolerance": options.tolerance,
        "device": options.device,
        "seed": measured_on.seed,
        **({"domains": _domain_sets(evaluation)} if evaluation.domains or evaluation.left_out else {}),
    }


def _domain_sets(evaluation: Evaluation) -> list[str]:
    """Each domain with the digest of its evaluation set, where it has one."""
    measured = [f"{name}={domain.text.sha256}" for name, domain in evaluation.domains.items()]
    return [*measured, *(f"{name}=left-out" for name in evaluation.left_out)]


def new_manifest(suite: SuiteSpec, evaluation: Evaluation | None, config: dict[str, Any]) -> Manifest:
    """The manifest of a run that has no step yet. evaluation: None of a run of weights alone."""
    digest = config_digest(config)
    packages = ("torch", "transformers", "tokenizers", "numpy", "polars", "safetensors")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        suite=suite.name,
        location=suite.location,
        config=config,
        config_digest=digest,
        wandb_id=f"{re.sub('[^A-Za-z0-9._-]', '-', suite.name)}-{digest[:12]}",
        schedule=schedule(suite),
        versions={"rtdyn": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        checkpoints={},
        left_out={},
    )
    if evaluation is None:
        return manifest
    manifest = manifest.replace(
        evaluation=_text(evaluation), frequencies=_frequencies(evaluation), classes=_classes(evaluation)
    )
    if not (evaluation.domains or evaluation.left_out):
        return manifest
    return manifest.replace(
        domains={
            name: DomainRecord(evaluation=_text(domain), classes=_classes(domain))
            for name, domain in evaluation.domains.items()
        },
        domains_left_out={
            name: LeftOutDomainRecord(rare_targets=fault.rare, reason=fault.reason)
            for name, fault in evaluation.left_out.items()
        },
    )


def schedule(suite: SuiteSpec) -> ScheduleRecord:
    """What of the suite decides which stored steps are observations of their own."""
    return ScheduleRecord(
        last_step=suite.steps[-1], steps_are_updates=suite.tokens_per_step is not None, defects=suite.defects
    )


def _text(evaluation: Evaluation) -> EvaluationRecord:
    known = evaluation.known_text
    return EvaluationRecord(
        corpus=evaluation.corpus_name,
        corpus_sha256=evaluation.corpus_sha256,
        corpus_provenance=dict(evaluation.corpus_provenance),
        windows=len(evaluation.text.windows),
        tokens=int(evaluation.text.windows.size),
        kept_positions=int(evaluation.text.kept.sum()),
        sha256=evaluation.text.sha256,
        clusters=evaluation.clusters.count,
        cluster_unit=evaluation.clusters.unit,
        **({} if known is None else {"held_out": known.held_out, "held_out_source": known.source}),
    )


def _frequencies(evaluation: Evaluation) -> FrequenciesRecord:
    record = FrequenciesRecord(
        source=evaluation.counts.source,
        sha256=evaluation.counts.sha256,
        types=len(evaluation.counts.counts),
        logits=evaluation.n_logits,
        bands_end_at_rank=evaluation.classes.end_rank,
        bands_end_reason=evaluation.classes.end_reason,
    )
    sampled = evaluation.counts.sampled
    if sampled is None:
        return record
    errors = class_errors(sampled, evaluation.classes)
    return record.replace(
        rare_overlap=rare_overlap(evaluation.counts, evaluation.classes),
        provenance=dict(sampled.provenance),
        median_relative_se={
            name: SampledFrequency(value=None, reason=error.reason)
            if isinstance(error, Undefined)
            else SampledFrequency(value=error, reason=None)
            for name, error in errors.items()
        },
    )


def _classes(evaluation: Evaluation) -> dict[str, TokenClassRecord]:
    positions = {c.name: c for c in evaluation.positions.classes}
    return {
        c.name: TokenClassRecord(
            band=c.band,
            ranks=(c.first + 1, c.last),
            types=int(c.types.sum()),
            positions=positions[c.name].available,
            measured=len(positions[c.name].measured),
            **({"kinds": _kinds(evaluation.kinds[c.name])} if c.name in evaluation.kinds else {}),
        )
        for c in evaluation.classes.classes
    }


def _kinds(kinds: TargetKinds) -> TargetKindsRecord:
    shares = {"byte_fragments": kinds.byte_fragments, "no_whole_words": kinds.no_whole_words}
    reasons = dict.fromkeys(share.reason for share in shares.values() if isinstance(share, Undefined))
    return TargetKindsRecord(
        types=kinds.types,
        **{name: None if isinstance(share, Undefined) else share for name, share in shares.items()},
        reason="; ".join(reasons),
    )
