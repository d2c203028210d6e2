"""The callback beside a real Trainer: what is analysed and skipped, what W&B gets, and that training never waits."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import wandb
from loopback.wandb import serving
from support.wandb_runs import KEY, rows, sessions, stored_row

import rtdyn
from rtdyn.checkpoints.checkpoint import sha256_of
from rtdyn.errors import UsageError
from rtdyn.integrations.transformers import RtdynCallback
from rtdyn.store.run import read_run
from rtdyn.text.king_james import chapters, held_out_chapters

SAVES = (4, 8, 12, 16, 20)
SMALL: dict[str, Any] = {
    "analyses": "ablation",
    "rare": ["0.3:0.95"],
    "tokens": 1500,
    "window": 32,
    "min_targets": 10,
    "positions_per_rare": 1,
    "tolerance": 0.01,
}


@dataclass
class Watch(transformers.TrainerCallback):
    """Sees each checkpoint as the Trainer left it, and whether the analysis was still going on at the end."""

    watched: RtdynCallback
    digests: dict[int, str] = field(default_factory=dict)
    at_work_at_the_end: bool = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.digests[state.global_step] = sha256_of(folder / "model.safetensors")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.watched.process is not None
        self.at_work_at_the_end = self.watched.process.at_work is not None


def train(output: Path, tokenizer: Any, callback: RtdynCallback, report_to: str, limit: int) -> Watch:
    """Twenty steps of a small GPT-NeoX, five saves."""
    transformers.set_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    ids = torch.tensor(tokenizer("\n".join(chapters()[:40]))["input_ids"][: 32 * 80]).view(80, 32)
    watch = Watch(callback)
    trainer = transformers.Trainer(
        transformers.GPTNeoXForCausalLM(config),
        transformers.TrainingArguments(
            output_dir=str(output), max_steps=20, save_steps=4, save_total_limit=limit, logging_steps=4,
            per_device_train_batch_size=4, learning_rate=1e-2, report_to=report_to, use_cpu=True, disable_tqdm=True,
            include_num_input_tokens_seen="all",
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        data_collator=transformers.default_data_collator,
        processing_class=tokenizer,
        callbacks=[watch, callback],
    )  # fmt: skip
    trainer.train()
    return watch


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(tiny_folder))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("\n".join(held_out_chapters()))
    return tmp_path / "text.txt"


@pytest.mark.slow
def test_steps_are_analysed_beside_the_training_and_go_into_its_own_wandb_run(
    tmp_path: Path, text: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    callback = RtdynCallback(tmp_path / "out", corpus=str(text), **SMALL)
    with caplog.at_level(logging.INFO, "rtdyn.integrations"):
        watch = train(tmp_path / "trained", tokenizer, callback, "wandb", limit=1)
    wandb.finish()
    assert watch.at_work_at_the_end  # so the training did not wait
    assert [p.name for p in (tmp_path / "trained").glob("checkpoint-*")] == ["checkpoint-20"]
    run = rtdyn.open_run(tmp_path / "out")
    skipped = {r.args[0] for r in caplog.records if "is skipped" in r.msg}
    assert set(run.steps) | skipped == set(SAVES) and not set(run.steps) & skipped
    assert {4, 20} <= set(run.steps) and skipped  # the first was deleted while it was analysed, or before
    checkpoints = run.manifest.checkpoints
    assert {s: c.digests for s, c in checkpoints.items()} == {
        s: {"model.safetensors": watch.digests[s]} for s in run.steps
    }
    assert {s: c.revision for s, c in checkpoints.items()} == {s: f"checkpoint-{s}" for s in run.steps}
    assert run.manifest.suite == "trained" and run.manifest.location == str((tmp_path / "trained").resolve())
    assert run.metrics.select("step", "tokens_seen").unique().sort("step").collect().rows() == [
        (step, 128 * step) for step in run.steps
    ]
    assert list(tmp_path.glob(".out.arrived-*")) == []
    (session,) = sessions(tmp_path / "logs")
    logged = [row for row in rows(session) if "rtdyn/step" in row]
    assert [row["rtdyn/step"] for row in logged] == list(run.steps)
    for row in logged:
        own = {k.removeprefix("rtdyn/"): v for k, v in row.items() if k.startswith("rtdyn/")}
        assert own == stored_row(read_run(tmp_path / "out"), row["rtdyn/step"])
    assert any("train/loss" in row for row in rows(session))
    axes = {m.glob_name or m.name: m.step_metric for r in session if r.HasField("metric") for m in [r.metric]}
    assert {axes[key] for key in logged[0] if key.startswith("rtdyn/") and key != "rtdyn/step"} == {"rtdyn/step"}
    # the folder that is left is tracked into the same run: name, place, revisions and settings are one configuration
    again = rtdyn.track(tmp_path / "trained", out=tmp_path / "out", wandb="disabled", corpus=str(text), **SMALL)
    assert again.steps == run.steps and again.manifest.config_digest == run.manifest.config_digest


@pytest.mark.slow
def test_the_servers_axes_are_steps_of_rtdyn_under_a_pattern_of_the_trainers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps a metric's axis as the place, from 1, of another; the Trainer has `*` over its own step."""
    wandb.teardown()
    with serving() as server:
        client = {"MODE": "online", "BASE_URL": server.url, "API_KEY": KEY, "SILENT": "true", "DIR": str(tmp_path)}
        for name, value in client.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        with wandb.init(project="mine", id="training", settings=wandb.Settings(x_disable_stats=True)) as run:
            run.define_metric("train/global_step")
            run.define_metric("*", step_metric="train/global_step", step_sync=True)
            callback = RtdynCallback(tmp_path / "out")
            for step in (4, 8):
                run.log({"train/loss": 1.0, "train/global_step": step + 1})
                callback._log(run, {"step": step, "capture/loss/rare": 2.0, "band/capture/loss/rare/ci_low": 1.9})
        wandb.teardown()
    recorded = json.loads(server.runs["training"]["config"])["_wandb"]["value"]["m"]
    names = [metric.get("1", metric.get("2")) for metric in recorded]
    axes = {name: names[metric["5"] - 1] for name, metric in zip(names, recorded, strict=True) if "5" in metric}
    assert axes == {
        "*": "train/global_step",
        "rtdyn/capture/loss/rare": "rtdyn/step",
        "rtdyn/band/capture/loss/rare/ci_low": "rtdyn/step",
    }
    sent = [row for row in server.rows.values() if "rtdyn/step" in row]
    assert [(row["rtdyn/step"], row["rtdyn/capture/loss/rare"]) for row in sent] == [(4, 2.0), (8, 2.0)]


@pytest.mark.slow
def test_what_fails_is_said_and_the_training_goes_on(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = RtdynCallback(corpus=str(tmp_path / "none.txt"), **SMALL)
    train(tmp_path / "trained", tokenizer, callback, "none", limit=2)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("rtdyn")]
    assert any("the analysis has ended: the corpus" in line and "not there" in line for line in said)
    assert any("step 20 is not analysed, as the analysis has ended" in line for line in said)
    assert {p.name for p in (tmp_path / "trained").iterdir()} == {"checkpoint-16", "checkpoint-20"}


def test_options_are_refused_before_the_training() -> None:
    with pytest.raises(UsageError, match="'--window': 3 is not in the range"):
        RtdynCallback(window=3)
    with pytest.raises(TypeError, match="no option 'executor'"):
        RtdynCallback(executor="slurm")
