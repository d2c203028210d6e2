"""What a run directory says of itself: manifest.json as a record, and what each stored step was made from.

A record keeps keys that it does not know and writes only what it was given. So a file that is read and written again
keeps its form.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from rtdyn.suites.suite import Defect

SCHEMA_VERSION = 5


class Record(BaseModel):
    """A part of the store's JSON, checked when it is read. Raises pydantic's ValidationError for what does not fit."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")

    def replace(self, **changes: Any) -> Self:
        """The record with other values of some fields."""
        return self.model_copy(update=changes)

    def as_json(self) -> dict[str, Any]:
        """The record as its file holds it: what was given, in the order of the fields."""
        return self.model_dump(mode="json", exclude_unset=True)


class CheckpointRecord(Record):
    """What a stored step was made from."""

    revision: str
    """The folder or branch that holds the step."""
    commit: str | None
    """The Hub commit that the revision stood for, if it came from there."""
    digests: dict[str, str]
    """SHA-256 of each weight file, by name."""
    read_by_ranges: bool = False
    """Whether only some tensors were read, which a digest cannot verify."""
    copy_of: int | None = None
    """The step with the same weights whose tables were copied, if any."""


class EvaluationRecord(Record):
    """The text that a run is measured on."""

    corpus: str
    corpus_sha256: str
    corpus_provenance: dict[str, Any] = {}
    """Where the text is from, if it was fetched: commit, blocks, bytes."""
    held_out: str = "not checked"
    """Whether the suite was trained on the text: `yes` if it was held out, `no`, or `not checked`."""
    held_out_source: str = ""
    """Who says so."""
    windows: int
    tokens: int
    kept_positions: int
    sha256: str
    """Over the windows and the positions kept in them."""
    clusters: int
    """Independent pieces of the text, which standard errors are of."""
    cluster_unit: str
    """`documents`, or `blocks` of one document's windows."""


class SampledFrequency(Record):
    """How sure the frequencies of a class are that were counted in a sample."""

    value: float | None
    """Median relative standard error of a type's frequency."""
    reason: str | None
    """Why there is none."""


class FrequenciesRecord(Record):
    """The counts that token classes are made of."""

    source: str
    sha256: str
    types: int
    logits: int
    bands_end_at_rank: int
    bands_end_reason: str
    provenance: dict[str, Any] = {}
    """Where a sample was drawn."""
    median_relative_se: dict[str, SampledFrequency] = {}
    """By class, where the counts are from a sample."""
    rare_overlap: float | None = None
    """Expected share in common, of all types in either, of the rare class by the sample and by the whole corpus. It is
    an upper bound where the sample is small."""


class TargetKindsRecord(Record):
    """What the tokens are that decide the class of its measured positions."""

    types: int
    """Distinct ones."""
    byte_fragments: float | None
    """Share of positions whose token is bytes that are no text by themselves."""
    no_whole_words: float | None
    """Share of positions whose token is no whole word."""
    reason: str = ""
    """Why there is no share; empty where there are both."""


class TokenClassRecord(Record):
    """One token class and its positions, whose targets or queries are of it."""

    band: str
    ranks: tuple[int, int]
    """First and last frequency rank, from 1."""
    types: int
    positions: int
    """In the text."""
    measured: int
    """Those that influence is measured on."""
    kinds: TargetKindsRecord | None = None
    """None in a run without domains."""


class DomainRecord(Record):
    """A further text that is measured on the classes of the main one."""

    evaluation: EvaluationRecord
    classes: dict[str, TokenClassRecord]


class LeftOutDomainRecord(Record):
    """A text that was asked for and is not measured."""

    rare_targets: int
    """Positions of the class `rare` that it holds."""
    reason: str


class ScheduleRecord(Record):
    """What of the suite decides which stored steps are observations of their own."""

    last_step: int
    steps_are_updates: bool
    defects: tuple[Defect, ...]


class VerdictRecord(Record):
    """What the audit before the run found of one step."""

    verdict: str
    reasons: tuple[str, ...]
    left_out: bool
    """Whether trajectories leave the step out."""
    commit: str | None = None
    digests: dict[str, str] = {}


class AuditRecord(Record):
    """The audit before the run."""

    made: str
    """Date and time, ISO 8601."""
    steps: dict[int, VerdictRecord]
    findings: tuple[str, ...] = ()
    passed_over: dict[int, str] = {}
    """Steps that were not run, each with the reason."""


class Manifest(Record):
    """manifest.json."""

    schema_version: int
    suite: str
    location: str | None = None
    config: dict[str, Any]
    """Everything the tables depend on, by the names of the command line."""
    config_digest: str
    wandb_id: str | None = None
    design: str = ""
    """`own` or `paper` where one command measured the suite by both designs."""
    evaluation: EvaluationRecord | None = None
    """None, as the two that follow are empty, in a run of weights alone."""
    frequencies: FrequenciesRecord | None = None
    classes: dict[str, TokenClassRecord] = {}
    domains: dict[str, DomainRecord] = {}
    """Further texts, by name."""
    domains_left_out: dict[str, LeftOutDomainRecord] = {}
    schedule: ScheduleRecord | None = None
    """None in manifests that are older than it."""
    versions: dict[str, str] = {}
    checkpoints: dict[int, CheckpointRecord] = {}
    """By step; complete once the command has ended."""
    left_out: dict[int, str] = {}
    """Stored steps that are no observations of their own, each with the reason."""
    asked: tuple[int, ...] = ()
    """Steps that commands set out to analyse, ascending."""
    failed: dict[int, str] = {}
    """Those that could not be analysed when they were last tried, each with the reason."""
    command: str | None = None
    """The command line that began the run."""
    group: str | None = None
    """The W&B group of a command over several suites."""
    audit: AuditRecord | None = None
