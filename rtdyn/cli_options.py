"""The options that several commands share: which suites, measured on what, analysed how and where."""

from __future__ import annotations

import math
from typing import Any

import click

from rtdyn.analyses.earlier_layers.chosen import normal_layers
from rtdyn.analyses.options import HEADS_AT, HEADS_TO, UNIGRAM, StepOptions
from rtdyn.cli_command import Command, all_of, in_panel
from rtdyn.cli_complete import complete_analyses
from rtdyn.cli_config import config_option
from rtdyn.cli_presets import PRESET
from rtdyn.cli_sources import SOURCES
from rtdyn.cli_suites import steps_option
from rtdyn.names import ANALYSES, WEIGHTS_ONLY
from rtdyn.sweep.job import Job
from rtdyn.text.options import EvaluationOptions


class FiniteRange(click.FloatRange):
    """A range of finite numbers: click's own lets nan and inf pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, of which nan and inf are refused."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class _Device(click.Choice[str]):
    """Devices; one that cannot be used is refused with its reason."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The device."""
        if str(value).lower() == "mps":
            self.fail("mps has no float64, which influence is summed in; use cpu", param, ctx)
        return super().convert(value, param, ctx)


def listed(value: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in value.split(",")))


def _chosen_analyses(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = ANALYSES if value == "all" else listed(value)
    unknown = [name for name in names if name not in ANALYSES]
    if unknown:
        raise click.BadParameter(f"no analysis is called {unknown[0]!r}; there are {', '.join(ANALYSES)}")
    if "ablation" not in names and set(names) - set(WEIGHTS_ONLY):
        raise click.BadParameter(
            f"all but {', '.join(WEIGHTS_ONLY)} alone start from the influence of the neurons; add ablation"
        )
    return tuple(name for name in ANALYSES if name in names)


def _normal_layers(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return normal_layers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_ANALYSES = in_panel(
    "Analyses",
    click.option(
        "--analyses",
        default="all",
        show_default=True,
        callback=_chosen_analyses,
        shell_complete=complete_analyses,
        help=f"all, or some of {', '.join(ANALYSES)}, with commas. All need ablation; only heavytail by itself does "
        "not, and reads the final layer's weights and no text.",
    ),
)
"""Which analyses."""

_CLASSES = in_panel(
    "Classes",
    click.option(
        "--rare",
        "bands",
        multiple=True,
        default=EvaluationOptions.bands,
        show_default=True,
        help="Band of frequency ranks. paper-text is the last 15 % of those that are counted, paper-code all after the "
        "first 15 %. N% is the last N %, LOW:HIGH or LOW:elbow are fractions, and NAME= before one names it. The first "
        "is `rare`; repeat for more, or give `sweep` for 15, 5, 10, 20, 30 and 50%.",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(min=1),
        help="Evaluation tokens, in place of --rare-targets.",
    ),
    click.option(
        "--rare-targets",
        type=click.IntRange(min=1),
        help="Rare targets to measure: as much text as holds them, at least 8192 tokens.  [default: 200]",
    ),
    click.option(
        "--window",
        type=click.IntRange(min=8),
        default=EvaluationOptions.window,
        show_default=True,
        help="Tokens a window.",
    ),
    click.option(
        "--bos",
        type=click.Choice(["prepend", "none"]),
        default=EvaluationOptions.bos,
        show_default=True,
        help="Whether each window begins with BOS.",
    ),
    click.option(
        "--class-by",
        type=click.Choice(["target", "query"]),
        default=EvaluationOptions.class_by,
        show_default=True,
        help="Whose token decides a position's class.",
    ),
    click.option(
        "--min-targets",
        type=click.IntRange(min=2),
        default=EvaluationOptions.min_targets,
        show_default=True,
        help="Fewest positions a class may have.",
    ),
    click.option(
        "--positions-per-rare",
        type=FiniteRange(min=1),
        default=EvaluationOptions.positions_per_rare,
        show_default=True,
        help="Positions measured of other classes, as a multiple of the rare ones.",
    ),
)
"""Which classes, and at which positions."""

_MEASUREMENT = in_panel(
    "Analyses",
    click.option(
        "--mean-over",
        type=click.Choice(["kept", "all"]),
        default=StepOptions.mean_over,
        show_default=True,
        help="Positions that the ablation's mean activation is taken over.",
    ),
    click.option(
        "--rank-by",
        type=click.Choice(["mean_abs", "abs_mean"]),
        default=StepOptions.rank_by,
        show_default=True,
        help="Influence that ranks neurons: mean |Δ| or |mean Δ|.",
    ),
    click.option(
        "--heads-to",
        type=click.Choice(HEADS_TO),
        default=StepOptions.heads_to,
        show_default=True,
        help="What an ablated head's output becomes: zero, or that of attention on the window's first token alone.",
    ),
    click.option(
        "--heads-at",
        type=click.Choice(HEADS_AT),
        default=StepOptions.heads_at,
        show_default=True,
        help="Where heads are ablated: at the measured position alone, or at every position of its window.",
    ),
    click.option(
        "--unigram",
        type=click.Choice(UNIGRAM),
        default=StepOptions.unigram,
        show_default=True,
        help="Unigram direction that mediation freezes: of all types, or of the rare band's alone.",
    ),
)
"""What is measured of a neuron, and how."""

_LAYERS = in_panel(
    "Analyses",
    click.option(
        "--layers",
        default=StepOptions.layers,
        show_default=True,
        callback=_normal_layers,
        help="Layers whose MLP neurons are measured: last, all, or numbers from the end with commas, as in -1,-2. The "
        "last is always among them; of the others the total effect on the loss, with its error, and their groups.",
    ),
    click.option(
        "--exact-neurons",
        type=click.IntRange(min=1),
        default=StepOptions.exact_neurons,
        show_default=True,
        help="Neurons of each earlier layer that are drawn at random and run again on all windows. They calibrate all "
        "others. As many of the most influential run again too, or 1 % of the layer. The cost grows with it.",
    ),
)
"""Of which layers."""

_COMPUTATION = in_panel(
    "Analyses",
    click.option(
        "--tolerance",
        type=FiniteRange(min=0),
        default=StepOptions.tolerance,
        show_default=True,
        help="Error a neuron's class mean may carry, in nats; 0 evaluates every pair exactly.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random draw."),
)
"""How exactly, and by which draws."""

_MEMORY = in_panel(
    "Memory",
    click.option(
        "--memory-gib",
        type=FiniteRange(min=0.0625),
        default=StepOptions.memory_gib,
        show_default=True,
        help="Memory for the ablation's blocks, beside the model and what is captured.",
    ),
    click.option(
        "--cache-gb",
        type=FiniteRange(min=0),
        default=Job.cache_gb,
        show_default=True,
        help="Disk for checkpoints from the Hub that wait for their analysis, in 10^9 bytes; never less than one.",
    ),
    click.option(
        "--stream-layers",
        type=click.Choice(["auto", "always", "never"]),
        default=StepOptions.stream_layers,
        show_default=True,
        help="Run the model one layer at a time; auto: where it does not fit in memory.",
    ),
    click.option(
        "--device",
        type=_Device(["auto", "cpu", "cuda"]),
        default=StepOptions.device,
        show_default=True,
        help="Where a step is computed; auto: on CUDA where there is one. Apple's mps has no float64 and is refused.",
    ),
)
"""With how much of the machine."""

_DEFECTS = in_panel(
    "Input",
    click.option(
        "--on-defect",
        type=click.Choice(["mark", "skip", "fail"]),
        default=Job.on_defect,
        show_default=True,
        help="What to do with unsound steps: keep them out of trajectories, leave them out, or refuse to start.",
    ),
)
"""Which steps of the suite count."""


def analysis_options(command: Command) -> Command:
    """Adds --steps, what decides a step's tables, and how they are computed."""
    own = (*SOURCES, *_DEFECTS, *PRESET, *_CLASSES, *_ANALYSES, *_MEASUREMENT, *_LAYERS, *_COMPUTATION, *_MEMORY)
    return all_of((*in_panel("Input", config_option, steps_option), *own), command)
