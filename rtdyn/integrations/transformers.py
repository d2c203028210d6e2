"""A callback for transformers' Trainer: each checkpoint is analysed beside the training, as it is saved."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rtdyn.analyses.options import StepOptions
from rtdyn.api.keywords import parsed, refuse_others, takes_options
from rtdyn.api.track import TRACK
from rtdyn.checkpoints.arriving import arrivals_folder, link_step, step_link
from rtdyn.cli_jobs import evaluation_options, filled
from rtdyn.cli_presets import check_one_design
from rtdyn.errors import InputError
from rtdyn.hub.names import TOKENIZER_FILES
from rtdyn.integrations.worker import Assignment
from rtdyn.integrations.worker_process import FAILED, FINISHED, LOST, OVERTAKEN, SAID, WorkerProcess
from rtdyn.parquet import read_parquet
from rtdyn.store.run import read_run, step_record, table_file
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.views.wandb.rows import BAND, scalars

PREFIX = "rtdyn"
"""What the keys in the training's W&B run begin with."""
_TEXT = (
    "corpus",
    "domains",
    "text_field",
    "text_where",
    "documents",
    "frequencies",
    "frequency_tokens",
    "rare",
    "tokens",
    "window",
    "bos",
    "class_by",
)
_ANALYSES = (
    "analyses",
    "preset",
    "mean_over",
    "rank_by",
    "heads_to",
    "heads_at",
    "unigram",
    "layers",
    "exact_neurons",
    "min_targets",
)
_OPTIONS = (
    *_TEXT,
    *_ANALYSES,
    "rare_targets",
    "positions_per_rare",
    "tolerance",
    "memory_gib",
    "stream_layers",
    "seed",
)
_LOG = logging.getLogger(__name__)


