"""What a sweep will cost, before anything starts: bytes, operations, memory, disk and hours of each suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files

import numpy as np

from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.analyses.earlier_layers.sample import budget_of
from rtdyn.analyses.options import StepOptions
from rtdyn.audit.before_a_run import steps_to_run
from rtdyn.audit.survey import audit_steps
from rtdyn.audit.verdicts import Audit
from rtdyn.capture.memory_need import Memory, Sample, memory, runs_by_layers, sample_of
from rtdyn.checkpoints.locate import checkpoint_shape, find_config
from rtdyn.checkpoints.stream import GB
from rtdyn.cost.downloads import Traffic, traffic
from rtdyn.cost.layers import layer_operations
from rtdyn.cost.operations import (
    Operations,
    ablation_operations,
    capture_operations,
    domain_operations,
    load_operations,
    mediation_operations,
    run_bytes,
)
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.hub.datasets import is_hub
from rtdyn.hub.repository import hub_is_offline
from rtdyn.hub.retry import may_pass
from rtdyn.model.sizes import ModelShape, model_shape
from rtdyn.names import GROUPED, LAYER_CURVES, LAYER_GROUPS, LAYER_MEDIATION, PILE, WEIGHTS_ONLY
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.evaluation import MIN_TOKENS, prepare
from rtdyn.text.options import RARE_TARGETS, EvaluationOptions
from rtdyn.text.parts import PILE_PARTS

TOKENS_A_RARE_TARGET = 98.9
"""Of the Pile in Pythia's tokens. The rare band has 1.027 % of them by its exact counts, and of a window of 256 tokens
252 are targets that count. It is 87 of the King James Bible."""
SECONDS_AN_HOUR = 3600.0
LAYER_GROUPS_SHARE = 0.5
"""What the two groups of an earlier layer take, in units of the six of the last one. At 512 to 4,096 neurons 0.2 to 0.7
was measured."""
FURTHER = files("rtdyn") / "data" / "stage_seconds.json"
"""Processor seconds of the analyses whose work no closed form gives, by neurons, from stage_seconds.py. Beside them is
the share of each that several threads divide among them."""


@dataclass(frozen=True)
class Assumptions:
    """What the hours depend on beside the suites."""

    link_mbit: float
    gpu_tflops: tuple[float, float] | None
    """Sustained float32 and float64 of one GPU, 10^12 operations a second."""
    available_bytes: int
    """Memory that can be had on this machine."""
    threads: int
    """Of the processor, which the further analyses divide a part of their work among."""


@dataclass(frozen=True)
class SuitePlan:
    """The cost of one suite."""

    suite: SuiteSpec
    design: str
    """The job's, where the suite is measured by two."""
    shape: ModelShape
    shape_source: str
    sample: Sample | None
    """None for weights alone."""
    traffic: Traffic
    stages: Mapping[str, Operations]
    """Of one step, by stage."""
    stage_seconds: Mapping[str, float] | None
    """Of one step, by stage, on this machine; None where the machine was not timed."""
    further_seconds: Mapping[str, float]
    """Of one step, by analysis, as measured elsewhere."""
    memory: Memory | None
    layered: bool
    """Whether --stream-layers would run it layer by layer here."""
    cache_bytes: int
    run_bytes: int
    download_seconds: float
    compute_seconds: float | None
    """None where the machine was not timed."""
    gpu_stage_seconds: Mapping[str, float] | None = None
    """Of one step, by stage: its products on the GPU, and the further analyses as measured on a processor."""
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The suite's, with the design where there are two."""
        return " ".join(filter(None, (self.suite.name, self.design)))

    @property
    def total_seconds(self) -> float | None:
        """Downloads and analyses overlap: the longer of both."""
        return None if self.compute_seconds is None else max(self.download_seconds, self.compute_seconds)

    @property
    def gpu_seconds(self) -> float | None:
        """Of all steps."""
        return None if self.gpu_stage_seconds is None else self.traffic.analysed * sum(self.gpu_stage_seconds.values())

    @property
    def gpu_total_seconds(self) -> float | None:
        """The same with the products on the GPU."""
        return None if self.gpu_seconds is None else max(self.download_seconds, self.gpu_seconds)


