"""`rtdyn plan` as a user types it: its arithmetic, where its numbers are from, its refusals; nothing by the clock."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loopback.hub import LoopbackHub
from loopback.place import Machine, copy_step, workplace
from text.test_domains import chapters

from rtdyn.capture.memory_need import Sample
from rtdyn.cli import main
from rtdyn.cost.operations import ablation_operations, capture_operations
from rtdyn.cost.plan import FURTHER, assumed_sample, further_seconds
from rtdyn.model.sizes import model_shape
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.options import EvaluationOptions

OURS = ("--tokens", "13312", "--min-targets", "40", "--positions-per-rare", "1.5")
"""As the fixture `options`."""
UNTIMED = ("--no-calibration", "--json")


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, ["plan", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def planned(*args: str | Path) -> dict[str, Any]:
    result = rtdyn(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_folders_plan_counts_what_a_run_would_measure(evaluation: Evaluation, tiny_folder: Path) -> None:
    found = planned("--model", "tiny", "--steps", "0,1,4000", *OURS, "--no-calibration")
    [one] = found["suites"]
    positions = len(evaluation.positions.flat)
    assert one["sample"] == {"tokens": 13312, "window": 256, "positions": positions, "assumed": None}
    assert (one["steps"], one["analysed"], one["download_bytes"], one["cache_bytes"]) == (3, 3, 0, 0)
    shape = model_shape(json.loads((tiny_folder / "step4000" / "config.json").read_text()), "tiny")
    sample = Sample(13312, 256, positions, None)
    assert one["flops_per_step"]["capture"] == capture_operations(shape, sample).flops
    assert one["flops_per_step"]["ablation"] == ablation_operations(shape, sample, 2 * 2**30).flops
    assert one["shape"]["parameters"] == 901_344
    assert one["seconds"] is None and one["compute_seconds"] is None and found["total"]["seconds"] is None


@pytest.mark.slow
def test_domains_are_counted_where_they_are_here_and_assumed_on_the_hub(tmp_path: Path) -> None:
    law = f"law={chapters(tmp_path / 'law.jsonl', 0, 100)}"
    asked = ("--model", "tiny", "--steps", "4000", *OURS, "--no-calibration")
    [alone], [here], [far] = (
        planned(*asked, *more)["suites"] for more in ((), ("--corpus", law), ("--corpus", law, "--domains", "pile"))
    )
    flops = alone["flops_per_step"]
    assert here["flops_per_step"]["capture"] == flops["capture"] and "domains" not in flops
    # a text of as many tokens and rare targets, give or take
    assert here["flops_per_step"]["domains"] == pytest.approx(flops["capture"] + flops["ablation"], rel=0.2)
    assert here["run_bytes"] - alone["run_bytes"] == 4700 + 33 * 2 * 512
    assert "domains counted: 1 (their texts are read here)" in here["notes"]
    assert far["flops_per_step"]["domains"] > 20 * (flops["capture"] + flops["ablation"]) * 0.5
    assert "domains counted: 23 (text and frequencies are not here yet)" in far["notes"]
    [unknown] = planned(*asked, "--domains", "hf://datasets/o/n/a.jsonl::f")["suites"]
    assert "domains" not in unknown["flops_per_step"]
    assert any("are known once its text is read" in note for note in unknown["notes"])


@pytest.mark.slow
def test_a_calibration_gives_the_sum_of_the_stages(tiny_folder: Path) -> None:
    [one] = planned("--model", tiny_folder, "--steps", "0,4000", *OURS, "--analyses", "ablation,regimes")["suites"]
    assert set(one["seconds_per_step"]) == {"load", "capture", "ablation", "regimes"}
    assert all(0 < seconds < math.inf for seconds in one["seconds_per_step"].values())
    assert one["compute_seconds"] == pytest.approx(2 * sum(one["seconds_per_step"].values()))
    assert one["seconds"] == max(one["compute_seconds"], one["download_seconds"]) and one["gpu_seconds"] is None


def test_unreachable_suites_are_planned_from_the_registry() -> None:
    found = planned("--model", "pythia-2.8b", "--model", "pythia-14m", *UNTIMED[:1], "--gpu-tflops", "40", "20",
                    "--link-mbit", "250", "--analyses", "ablation", "--cache-gb", "30")  # fmt: skip
    large, small = found["suites"]
    assert (large["steps"], large["analysed"]) == (154, 70)
    assert large["download_bytes"] == 70 * (2 * 2_775_208_960 + 32 * 2048**2)
    assert large["download_source"] == "estimated by parameters"
    assert large["download_seconds"] == pytest.approx(large["download_bytes"] * 8 / 250e6)
    assert large["cache_bytes"] == 30 * 10**9 and small["cache_bytes"] == small["download_bytes"] < 30 * 10**9
    assert large["sample"]["tokens"] == 19968 and large["sample"]["assumed"]
    total = found["total"]
    assert total["download_bytes"] == large["download_bytes"] + small["download_bytes"]
    assert total["gpu_total_seconds"] == pytest.approx(
        sum(max(s["gpu_seconds"], s["download_seconds"]) for s in found["suites"])
    )
    shape = model_shape({**_shape_of(small)}, "14m")
    sample = Sample(*(small["sample"][k] for k in ("tokens", "window", "positions", "assumed")))
    works = [capture_operations(shape, sample), ablation_operations(shape, sample, 2 * 2**30)]
    products = sum((w.float32 + w.narrow) / 40e12 + w.float64 / 20e12 for w in works)
    assert small["gpu_seconds"] == pytest.approx(153 * products)
    assert set(small["gpu_seconds_per_step"]) == {"capture", "ablation"}
    assert 153 * sum(small["gpu_seconds_per_step"].values()) == pytest.approx(small["gpu_seconds"])


def _shape_of(record: dict[str, Any]) -> dict[str, Any]:
    shape = record["shape"]
    return {
        "model_type": "gpt_neox",
        "num_hidden_layers": shape["layers"],
        "hidden_size": shape["width"],
        "intermediate_size": shape["neurons"],
        "num_attention_heads": shape["heads"],
        "vocab_size": shape["logits"],
        "max_position_embeddings": shape["context"],
        "parameters": shape["parameters"],
    }


def test_ablating_heads_everywhere_is_said_to_take_longer_where_it_does() -> None:
    everywhere = ("--steps", "last", "--no-calibration", "--heads-at", "all")
    said = "routing takes longer than counted: --heads-at all runs two blocks over each window a head"
    for suite, args, expected in (
        ("alias-gpt2-small-x21", (), True),
        ("alias-gpt2-small-x21", ("--heads-at", "query"), False),
        ("alias-gpt2-small-x21", ("--analyses", "ablation"), False),
        ("pythia-70m", (), False),
    ):
        [one] = planned("--model", suite, *everywhere, *args)["suites"]
        assert (said in one["notes"]) == expected and one["shape"]["parallel_residual"] == (suite == "pythia-70m")


@pytest.mark.slow
def test_the_options_of_a_run_change_the_plan() -> None:
    def plan(*args: str) -> dict[str, Any]:
        return planned("--model", "pythia-70m", "--steps", "last", "--no-calibration", *args)["suites"][0]

    usual = plan()
    assert plan("--tokens", "39936")["sample"]["tokens"] == 2 * usual["sample"]["tokens"]
    more = plan("--rare-targets", "400")
    assert more["sample"] == {**usual["sample"], "tokens": 39680, "positions": 4413}
    said = "further analyses were timed at 200 rare targets; with more they take longer"
    assert said in more["notes"] and said not in usual["notes"]
    assert plan("--positions-per-rare", "1")["sample"]["positions"] == 404
    assert (
        plan("--stream-layers", "always")["layer_by_layer"] and not plan("--stream-layers", "never")["layer_by_layer"]
    )
    by_layers = [plan("--layers", chosen) for chosen in ("last", "-2", "-2,-3", "all")]
    layers = [one["flops_per_step"].get("layers", 0) for one in by_layers]
    assert layers[0] == 0 < layers[1] < layers[2] < layers[3]
    stored = [one["run_bytes"] - usual["run_bytes"] for one in by_layers]
    assert stored == [earlier * 227 * 2048 for earlier in (0, 1, 2, 5)]
    assert plan("--memory-gib", "4")["memory_bytes"]["blocks"] == 4 * 2**30
    assert "mediation" not in plan("--analyses", "ablation")["flops_per_step"]
    alone = plan("--analyses", "heavytail")
    assert alone["sample"] is None and alone["memory_bytes"] is None and set(alone["seconds_per_step"]) == {"heavytail"}
    assert alone["download_bytes"] == 2 * 512 * 2048 * 2


def test_a_model_that_does_not_fit_is_planned_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtdyn.capture.free_memory.available_bytes", lambda device: 20 * 2**30)
    for model, layered in (("pythia-2.8b", False), ("pythia-6.9b", True)):
        [one] = planned("--model", model, "--steps", "last", "--no-calibration")["suites"]
        assert one["layer_by_layer"] == layered
        assert (one["memory_bytes"]["weights"] == 4 * one["shape"]["parameters"]) != layered


def test_the_table_says_what_it_rests_on() -> None:
    result = rtdyn("--model", "pythia-1.4b", "--model", "pythia-12b", "--no-calibration", "--gpu-tflops", "40", "20")
    assert result.exit_code == 0, result.stderr
    for words in ("pythia-12b", "154 (153)", "448~", "│ all", "100 Mbit/s", "estimated", "19,968 tokens", "40 TFLOP/s",
                  "left out with --no-calibration", "GPU hours of pythia-12b by stage: "):  # fmt: skip
        assert words in result.stdout, words


def test_further_analyses_are_read_off_where_they_were_measured() -> None:
    table = json.loads(FURTHER.read_text())
    assert table["neurons"] == sorted(set(table["neurons"])) and len(table["neurons"]) >= 2
    every = ("ablation", *(s for s in table["seconds"] if s != "groups"))
    for i, size in enumerate(table["neurons"]):
        found, notes = further_seconds(size, every, False, threads=1)
        assert found == {s: pytest.approx(v[i]) for s, v in table["seconds"].items()} and not notes
    shares, four = table["parallel"], further_seconds(table["neurons"][0], every, False, threads=4)[0]
    assert four == {s: pytest.approx(v[0] * (1 - 0.75 * shares[s])) for s, v in table["seconds"].items()}
    assert all(0 <= share <= 1 for share in shares.values())
    low, high = table["neurons"][:2]
    between = further_seconds(int((low * high) ** 0.5), every, False, threads=1)[0]["modularity"]
    assert between == pytest.approx(
        (table["seconds"]["modularity"][0] * table["seconds"]["modularity"][1]) ** 0.5, 0.01
    )
    assert "is beyond" in further_seconds(2 * table["neurons"][-1], every, False, threads=1)[1][0]
    assert further_seconds(512, ("ablation",), False, threads=1) == ({}, ())
    one, three = (
        further_seconds(512, ("ablation", "regimes", "routing"), False, layers, threads=1)[0] for layers in (0, 2)
    )
    of_groups = {"layer groups": pytest.approx(one["groups"] + one["routing"])}
    assert three == {**one, "layer curves": 2 * one["regimes"], **of_groups}, "each measured layer has curves"
    groups, more = (
        further_seconds(512, ("ablation", "routing", "heavytail"), False, layers, threads=1)[0] for layers in (0, 2)
    )
    half_for_two = groups["groups"] + groups["routing"] + groups["heavytail"]
    assert more == {**groups, "layer groups": pytest.approx(half_for_two)}


def test_the_assumed_sample_keeps_to_its_text(options: EvaluationOptions) -> None:
    usual = replace(options, tokens=None, positions_per_rare=10.0)
    assert (assumed_sample(usual).tokens, assumed_sample(usual).positions) == (19968, 2221)
    assert assumed_sample(replace(usual, positions_per_rare=1e9)).positions == 19968
    assert assumed_sample(replace(usual, bands=("a", "b"))).positions == 4240


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Steps 0 and 512 hold the same weights, 4000 its own."""
    folder = tmp_path_factory.mktemp("suite")
    for step in (0, 512, 4000):
        copy_step(step, folder)
    shutil.copy(folder / "step0" / "model.safetensors", folder / "step512")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, folder)
    return folder