class RtdynCallback(TrainerCallback):
    """Analyses every checkpoint that a Trainer saves, in a process of its own, while the training goes on."""

    @takes_options(TRACK, _OPTIONS)
    def __init__(
        self,
        out: str | Path | None = None,
        *,
        tokenizer: Any = None,
        tokens_per_step: int | None = None,
        device: str = "cpu",
        wandb: bool = True,
        **options: Any,
    ) -> None:
        """Checks the options; nothing begins before the first checkpoint.

        out:
            The run directory. None: `rtdyn` in the Trainer's output folder.
        tokenizer:
            The model's tokenizer. None: the Trainer's `processing_class`, which it saves beside the weights.
        tokens_per_step:
            Training tokens of one optimiser step, for the tables' `tokens_seen`. None: what the Trainer counts, if it
            does.
        device:
            Where the analysis runs: `cpu`, `cuda`, or `auto`.
        wandb:
            Whether the numbers also go into the training's own W&B run, if it has one, under `rtdyn/`.

        The training never waits for an analysis, but at its end for the last ones. While a step is analysed the newest
        one waits. A step that a newer one overtakes is skipped, and a warning says so. `rtdyn track` analyses it later,
        if its folder is still there.

        A step's files are linked when it is saved, so that `save_total_limit` may delete it before or during its
        analysis. What goes wrong is a warning and never ends the training.

        Raises rtdyn.errors.UsageError for options that the command would refuse.

            callback = RtdynCallback(corpus="held_out.txt", analyses="ablation,regimes")
            trainer = Trainer(model, args, train_dataset=data, processing_class=tokenizer, callbacks=[callback])
        """
        given = {**options, "device": device, "model": ["the Trainer's"], "wandb": "disabled"}
        refuse_others(options, _OPTIONS)
        with parsed(TRACK, given) as (params, _):
            check_one_design("the callback makes one")
            self.measured_on, self.options = evaluation_options(params), filled(StepOptions, params)
        self.out = None if out is None else Path(out).absolute()
        self.tokenizer, self.tokens_per_step, self.wandb = tokenizer, tokens_per_step, wandb
        self.process: WorkerProcess | None = None
        self.defined: set[str] = set()
        """Names that the W&B run has an axis for."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hands the checkpoint over that was saved just now."""
        if not state.is_world_process_zero:
            return
        step, output = state.global_step, Path(args.output_dir).absolute()
        try:
            if self.process is None:
                self.process = self._start(output)
            folder = self.process.assignment.folder
            tokenizer = self._tokenizer_folder(output, folder, kwargs.get("processing_class"))
            link_step(output / f"checkpoint-{step}", tokenizer, step_link(folder, step), copy=False)
        except (OSError, InputError) as error:
            _LOG.warning("rtdyn: step %d is not analysed: %s", step, error)
        else:
            self.process.give(step, state.num_input_tokens_seen or None)  # 0 where the Trainer was not to count
        self._report()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Passes on what the process has said since."""
        self._report()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the steps that were handed over."""
        if self.process is not None:
            self.process.finish()
            self._report()
            self.process = None

    def _start(self, output: Path) -> WorkerProcess:
        if self.out is None:
            self.out = output / "rtdyn"
        counts = next((n for n in ("token_counts.npy", "token_counts.parquet") if (output / n).is_file()), "corpus")
        suite = SuiteSpec(
            name=output.resolve().name,
            steps=(),
            revision="checkpoint-{step}",
            path=output.resolve(),
            repo=None,
            tokens_per_step=self.tokens_per_step,
            family=None,
            corpus="king-james",
            frequencies=counts,
            note="a folder of checkpoints",
            defects=(),
        )
        job = Job(suite, (), self.measured_on, self.options, out=self.out, wandb="disabled")
        return WorkerProcess(Assignment(job, suite, arrivals_folder(self.out)))

    def _tokenizer_folder(self, output: Path, folder: Path, processing_class: Any) -> Path:
        """Where the tokenizer of checkpoints without one lies: in the output folder, or it is saved here."""
        tokenizer = self.tokenizer if self.tokenizer is not None else processing_class
        if tokenizer is None or any((output / name).is_file() for name in TOKENIZER_FILES):
            return output
        saved = folder / "tokenizer"
        if not saved.is_dir():
            tokenizer.save_pretrained(saved)
        return saved

    def _report(self) -> None:
        """Logs what is new, and sends the numbers of finished steps to the training's W&B run."""
        for kind, what in () if self.process is None else self.process.told():
            if kind == FINISHED:
                self._finished(what)
            elif kind == SAID:
                _LOG.info("rtdyn: %s", what)
            elif kind == OVERTAKEN:
                _LOG.warning("rtdyn: step %d is skipped, as the analysis is behind the training", what)
            elif kind == LOST:
                _LOG.warning("rtdyn: step %d is not analysed, as the analysis has ended", what)
            elif kind == FAILED:
                _LOG.warning("rtdyn: the analysis has ended: %s", what)

    def _finished(self, step: int) -> None:
        assert self.out is not None
        try:
            run = read_run(self.out)
            if step_record(run, step) is None:
                _LOG.warning("rtdyn: step %d could not be analysed", step)
                return
            row = scalars(read_parquet(table_file(run, "metrics", step)))
        except (OSError, InputError) as error:
            _LOG.warning("rtdyn: the tables of step %d cannot be read: %s", step, error)
            return
        client = sys.modules.get("wandb")
        if self.wandb and client is not None and client.run is not None:
            self._log(client.run, row)

    def _log(self, run: Any, row: dict[str, float]) -> None:
        # each by its name: the Trainer's own callback has `*` for another axis, and a name goes before a pattern
        for name in row.keys() - self.defined:
            axis = None if name == "step" else f"{PREFIX}/step"
            hidden = name == "step" or name.startswith(f"{BAND}/")
            run.define_metric(f"{PREFIX}/{name}", step_metric=axis, hidden=hidden)
        self.defined.update(row)
        run.log({f"{PREFIX}/{name}": value for name, value in row.items()})
