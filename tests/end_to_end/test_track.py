"""The main job through the command line, as a user types it: runs, resumes, kills, interruptions, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from support.hang import HANG
from support.processes import Process, run_python
from support.tracking import CHEAP, PLAIN, SMALL, broken_suite, folder_suite, refused, rtdyn, same_tables, truncate
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from rtdyn.model import families
from rtdyn.names import ANALYSES
from rtdyn.store.definitions import COLUMNS, METRICS, define
from rtdyn.store.run import done_steps, read_run, read_table
from rtdyn.store.schema import TABLES
from rtdyn.sweep import step as stepping
from rtdyn.text.king_james import held_out_chapters

BASELINE = Path(__file__).parents[1] / "baselines" / "tiny.json"
OF_BASELINE = ("--tokens", "20000", "--min-targets", "40", "--wandb", "disabled")
"""The options that BASELINE was made with: all analyses, on text enough for nearly all of their numbers."""


@pytest.fixture(scope="module")
def whole(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of four steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = rtdyn("track", "--model", "tiny", "--steps", "0,64,1000,4000", "--out", out, *CHEAP)
    assert result.exit_code == 0, result.stderr
    assert "step 4000" in result.stdout and str(out) in result.stdout.replace("\n", "")
    return out


@pytest.fixture(scope="module")
def plain(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one analysis, which runs that are broken off must equal."""
    out = tmp_path_factory.mktemp("plain") / "run"
    result = rtdyn("track", "--model", "tiny", "--steps", "0,64,1000,4000", "--out", out, *PLAIN)
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def complete(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All analyses at an early, a middle and a late step."""
    out = tmp_path_factory.mktemp("complete") / "run"
    result = rtdyn("track", "--model", "tiny", "--steps", "0,512,4000", *OF_BASELINE, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out


def test_the_run_directory_holds_what_the_design_says(whole: Path) -> None:
    run = read_run(whole)
    assert list(done_steps(run)) == [0, 64, 1000, 4000]
    assert sorted(p.name for p in whole.iterdir() if not p.name.startswith(".")) == sorted(
        ["log.jsonl", "manifest.json", "run.yaml", *TABLES]
    )
    manifest = run.manifest
    assert set(manifest.checkpoints) == {0, 64, 1000, 4000}
    assert all(len(c.digests["model.safetensors"]) == 64 for c in manifest.checkpoints.values())
    assert manifest.config["rare"] == ["0.65:0.95"] and manifest.config["seed"] == 0
    assert manifest.classes["rare"].measured == manifest.classes["rare"].positions >= 50
    assert {"rtdyn", "torch", "transformers"} <= set(manifest.versions)

    neurons = read_table(run, "neurons")
    assert len(neurons) == 4 * 512
    wanted = {"layer", "neuron", "rank", "regime", "stable_share", "mean_activation", "norm", "rank_common"}
    wanted |= {f"{x}_{c}" for x in ("delta", "mean_abs", "se", "error_bound", "sign") for c in ("rare", "common")}
    assert wanted <= set(neurons.columns)
    last = neurons.filter(pl.col("step") == 4000)
    assert sorted(last["rank"]) == list(range(1, 513))
    assert last.sort("rank")["mean_abs_rare"].is_sorted(descending=True)
    assert (last["error_bound_rare"] <= 1e-5).all()

    windows = read_table(run, "windows").filter(pl.col("step") == 4000)
    sums = windows.filter((pl.col("kind") == "window") & (pl.col("token_class") == "rare")).group_by("neuron")
    rebuilt = sums.agg((pl.col("sum_abs_delta").sum() / pl.col("n").sum()).alias("mean_abs")).join(last, on="neuron")
    assert len(rebuilt) >= 32
    assert ((rebuilt["mean_abs"] - rebuilt["mean_abs_rare"]).abs() < 1e-12).all()
    assert windows.filter(pl.col("kind") == "decile")["index"].n_unique() == 10

    metrics = read_table(run, "metrics")
    raised = dict(metrics.filter(metric="raised", token_class="rare").select("step", "value").iter_rows())
    tops = neurons.filter(pl.col("regime").str.ends_with("top")).select("step", "regime").unique()
    assert dict(tops.iter_rows()) == {s: "raised top" if up else "flattening top" for s, up in raised.items()}
    undefined = metrics.filter(pl.col("status") == "undefined")
    assert undefined["value"].is_null().all() and undefined["reason"].str.len_chars().min() > 5
    defined = metrics.filter(pl.col("status") != "undefined")
    assert set(defined["status"]) <= {"ok", "at_edge"}
    assert defined["value"].is_finite().all() and defined["reason"].is_null().all()
    assert metrics["tokens_seen"].unique().sort().to_list() == [s * 4096 for s in (0, 64, 1000, 4000)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_whole_suite_on_other_families(family: str, tmp_path: Path, tiny_folder: Path) -> None:
    """Sequential residuals, gated MLPs, grouped queries: all analyses, none crashing."""
    suite = tmp_path / "suite"
    names = {"vocab_size": 2560, "bos_token_id": 0, "eos_token_id": 0}
    shape = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = (
        GPT2Config(n_embd=32, n_inner=96, n_layer=2, n_head=4, n_positions=64, **names)
        if family == "gpt2"
        else AutoConfig.for_model(family, num_key_value_heads=2, max_position_embeddings=64, **shape, **names)
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(suite / "step0")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, suite)
    inputs = ("--corpus", "king-james-held-out", "--frequencies", tiny_folder / "token_counts.npy", "--window", "64")
    out = tmp_path / "run"
    result = rtdyn("track", "--model", suite, "--steps", "0", "--out", out, *SMALL, *inputs)
    assert result.exit_code == 0, result.stderr
    metrics = read_table(read_run(out), "metrics")
    assert set(metrics["analysis"]) >= set(ANALYSES)
    assert all(define(metric, METRICS[of]) for of, metric in metrics.select("analysis", "metric").unique().iter_rows())
    # a sequential block's own attention reaches its MLP, a parallel one's cannot
    effects = metrics.filter(analysis="routing", metric="layer_effect", group="top", layer=1)
    assert len(effects) and (effects["status"] == "ok").all()
    alpha = metrics.filter(analysis="heavytail", group="top").filter(
        pl.col("metric").str.starts_with("hill_alpha_half")
    )
    assert alpha["metric"].n_unique() == (1 if family == "gpt2" else 2)


def test_the_bundled_suite_gives_the_committed_numbers(complete: Path) -> None:
    result = rtdyn("check", complete, "--baseline", BASELINE, "--show", "0")
    assert result.exit_code == 0, result.stdout


def test_every_column_that_it_stores_is_defined(complete: Path) -> None:
    for table in TABLES:
        for column in read_table(read_run(complete), table).columns:
            assert define(column, COLUMNS[table], ("rare", "common")), f"{table}/{column}"


@pytest.mark.parametrize("page", ["README.md", "docs/guide/results.md"])
def test_the_notebooks_of_the_docs_run(complete: Path, page: str) -> None:
    (notebook,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / page).read_text(), re.DOTALL)
    assert "runs/tiny-…" in notebook
    names: dict[str, Any] = {}
    exec(notebook.replace("runs/tiny-…", str(complete)), names)
    assert names["run"].steps == (0, 512, 4000)


def test_the_example_runs_cell_by_cell(complete: Path) -> None:
    notebook = json.loads((Path(__file__).parents[2] / "examples/first_look.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells[0].startswith("!rtdyn track ")
    names: dict[str, Any] = {}
    for cell in cells[1:]:
        exec(cell.replace("runs/first-look", str(complete)), names)
    assert len(names["losses"]) == 9


def test_learning_shows(whole: Path) -> None:
    loss = read_table(read_run(whole), "metrics").filter(
        (pl.col("metric") == "loss") & (pl.col("token_class") == "all")
    )
    assert loss["value"].is_sorted(descending=True)
    assert loss["value"][0] > 7.7 and loss["value"][-1] < 3.7
    assert (loss["ci_low"] < loss["value"]).all() and (loss["value"] < loss["ci_high"]).all()


def test_the_same_command_again_does_nothing_and_changes_nothing(whole: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.parquet")}
    result = rtdyn("track", "--model", "tiny", "--steps", "0,64,1000,4000", "--out", whole, *CHEAP)
    assert result.exit_code == 0 and "4 of 4 steps are stored already" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*.parquet")} == before


def test_two_parts_equal_the_whole(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    for steps in ("1000,0", "all"):
        if steps == "all":
            steps = "0,64,1000,4000"
        assert rtdyn("track", "--model", "tiny", "--steps", steps, "--out", out, *CHEAP).exit_code == 0
    same_tables(whole, out)


def test_killed_at_any_moment_it_resumes_to_the_same_tables(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    arguments = ("-m", "rtdyn.cli", "track", "--model", "tiny", "--steps", "0,64,1000,4000", "--out", out, *PLAIN)
    kept: list[int] = []
    for extra_steps, delay in ((0, 0.05), (1, 0.4)):
        process = Process(arguments)
        wanted = len(kept) + extra_steps
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(out.glob("windows/step=*.parquet"))) >= wanted and out.exists():
                break
            time.sleep(0.02)
        time.sleep(delay)
        process.kill()
        process.communicate()
        now = list(done_steps(read_run(out))) if (out / "manifest.json").exists() else []
        assert now[: len(kept)] == kept and len(now) >= wanted
        kept = now
    final = run_python(arguments, timeout=HANG)
    assert final.returncode == 0, final.stderr
    same_tables(plain, out)
    assert not list(out.rglob("*.aside"))


def test_ctrl_c_ends_with_130_and_can_be_resumed(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    arguments = ("-m", "rtdyn.cli", "track", "--model", "tiny", "--steps", "0,64,1000,4000", "--out", out, *PLAIN)
    process = Process(arguments)
    while process.poll() is None and not list(out.glob("windows/step=*.parquet")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert "interrupted" in stderr and "same command" in stderr
    assert run_python(arguments, timeout=HANG).returncode == 0
    same_tables(plain, out)


def test_another_configuration_in_the_same_place_is_refused(whole: Path) -> None:
    before = (whole / "manifest.json").read_bytes()
    result = rtdyn("track", "--model", "tiny", "--steps", "last", "--out", whole, *CHEAP, "--seed", "7")
    refused(result, 3, "other settings", "seed 0 → 7", "--out")
    assert (whole / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_the_default_place_names_model_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = rtdyn("track", "--model", "tiny", "--steps", "last", *CHEAP)
        assert result.exit_code == 0, result.stderr
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 1
    assert runs[0].name == f"tiny-{read_run(runs[0]).digest[:8]}"


def test_a_folder_of_steps_gives_the_bundled_numbers(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine"
    suite.mkdir()
    for name in ("step0", "step4000", "tokenizer.json", "tokenizer_config.json"):
        (suite / name).symlink_to(tiny_folder / name)
    counts = tiny_folder / "token_counts.npy"
    corpus = tmp_path / "held-out.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": t}) for t in held_out_chapters()))
    out = tmp_path / "run"
    result = rtdyn("track", "--model", suite, "--out", out, *CHEAP, "--corpus", corpus, "--frequencies", counts)
    assert result.exit_code == 0, result.stderr
    ours, theirs = (read_table(read_run(p), "neurons").filter(pl.col("step") == 4000) for p in (out, whole))
    assert ours.equals(theirs)


@pytest.mark.slow
def test_duplicate_weights_are_said_and_recorded(tiny_folder: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine"
    suite.mkdir()
    for name, source in (("step0", "step0"), ("step10", "step4000"), ("step20", "step4000")):
        (suite / name).symlink_to(tiny_folder / source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (suite / name).symlink_to(tiny_folder / name)
    out = tmp_path / "run"
    counts = tiny_folder / "token_counts.npy"
    result = rtdyn("track", "--model", suite, "--out", out, *CHEAP, "--frequencies", counts)
    assert result.exit_code == 0, result.stderr
    assert "step 10 is kept in the tables and left out of trajectories" in result.stdout
    assert read_run(out).manifest.left_out == {10: "it holds the same weights as step 20"}


@pytest.mark.slow
def test_changed_weights_are_not_taken_for_the_stored_ones(tiny_folder: Path, tmp_path: Path) -> None:
    suite, out = broken_suite(tiny_folder, tmp_path), tmp_path / "run"
    arguments = ("track", "--model", suite, "--out", out, *CHEAP)
    assert rtdyn(*arguments).exit_code == 0
    (suite / "step0" / "model.safetensors").touch()
    assert rtdyn(*arguments).exit_code == 0
    changed = Path(shutil.copy(tiny_folder / "step512" / "model.safetensors", suite / "step0"))
    os.utime(changed, (0, 0))  # as a copy keeps the time of what it was copied from
    refused(rtdyn(*arguments), 3, "is not what step 0", "--out")
    other = tmp_path / "other" / "suite"
    other.parent.mkdir()
    suite.rename(other)
    refused(rtdyn("track", "--model", other, "--out", out, *CHEAP), 3, "location")


@pytest.mark.slow
def test_further_bands_and_presets(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = rtdyn(
        "track", "--model", "tiny", "--steps", "last", "--out", out, "--wandb", "disabled", "--tokens", "16384",
        "--rare", "paper-text", "--rare", "paper-code", "--rare", "mid=0.3:0.6", "--class-by", "target",
        "--mean-over", "all", "--rank-by", "abs_mean", "--bos", "none", "--positions-per-rare", "1",
        "--analyses", "ablation,regimes,dimensionality",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    neurons = read_table(read_run(out), "neurons")
    for name in ("rare", "paper_code", "mid", "common"):
        assert f"delta_{name}" in neurons.columns
    assert neurons.sort("rank")["delta_rare"].abs().is_sorted(descending=True)
    fixed = read_table(read_run(out), "metrics").filter(pl.col("metric") == "paper_code_r1")
    assert set(fixed["value"].drop_nulls()) == {33.0}


def test_the_whole_suite_runs_twice_to_the_same_tables_and_its_claims_are_judged(
    complete: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    result = rtdyn("track", "--model", "tiny", "--steps", "512", *OF_BASELINE, "--out", again)
    assert result.exit_code == 0, result.stderr
    for table in TABLES:
        first, second = (read_table(read_run(out), table).filter(step=512) for out in (complete, again))
        assert first.equals(second) and len(first), table
    metrics = read_table(read_run(complete), "metrics")
    assert {"capture", "groups", *ANALYSES} == set(metrics["analysis"])
    assert metrics.filter(pl.col("value").is_nan() | pl.col("p_value").is_nan()).is_empty()
    for name in ("d_eff", "q_excess", "segregation_q", "hill_alpha_half", "layer_effect", "mediation"):
        of_top = metrics.filter((pl.col("metric") == name) & (pl.col("group") == "top") & pl.col("value").is_not_null())
        assert set(of_top["null"]) >= {"random", "matched", "selected"}, name
        assert of_top.filter(pl.col("null") == "matched")["p_value"].is_between(0, 1).all(), name
    structural = metrics.filter(
        (pl.col("metric") == "layer_effect") & (pl.col("layer") == 2) & (pl.col("group") == "top")
    )
    assert structural["reason"].str.starts_with("structural").all() and structural["value"].is_null().all()
    claims = rtdyn("claims", complete, "--json")
    assert claims.exit_code == 0, claims.stderr
    rows = json.loads(claims.stdout)
    assert {row["verdict"] for row in rows} <= {"supported", "contradicted", "undetermined"} and len(rows) >= 12
    assert all(row["reason"] for row in rows if row["verdict"] != "supported")
    assert pl.read_parquet(complete / "claims.parquet").height >= len(rows)
    stages = [json.loads(line)["seconds"] for line in (complete / "log.jsonl").read_text().splitlines()]
    assert len(stages) == 3 and all(set(ANALYSES) <= set(one) for one in stages)


@pytest.mark.slow
def test_influence_without_the_fit(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = rtdyn("track", "--model", "tiny", "--steps", "last", "--out", out, *CHEAP, "--analyses", "ablation")
    assert result.exit_code == 0 and "not asked for" in result.stdout
    assert set(read_table(read_run(out), "metrics")["analysis"]) == {"capture", "ablation"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["never", "always"])
def test_a_family_that_is_not_read_as_transformers_runs_it_ends_the_run_before_anything_is_stored(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("track", "--model", "tiny", "--out", tmp_path / "run", *SMALL, "--analyses", "ablation")
    assert rtdyn(*arguments, "--steps", "64").exit_code == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}
    right = families.FAMILIES["gpt_neox"]

    def without_gain(model: Any) -> Any:
        parts = right(model)
        return replace(parts, readout=replace(parts.readout, gain=torch.ones_like(parts.readout.gain)))

    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, "gpt_neox": without_gain})
    result = rtdyn(*arguments, "--steps", "64,512,4000", "--stream-layers", how)
    refused(result, 1, "last residual stream differ", "family 'gpt_neox'", "report it", "leave the model out")
    assert "step 512 " not in result.stderr and "Time by stage" not in result.stdout
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}


@pytest.mark.slow
def test_the_first_step_that_a_process_analyses_is_compared_with_transformers(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(stepping, "check_parity", lambda own, *rest: compared.append(own))
    (tmp_path / "suite").mkdir()
    arguments = folder_suite(tiny_folder, tmp_path / "suite")
    truncate(tmp_path / "suite" / "step0")
    for number, steps in enumerate(("0,64,1000", "4000"), start=1):
        rtdyn(*arguments, "--analyses", "ablation", "--steps", steps, "--out", tmp_path / "run")
        assert len(compared) == number
    assert list(done_steps(read_run(tmp_path / "run"))) == [64, 1000, 4000]


@pytest.mark.slow
def test_a_model_run_by_layers_gives_the_same_tables(tmp_path: Path) -> None:
    few = ("--rare", "0.65:0.95", "--tokens", "3072", "--min-targets", "20", "--positions-per-rare", "1")
    reading_the_model = ("--analyses", "ablation,routing,mediation", "--wandb", "disabled")
    runs = {}
    for how in ("always", "never"):
        out = tmp_path / how
        arguments = ("--model", "tiny", "--steps", "512", "--out", out, *few, *reading_the_model)
        result = rtdyn("track", *arguments, "--stream-layers", how)
        assert result.exit_code == 0, result.stderr
        runs[how] = read_run(out)
    for table in TABLES:
        layered, whole = (read_table(runs[how], table) for how in ("always", "never"))
        assert_frame_equal(layered, whole, check_exact=False, rel_tol=1e-5, abs_tol=1e-7)
    assert runs["always"].manifest.config == runs["never"].manifest.config


@pytest.mark.slow
def test_bad_sources_are_refused_before_anything_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = ("track", "--model", "tiny", "--steps", "last", "--out", out, *CHEAP)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(os.urandom(4096))
    (tmp_path / "short.txt").write_text("In the beginning")
    torch.save({}, tmp_path / "x.npy")
    pl.DataFrame({"count": [1] * 2000 + [2] * 2000}).write_parquet(tmp_path / "long.parquet")
    pl.DataFrame({"count": [-1, 2, 3]}).write_parquet(tmp_path / "negative.parquet")
    cases = [
        (("track", "--model", "tinny", "--steps", "all", "--out", out), 2, ("did you mean tiny",)),
        (("track", "--model", "tiny", "--steps", "3", "--out", out), 2, ("step 3", "nearest are 2 and 4")),
        ((*base, "--corpus", tmp_path / "none.txt"), 3, ("is not there",)),
        ((*base, "--corpus", tmp_path / "empty.txt"), 3, ("holds no text",)),
        ((*base, "--corpus", tmp_path / "binary.txt"), 3, ("not UTF-8",)),
        ((*base, "--corpus", tmp_path / "short.txt"), 3, ("shorter than one window",)),
        ((*base, "--frequencies", tmp_path / "long.parquet"), 3, ("token id 2,560", "2,560 logits")),
        ((*base, "--frequencies", tmp_path / "negative.parquet"), 3, ("negative",)),
        ((*base, "--frequencies", tmp_path / "x.npy"), 3, ("must be one vector",)),
        ((*base, "--window", "512"), 3, ("exceeds the model's context of 256",)),
        ((*base, "--min-targets", "100000"), 3, ("--min-targets",)),
        ((*base, "--rare", "0.9:0.1"), 2, ("inverted",)),
        (("track", "--model", tmp_path, "--out", out), 3, ("no step*/ folders",)),
        ((*base, "--tokens", "256", "--min-targets", "2"), 3, ("one window",)),
    ]
    for arguments, code, words in cases:
        refused(rtdyn(*arguments), code, *words)
    assert not out.exists()


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = rtdyn("track", "--model", "tiny", "--steps", "last", "--out", tmp_path / "file" / "run", *CHEAP)
    refused(result, 3, "cannot write to", "--out")


def test_usage_errors_exit_with_2() -> None:
    tiny = ("track", "--model", "tiny")
    wrong = [("--analyses", "regims"), ("--tolerance", "nan"), ("--memory-gib", "inf"), ("--positions-per-rare", "nan")]
    for arguments in (("track",), ("trakc",), *((*tiny, *w) for w in wrong)):
        result = rtdyn(*arguments)
        assert result.exit_code == 2 and "Error" in result.stderr


def test_models_and_steps() -> None:
    models = json.loads(rtdyn("models", "--json").stdout)
    assert {"tiny", "pythia-1.4b"} <= {m["model"] for m in models}
    steps = json.loads(rtdyn("steps", "--model", "pythia-2.8b", "--json").stdout)
    assert len(steps) == 154 and sum(bool(s["defects"]) for s in steps) >= 86
    assert "tiny" in rtdyn("models").stdout
    plain = rtdyn("steps", "--model", "tiny", "--steps", "last").stdout
    assert "step4000" in plain and "16,384,000 tokens" in plain


def test_help_imports_nothing_slow() -> None:
    assert subprocess.run([sys.executable, "-m", "rtdyn.cli", "--help"], capture_output=True).returncode == 0
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, rtdyn.cli; print([m for m in ('torch', 'wandb', 'matplotlib', "
         "'transformers', 'polars', 'numpy') if m in sys.modules])"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "[]"
