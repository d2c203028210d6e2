"""How long the evaluation text is: as many rare targets as are asked for, or all there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import LATE

from rtdyn.errors import InputError, UsageError
from rtdyn.names import SWEEP
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.documents import read_documents
from rtdyn.text.evaluation import MIN_TOKENS, prepare
from rtdyn.text.options import EvaluationOptions


@pytest.mark.slow
def test_the_text_ends_with_the_window_that_brings_the_last_target(tiny: SuiteSpec, options: EvaluationOptions) -> None:
    said: list[str] = []
    counted = []
    for wanted in (200, 260):
        made = prepare(tiny, LATE, replace(options, tokens=None, rare_targets=wanted), said.append)
        rare = made.positions.classes[0].available
        assert wanted <= rare < wanted + 20 and made.text.windows.size > MIN_TOKENS
        counted.append(rare)
    default = prepare(tiny, LATE, replace(options, tokens=None), said.append)
    assert default.positions.classes[0].available == counted[0] and said == []


def test_a_text_with_too_few_says_so_and_is_measured_whole(
    tiny: SuiteSpec, options: EvaluationOptions, tmp_path: Path
) -> None:
    chapters = read_documents("king-james-held-out").texts[:40]
    (tmp_path / "short.txt").write_text("\n".join(map(str, chapters)))
    said: list[str] = []
    asked = replace(options, corpus=str(tmp_path / "short.txt"), tokens=None, rare_targets=5000)
    made = prepare(tiny, LATE, asked, said.append)
    held = made.positions.classes[0].available
    assert said == [f"the text holds {held:,} rare targets of the 5,000 asked for, and is measured whole"]
    prepare(tiny, LATE, replace(asked, class_by="query"), said.append)
    assert "rare queries of the 5,000 asked for" in said[1]
    prepare(tiny, LATE, replace(asked, tokens=MIN_TOKENS, rare_targets=None), said.append)
    assert len(said) == 2


def test_tokens_and_targets_exclude_each_other(options: EvaluationOptions) -> None:
    with pytest.raises(UsageError, match="--tokens and --rare-targets both say how long"):
        replace(options, rare_targets=100)


def test_a_band_of_a_sweep_with_too_few_is_left_out_with_its_count_and_one_asked_for_is_refused(
    tiny: SuiteSpec, options: EvaluationOptions
) -> None:
    said: list[str] = []
    made = prepare(tiny, LATE, replace(options, bands=SWEEP), said.append)
    names = [c.name for c in made.classes.classes]
    assert names == [c.name for c in made.positions.classes] == ["rare", "rare_20", "rare_30", "rare_50", "common"]
    for line, name in zip(said, ("rare_5", "rare_10"), strict=True):
        assert line.startswith(f"the band {name} has ") and "under the 40 of --min-targets, and is left out" in line
    with pytest.raises(InputError, match="the class 'narrow' has only"):
        prepare(tiny, LATE, replace(options, bands=("paper-text", "narrow=5%")))