class HubAsker:
    """Asks the Hub for audits until it once cannot be reached, and not again then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.reachable = not hub_is_offline()

    def audit(self, suite: SuiteSpec, steps: Sequence[int]) -> Audit | None:
        """The audit of the steps; None where the Hub cannot be asked. Raises InputError for what else is wrong."""
        if suite.repo is not None and not self.reachable:
            return None
        try:
            return audit_steps(suite, steps)
        except InputError as error:
            if suite.repo is None or error.__cause__ is None or not may_pass(error.__cause__):
                raise
            self.reachable = False
            self.say(f"the Hub cannot be reached, so sizes are estimated ({error})")
            return None


def plan_suite(
    job: Job,
    assumptions: Assumptions,
    hub: HubAsker,
    seconds_of: Callable[[ModelShape, Operations], float] | None,
    say: Callable[[str], None],
) -> SuitePlan:
    """The cost of a job, on this machine.

    seconds_of: how long this machine takes for a model's operations; None where it was not timed. Raises
    InputError where `rtdyn track` would before it starts, and for a suite whose shape cannot be known.
    """
    suite, options = job.suite, job.options
    audit = hub.audit(suite, job.steps)
    left, record = steps_to_run(suite, job.steps, audit, job.on_defect, lambda text: None)
    model, shape_source = _shape(suite, left[-1], hub.reachable)
    weights_only = set(options.analyses) <= set(WEIGHTS_ONLY)
    fetched = traffic(suite, left, audit, model, weights_only)
    sample, domains, read_here = (
        (None, (), True) if weights_only else _samples(suite, left[-1], job.measured_on, hub.reachable, say)
    )
    stages = stage_operations(model, sample, options, domains)
    routing, room = "routing" in options.analyses, assumptions.available_bytes
    earlier = () if weights_only else earlier_layers(options.layers, model.layers)
    texts = () if sample is None else ((sample, routing, earlier), *((domain, False, ()) for domain in domains))
    layered = any(
        runs_by_layers(
            options.stream_layers, model, text, options.memory_bytes, routing=kept, room=room, earlier_layers=own
        )
        for text, kept, own in texts
    )
    further, notes = further_seconds(
        model.neurons, options.analyses, weights_only, len(earlier), threads=assumptions.threads
    )
    if record["passed_over"]:
        notes = (
            *notes,
            f"passed over: {counted(len(record['passed_over']), 'step')}, missing or unsound (`rtdyn audit`)",
        )
    if routing and options.heads_at == "all" and not model.parallel_residual:
        notes = (*notes, "routing takes longer than counted: --heads-at all runs two blocks over each window a head")
    notes = (*notes, *_domain_notes(job.measured_on, domains, read_here))
    if sample is not None and further and job.measured_on.wanted > RARE_TARGETS:
        notes = (*notes, f"further analyses were timed at {RARE_TARGETS} rare targets; with more they take longer")
    seconds = (
        None if seconds_of is None else {stage: seconds_of(model, operations) for stage, operations in stages.items()}
    )
    on_gpu = None
    if assumptions.gpu_tflops is not None:
        there = stage_operations(model, sample, replace(options, device="cuda"), domains)
        products = {stage: _on_gpu(operations, *assumptions.gpu_tflops) for stage, operations in there.items()}
        on_gpu = {stage: seconds for stage, seconds in {**products, **further}.items() if seconds > 0}
    return SuitePlan(
        suite=suite,
        design=job.design,
        shape=model,
        shape_source=shape_source,
        sample=sample,
        traffic=fetched,
        stages=stages,
        stage_seconds=seconds,
        further_seconds=further,
        memory=None if sample is None else _memory(model, sample, domains, options, layered),
        layered=layered,
        cache_bytes=0 if suite.repo is None else min(fetched.bytes, max(int(job.cache_gb * GB), fetched.largest)),
        run_bytes=run_bytes(
            model, fetched.steps, options.analyses, len(domains), len(job.measured_on.bands) + 1, len(earlier)
        ),
        download_seconds=fetched.bytes * 8 / (assumptions.link_mbit * 1e6),
        compute_seconds=None if seconds is None else fetched.analysed * (sum(seconds.values()) + sum(further.values())),
        gpu_stage_seconds=on_gpu,
        notes=notes,
    )


def _on_gpu(operations: Operations, single: float, double: float) -> float:
    """Seconds that the products alone take at so many 10^12 operations a second, float32 and float64."""
    return ((operations.float32 + operations.narrow) / single + operations.float64 / double) / 1e12


def _shape(suite: SuiteSpec, step: int, hub_reachable: bool) -> tuple[ModelShape, str]:
    """The model's shape, and where it is from: published, or of the suites file, or of the user's cache."""
    if suite.shape and suite.repo is not None and not hub_reachable:
        source = f"the shape of {suite.name} in the suites file"
        return model_shape(dict(suite.shape), source), source
    try:
        folder = find_config(suite, step)
    except InputError as error:
        if suite.repo is None or hub_reachable:
            raise
        raise InputError(
            f"the Hub cannot be asked for the shape of {suite.name}; check the network and HF_HUB_OFFLINE, "
            "or give the suite a `shape` in --suites FILE"
        ) from error
    source = f"{suite.location}, {suite.revision_of(step)}"
    return checkpoint_shape(folder, source), source


def _samples(
    suite: SuiteSpec, step: int, options: EvaluationOptions, hub_reachable: bool, say: Callable[[str], None]
) -> tuple[Sample, tuple[Sample, ...], bool]:
    """What the steps are measured on, and each domain: counted where nothing large is fetched for it, else assumed.

    Last, whether the domains are counted.
    """
    sources = (options.corpus or suite.corpus, options.frequencies or suite.frequencies)
    assumed = assumed_sample(options)
    parts = len(PILE_PARTS) if options.domains == PILE else 0
    domains = (assumed,) * (len(options.named_texts) + parts)
    if (suite.repo is not None and not hub_reachable) or any(is_hub(source) for source in sources):
        return assumed, domains, False
    further = [corpus for _, corpus in options.named_texts] + [options.domains or ""]
    if PILE in further or any(is_hub(source) for source in further):
        return sample_of(prepare(suite, step, options, say)), domains, False
    made = prepare_with_domains(suite, step, options, say)
    return sample_of(made), tuple(map(sample_of, made.domains.values())), True


def _domain_notes(options: EvaluationOptions, domains: Sequence[Sample], read_here: bool) -> Iterator[str]:
    """How many further texts are counted, and which are not."""
    if domains:
        yield f"domains counted: {len(domains)} ({'their texts are read here' if read_here else domains[0].assumed})"
    if options.domains not in (None, PILE) and not read_here:
        yield "the parts of --domains are known once its text is read, and are not counted"


def _memory(
    model: ModelShape, sample: Sample, domains: Sequence[Sample], options: StepOptions, layered: bool
) -> Memory:
    """The most that a text takes: of the main one with what routing keeps, or of a domain without it."""
    routing = "routing" in options.analyses
    earlier = earlier_layers(options.layers, model.layers)
    main = memory(model, sample, options.memory_bytes, routing=routing, layered=layered, earlier_layers=earlier)
    others = [memory(model, domain, options.memory_bytes, routing=False, layered=layered) for domain in domains]
    return max([main, *others], key=lambda needed: needed.total)


def assumed_sample(options: EvaluationOptions) -> Sample:
    """As much text as the rare targets take of the Pile, and every class's most positions."""
    wanted = options.tokens or max(MIN_TOKENS, options.wanted * TOKENS_A_RARE_TARGET)
    tokens = int(-(-wanted // options.window)) * options.window
    rare = tokens / TOKENS_A_RARE_TARGET
    positions = round(min(tokens, rare + len(options.bands) * options.positions_per_rare * rare))
    return Sample(tokens, options.window, positions, "text and frequencies are not here yet")


def stage_operations(
    model: ModelShape, sample: Sample | None, options: StepOptions, domains: Sequence[Sample] = ()
) -> dict[str, Operations]:
    """What one step's stages consist of whose work closed forms give; none without a sample, of weights alone."""
    if sample is None:
        return {}
    stages = {
        "load": load_operations(model),
        "capture": capture_operations(model, sample),
        "ablation": ablation_operations(model, sample, options.memory_bytes),
    }
    if domains:
        stages["domains"] = domain_operations(model, domains, options.memory_bytes)
    if layers := earlier_layers(options.layers, model.layers):
        budget = budget_of(options.exact_neurons, model.neurons)
        of_device = replace(model, plain=model.plain and options.device != "cuda")
        stages["layers"] = layer_operations(of_device, sample, layers, options.memory_bytes, budget)
    if "mediation" in options.analyses:
        stages["mediation"] = mediation_operations(model, sample, options.memory_bytes)
        if layers:
            stages[LAYER_MEDIATION] = mediation_operations(model, sample, options.memory_bytes, len(layers))
    return stages


def further_seconds(
    neurons: int, analyses: Sequence[str], weights_only: bool, earlier: int = 0, *, threads: int
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds of each further analysis at this many neurons, by so many threads, and what is to be said of them.

    Between the sizes that were measured, the logarithm is linear in that of the number of neurons; beyond them too.
    Of each analysis a share is divided among threads, and the rest is not (Amdahl 1967).
    weights_only: of heavytail alone, which takes no more than it does with its groups. earlier: layers before the last.
    """
    table = json.loads(FURTHER.read_text(encoding="utf-8"))
    sizes = [int(size) for size in table["neurons"]]
    stages = ["heavytail"] if weights_only else [s for s in table["seconds"] if s in analyses or s == "groups"]
    if not weights_only and not set(analyses) - {"ablation", "regimes"}:
        stages = [s for s in stages if s != "groups"]
    divided = {stage: 1 - share + share / threads for stage, share in table["parallel"].items()}
    seconds = {stage: divided[stage] * _interpolated(neurons, sizes, table["seconds"][stage]) for stage in stages}
    if "regimes" in seconds and earlier:
        seconds[LAYER_CURVES] = earlier * seconds["regimes"]
    of_groups = [seconds[name] for name in GROUPED if name in seconds]
    if of_groups and earlier and not weights_only:
        seconds[LAYER_GROUPS] = earlier * LAYER_GROUPS_SHARE * (seconds["groups"] + sum(of_groups))
    outside = seconds and not sizes[0] <= neurons <= sizes[-1]
    note = f"further analyses were measured from {sizes[0]:,} to {sizes[-1]:,} neurons; {neurons:,} is beyond"
    return seconds, (note,) if outside else ()


def _interpolated(x: float, at: Sequence[int], values: Sequence[float]) -> float:
    """Linear between logarithms, beyond the ends with the slope of the last two."""
    log_at, log_values = np.log(at), np.log(values)
    i = int(np.clip(np.searchsorted(at, x) - 1, 0, len(at) - 2))
    slope = (log_values[i + 1] - log_values[i]) / (log_at[i + 1] - log_at[i])
    return float(np.exp(log_values[i] + slope * (np.log(x) - log_at[i])))
