"""Presets: what they set, that what is given wins, and that every setting is part of a run's configuration."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

import click
import pytest

from rtdyn.analyses.options import HEADS_AT, HEADS_TO, UNIGRAM, StepOptions
from rtdyn.cli import main
from rtdyn.cli_jobs import evaluation_options
from rtdyn.cli_presets import PRESETS, preset_line
from rtdyn.many import _HOW
from rtdyn.store.run import config_digest
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.cluster_options import ClusterOptions
from rtdyn.sweep.job import Job
from rtdyn.sweep.manifest import run_config
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.options import EvaluationOptions

PAPER = ("--preset", "paper-code")


LAYERS = ("last", "all", "-1,-2")


def parsed(*args: str, of: str = "track") -> tuple[dict[str, Any], str | None]:
    """A command's parameters, and what it says of its preset."""
    with main.commands[of].make_context(of, ["--model", "tiny", *args]) as context:
        return context.params, preset_line()


def settings(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in PRESETS["paper-code"]}


@pytest.mark.parametrize("command", ["track", "plan"])
def test_a_preset_sets_what_the_papers_code_does(command: str) -> None:
    params, line = parsed(*PAPER, of=command)
    assert settings(params) == {
        "bands": ("paper-code",), "class_by": "query", "heads_to": "bos", "heads_at": "query", "unigram": "longtail",
    }  # fmt: skip
    assert line == (
        "--preset paper-code sets --rare paper-code --class-by query --heads-to bos --heads-at query --unigram longtail"
    )
    usual, nothing = parsed(of=command)
    assert nothing is None and settings(usual) == {
        "bands": ("paper-text",), "class_by": "target", "heads_to": "zero", "heads_at": "query", "unigram": "full",
    }  # fmt: skip
    assert {name for name in usual if usual[name] != params[name]} <= {"preset", *PRESETS["paper-code"]}


@pytest.mark.parametrize("preset_first", [True, False])
def test_what_is_given_wins_over_the_preset_in_any_order_even_where_it_is_the_default(preset_first: bool) -> None:
    given = ("--rare", "paper-text", "--rare", "mid=0.3:0.6", "--heads-to", "zero", "--heads-at", "all")
    params, line = parsed(*(PAPER + given if preset_first else given + PAPER))
    assert settings(params) == {
        "bands": ("paper-text", "mid=0.3:0.6"), "class_by": "query", "heads_to": "zero", "heads_at": "all",
        "unigram": "longtail",
    }  # fmt: skip
    assert line == (
        "--preset paper-code sets --class-by query --unigram longtail; given instead: "
        "--rare paper-text --rare mid=0.3:0.6 --heads-to zero --heads-at all"
    )
    everything = (*given, "--class-by", "target", "--unigram", "full")
    _, line = parsed(*PAPER, *everything)
    assert line is not None and line.startswith("--preset paper-code sets nothing; given instead: --rare paper-text")


def test_defaults_are_those_of_the_dataclasses() -> None:
    params, _ = parsed()
    for kind in (EvaluationOptions, StepOptions, ClusterOptions):
        # --corpus may name several texts, which both of these are made of
        held = {f.name: f.default for f in fields(kind) if f.name not in ("corpus", "named_texts")}
        assert {name: params[name] for name in held} == held
    own = {f.name: f.default for f in fields(Job) if f.default is not MISSING}
    assert {name: params[name] for name in own.keys() & params.keys()} == {
        n: own[n] for n in own.keys() & params.keys()
    }
    assert {"on_defect", "cache_gb", "out", "wandb"} <= own.keys() & params.keys()


def test_texts_with_a_name_are_domains_and_the_other_is_the_main_one() -> None:
    def texts(*args: str) -> tuple[str | None, tuple[tuple[str, str], ...]]:
        made = evaluation_options(parsed(*args)[0])
        return made.corpus, made.named_texts

    assert texts() == (None, ()) and texts("--corpus", "a.txt") == ("a.txt", ())
    law, wiki = "law=hf://datasets/o/n/a=b.jsonl", "wiki.de-1=x=y.txt"
    both = (("law", "hf://datasets/o/n/a=b.jsonl"), ("wiki.de-1", "x=y.txt"))
    assert texts("--corpus", law, "--corpus", wiki) == (None, both)
    main = "hf://datasets/o/n/lang=en/a.jsonl"
    assert texts("--corpus", law, "--corpus", main, "--corpus", wiki) == (main, both)
    assert texts("--corpus", "./a=b.txt") == ("./a=b.txt", ())
    with pytest.raises(click.UsageError, match=r"a\.txt and b\.txt both would be the main text"):
        parsed("--corpus", "a.txt", "--corpus", "b.txt")


def test_unknown_presets_and_settings_are_refused() -> None:
    for args in (("--preset", "papers"), ("--heads-to", "mean"), ("--heads-at", "bos"), ("--unigram", "tail")):
        with pytest.raises(click.UsageError, match=f"'{args[1]}' is not"):
            parsed(*args)


def test_a_device_without_float64_is_refused_with_its_reason() -> None:
    with pytest.raises(click.UsageError, match=r"mps has no float64.*use cpu"):
        parsed("--device", "mps")
    with pytest.raises(click.UsageError, match="'tpu' is not one of"):
        parsed("--device", "tpu")


def test_every_setting_of_the_analyses_makes_another_configuration(
    tiny: SuiteSpec, evaluation: Evaluation, options: EvaluationOptions
) -> None:
    usual = StepOptions(("ablation",), "kept", "mean_abs", 1e-5, 1.0, "never", "cpu", options.seed)
    config = run_config(tiny, evaluation, options, usual)
    # the layers are named only where there are others than the last, so that earlier runs go on
    assert {field.name for field in fields(StepOptions)} - {*_HOW, "layers", "exact_neurons"} <= set(config)
    digests = {config_digest(config)}
    for name, values in (("heads_to", HEADS_TO), ("heads_at", HEADS_AT), ("unigram", UNIGRAM), ("layers", LAYERS)):
        assert getattr(usual, name) == values[0]
        for value in values[1:]:
            changed: dict[str, Any] = {name: value}
            other = run_config(tiny, evaluation, options, replace(usual, **changed))
            of_layers = {"exact_neurons": usual.exact_neurons} if name == "layers" else {}
            assert other == {**config, **changed, **of_layers}
            digests.add(config_digest(other))
    assert len(digests) == 6


def test_a_command_by_itself_has_the_groups_options_of_help() -> None:
    for name, command in main.commands.items():
        option = command.get_help_option(command.make_context(name, [], resilient_parsing=True))
        assert option is not None and set(option.opts) == {"-h", "--help"}
