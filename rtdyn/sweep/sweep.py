"""What every step of a run is analysed with: the same in the process that begins the run and on any other machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rtdyn.analyses.compile_ahead import compile_ahead, when_compiled, with_layers
from rtdyn.analyses.earlier_layers.chosen import LAST, earlier_layers
from rtdyn.analyses.groups.weightwatcher import begin_weightwatcher
from rtdyn.analyses.options import StepOptions
from rtdyn.checkpoints.checkpoint import Checkpoint, read_config
from rtdyn.checkpoints.locate import find_config
from rtdyn.errors import InputError, UsageError
from rtdyn.hub.retry import may_pass
from rtdyn.model.families import may_be_capped
from rtdyn.model.final_mlp import final_mlp
from rtdyn.names import WEIGHTS_ONLY
from rtdyn.store.schema import StepTables
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.manifest import run_config
from rtdyn.sweep.step import analyse_step
from rtdyn.sweep.weights_only import analyse_weights
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.options import EvaluationOptions


@dataclass(frozen=True)
class Sweep:
    """A suite, what its steps are measured on, and how they are analysed."""

    suite: SuiteSpec
    evaluation: Evaluation | None
    """None if the final layer's weights alone are read."""
    model_config: dict[str, Any]
    """The reference step's config.json."""
    config: dict[str, Any]
    """Everything the tables depend on; its digest names the run."""
    options: StepOptions
    tokens_seen: Callable[[int], int | None] | None = None
    """Training tokens seen at a step, of a run that goes on; None where the suite knows all of its steps."""
    with_domains: bool = True
    """Whether the evaluation's domains are measured too."""

    @property
    def weights_only(self) -> bool:
        """Whether only the final MLP's tensors are needed."""
        return self.evaluation is None

    def analyse(self, checkpoint: Checkpoint, stage: Callable[[str], None], parity: bool = False) -> StepTables:
        """One step's tables; `stage` is told what begins. Raises InputError for weights that cannot be used.

        parity: first compare with transformers' own model. Raises ParityError where the two differ.
        """
        if "heavytail" in self.options.analyses:
            begin_weightwatcher()
        compile_ahead(with_layers(self.options), self.options.device, may_be_capped(self.model_config))
        stage = when_compiled(stage)
        seen = (self.tokens_seen or self.suite.tokens_seen)(checkpoint.step)
        if self.evaluation is None:
            return analyse_weights(checkpoint, seen, self.model_config, stage)
        return analyse_step(checkpoint, seen, self.evaluation, self.options, stage, parity, self.with_domains)


def reference_step(suite: SuiteSpec, steps: Sequence[int]) -> int:
    """The step that text and configuration are prepared from: the last of `steps` whose config.json can be used.

    Raises InputError, the last step's, if none can or the network fails.
    """
    refusals: list[InputError] = []
    for step in reversed(steps):
        try:
            read_config(find_config(suite, step))
            return step
        except InputError as error:
            refusals.append(error)
            if error.__cause__ is not None and may_pass(error.__cause__):
                break
    raise refusals[0]


def prepare_sweep(
    suite: SuiteSpec,
    reference: int,
    measured_on: EvaluationOptions,
    options: StepOptions,
    say: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Reads text, counts and the configuration of the step `reference`; the same wherever it is done.

    Raises InputError in one sentence for any source that cannot be used.
    """
    if set(options.analyses) <= set(WEIGHTS_ONLY):
        if measured_on.named_texts or measured_on.domains is not None:
            raise UsageError(f"{', '.join(WEIGHTS_ONLY)} alone reads no text; add ablation to measure domains")
        evaluation, model_config = None, read_config(find_config(suite, reference))
    else:
        evaluation = prepare_with_domains(suite, reference, measured_on, say)
        model_config = evaluation.model_config
    _check_layers(options, model_config, suite.name)
    config = run_config(suite, evaluation, measured_on, options)
    return Sweep(suite, evaluation, model_config, config, options)


def _check_layers(options: StepOptions, model_config: dict[str, Any], where: str) -> None:
    """Raises InputError for layers that the model does not have, UsageError where no analysis would measure them."""
    if options.layers == LAST:
        return
    earlier_layers(options.layers, final_mlp(model_config, where).layer + 1)
    if "ablation" not in options.analyses:
        raise UsageError(f"--layers {options.layers} measures what neurons do to the loss; add ablation to --analyses")


def device_here(asked: str) -> str:
    """`cpu` or `cuda` for this process. Raises InputError for `cuda` where there is none."""
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise InputError("--device cuda: this machine or this PyTorch build has no CUDA device; use --device cpu")
    return ("cuda" if available else "cpu") if asked == "auto" else asked