@pytest.mark.slow
def test_a_hubs_metadata_are_counted_before_any_weights_move(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        ended, audited, missing = _plans(place, ["on-hub"], ["on-hub", "--on-defect", "skip"], ["unknown"])
        closed, asked = hub.url, [str(request) for request in hub.requests]
    assert ended.code == 0, ended.stderr
    [one] = json.loads(ended.stdout)["suites"]
    sizes = [(suite / f"step{step}" / "model.safetensors").stat().st_size for step in (0, 4000)]
    assert (one["steps"], one["analysed"]) == (3, 2)
    assert (one["download_bytes"], one["download_source"]) == (sum(sizes), "metadata")
    assert one["sample"]["assumed"] is None and one["sample"]["tokens"] == 512
    assert not any("model.safetensors" in request for request in asked)
    [one] = json.loads(audited.stdout)["suites"]
    assert one["steps"] == 2 and "passed over" in one["notes"][0]
    assert missing.code == 3 and "no such repository" in missing.stderr
    # nobody answers any more, and no shape is registered
    [gone] = _plans(Machine(tmp_path, closed), ["on-hub"])
    assert gone.code == 3 and "cannot be reached" in gone.stderr
    assert "the shape of on-hub;" in gone.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_hub_that_is_gone_leaves_an_estimate_by_the_suites_own_shape(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
    file = tmp_path / "suites.yaml"
    file.write_text(file.read_text().replace("suites:\n", SHAPE + "suites:\n  shaped: {repo: loopback/suite, revision: "
                                             "'step{step}', schedule: few, shape: mine}\n"))  # fmt: skip
    [ended] = _plans(place, ["shaped"])
    assert ended.code == 0, ended.stderr
    [one] = json.loads(ended.stdout)["suites"]
    assert one["download_source"] == "estimated by parameters" and one["download_bytes"] == 3 * (
        4 * 901_344 + 3 * 256**2
    )
    assert "cannot be reached, so sizes are estimated" in ended.stderr


SHAPE = """shapes:
  mine: {model_type: gpt_neox, num_hidden_layers: 3, hidden_size: 96, intermediate_size: 512, num_attention_heads: 6,
         vocab_size: 2560, max_position_embeddings: 256, parameters: 901344}
"""


def _plans(place: Machine, *models: list[str]) -> list[Any]:
    given = place.settings(place.folder / "out")
    options = given[: given.index("--wandb")]
    ours = [*options, "--suites", str(place.folder / "suites.yaml"), *UNTIMED]
    return place.track_each(*(["plan", "--model", *model, *ours] for model in models))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "pythia-99b"], 2, "no suite or folder is called"),
        (["--model", "pythia-70m", "--steps", "3"], 2, "step 3 is not in the suite's schedule"),
        (["--model", "pythia-70m", "--link-mbit", "0"], 2, "--link-mbit"),
        (["--model", "pythia-70m", "--link-mbit", "nan"], 2, "not a finite number"),
        (["--model", "pythia-70m", "--gpu-tflops", "40", "-1"], 2, "--gpu-tflops"),
        (["--model", "pythia-70m", "--on-defect", "fail"], 3, "leave it out of --steps"),
        (["--model", "pythia-410m-seed9", "--steps", "40000"], 3, "no step asked for"),
        (["--model", "tiny", "--tokens", "300"], 3, "under the 50 of --min-targets"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: list[str], code: int, words: str) -> None:
    result = rtdyn(*arguments, *UNTIMED)
    assert result.exit_code == code and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("{vocab_size: 5}", "shape mine must be a mapping"),
        ("{model_type: gpt_neox, hidden_size: -1}", "hidden_size must be a whole number or text"),
        ("{model_type: gpt_neox, hidden_size: 1.5}", "hidden_size must be a whole number or text"),
        (None, "unknown shape 'mine'"),
    ],
)
def test_a_malformed_shape_is_one_sentence(tmp_path: Path, shape: str | None, words: str) -> None:
    file = tmp_path / "mine.yaml"
    shapes = "" if shape is None else f"shapes: {{mine: {shape}}}\n"
    file.write_text(shapes + "suites: {m: {repo: a/b, revision: 'step{step}', schedule: pythia, shape: mine}}")
    result = rtdyn("--model", "m", "--suites", file, *UNTIMED)
    assert result.exit_code == 3 and words in result.stderr and result.stderr.count("\n") == 1
