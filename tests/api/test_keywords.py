"""Options as keyword arguments: the command's names, defaults and refusals, and a page of help on each."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import rtdyn
from rtdyn.analyses.options import StepOptions
from rtdyn.api.keywords import options_of, parsed
from rtdyn.api.track import TRACK
from rtdyn.errors import UsageError
from rtdyn.integrations.transformers import RtdynCallback
from rtdyn.sweep.cluster_options import ClusterOptions
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job
from rtdyn.text.options import EvaluationOptions

RENAMED = {"bands": "rare", "named_texts": "corpus"}


def test_keywords_are_the_commands_options_with_the_defaults_of_the_dataclasses() -> None:
    shown = {
        name: p.default for name, p in inspect.signature(rtdyn.track).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert shown.keys() == options_of(TRACK).keys() - {"model", "json"}
    held = {
        f.name: f.default
        for kind in (EvaluationOptions, StepOptions, ClusterOptions, FollowOptions, Job)
        for f in fields(kind)
    }
    by_keyword = {RENAMED.get(name, name): default for name, default in held.items() if default is not MISSING}
    assert len(shown.keys() & by_keyword.keys()) > 35
    as_given = {"analyses": "all", "slurm_option": None, "text_where": None, "corpus": None}
    for name in shown.keys() & by_keyword.keys():
        assert shown[name] == as_given.get(name, by_keyword[name]), name


SOURCES = {
    "documents",
    "corpus",
    "named_texts",
    "domains",
    "text_field",
    "text_where",
    "frequencies",
    "frequency_tokens",
}
OF_A_RUN = {"stream_layers", "task_memory_gib"}
OF_GROUPS = {"analyses", "layers", "exact_neurons", "rank_by", "heads_to", "heads_at", "unigram"}


@pytest.mark.parametrize(
    ("function", "without"),
    [
        (rtdyn.analyse, SOURCES | OF_A_RUN),
        (rtdyn.influence, SOURCES | OF_A_RUN | OF_GROUPS),
        (RtdynCallback, {"task_memory_gib"}),
    ],
)
def test_every_setting_is_offered_or_decided_against(function: Any, without: set[str]) -> None:
    settings = {f.name for kind in (EvaluationOptions, StepOptions) for f in fields(kind)}
    offered = set(inspect.signature(function).parameters)
    assert {RENAMED.get(name, name) for name in settings} - without <= offered
    assert not (without - {"frequencies"}) & offered


@pytest.mark.parametrize("function", [rtdyn.track, rtdyn.analyse, rtdyn.influence])
def test_help_says_every_argument(function: object) -> None:
    page = pydoc.plain(pydoc.render_doc(function))
    assert "Raises" in page and "Returns" in page
    for name, parameter in inspect.signature(function).parameters.items():  # type: ignore[arg-type]  # any of three
        assert f"{name}:" in page.replace(", ", ": "), name
        assert parameter.kind is not parameter.VAR_KEYWORD
    assert "by default 256. Tokens a window." in page


@pytest.mark.parametrize(("name", "given"), [("steps", [0, 512]), ("analyses", ["ablation"]), ("layers", [-1, -2])])
def test_a_list_is_offered_where_the_command_takes_commas(name: str, given: list[Any]) -> None:
    kind = type(given[0]).__name__
    assert inspect.signature(rtdyn.track).parameters[name].annotation == f"str | Sequence[{kind}]"
    with parsed(TRACK, {"model": "tiny", name: given}) as (_, words):
        assert f"--{name}={','.join(map(str, given))}" in words


def test_values_of_python_are_read_as_the_command_reads_words(tmp_path: Path) -> None:
    keywords = {
        "model": ["tiny"],
        "steps": [0, 512],
        "analyses": ("ablation", "regimes"),
        "rare": ["a=0.1:0.5", "b=0.5:0.9"],
        "out": tmp_path / "my run",
        "tolerance": 1e-7,
        "tokens": None,
        "slurm_option": "qos=high",
    }
    with parsed(TRACK, keywords) as (params, command):
        assert params["steps"] == "0,512" and params["analyses"] == ("ablation", "regimes")
        assert params["bands"] == ("a=0.1:0.5", "b=0.5:0.9") and params["out"] == tmp_path / "my run"
        assert params["tolerance"] == 1e-7 and params["tokens"] is None
        assert params["slurm_option"] == (("qos", "high"),)
    assert command.startswith("rtdyn track --model=tiny --steps=0,512 --analyses=ablation,regimes --rare=a=0.1:0.5")
    assert f"'--out={tmp_path}/my run'" in command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 3}, "'--window': 3 is not in the range"),
        ({"tolerance": float("nan")}, "not a finite number"),
        ({"on_defect": "hide"}, "'hide' is not one of"),
        ({"analyses": "heavy"}, "no analysis is called 'heavy'"),
        ({"analyses": ["regimes"]}, "add ablation"),
        ({"steps": "tomorrow"}, "cannot read 'tomorrow'"),
        ({"task_cpus": 2}, "--task-cpus is for --executor"),
    ],
)
def test_what_the_command_refuses_is_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rtdyn.track("tiny", **options)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="no option 'windw'; did you mean window"):
        rtdyn.track("tiny", windw=128)
    with pytest.raises(TypeError, match="no option 'json'"):
        rtdyn.track("tiny", json=True)
    with pytest.raises(TypeError, match="no option 'executor'"):
        rtdyn.influence(None, None, "text", executor="ray")
    with pytest.raises(TypeError, match="no option 'analyses'"):
        rtdyn.influence(None, None, "text", analyses="regimes")
    with pytest.raises(UsageError, match=r"takes one model, and .* is a pattern; call it for each"):
        rtdyn.track("pythia-*-deduped")
    with pytest.raises(AttributeError, match="no attribute 'trak'"):
        rtdyn.trak  # noqa: B018 - the name itself is refused


def test_no_module_takes_the_place_of_a_function() -> None:
    importlib.import_module("rtdyn.tracking")  # with all that it imports
    functions = set(rtdyn.__all__) - {"__version__"}
    assert all(inspect.isfunction(getattr(rtdyn, name)) for name in functions)
    assert functions.isdisjoint(module.name for module in pkgutil.iter_modules(rtdyn.__path__))
