"""What W&B's table of runs shows: names that models of several sizes share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.synthetic import LAYERS, synthetic_run

from rtdyn.judge.claims import HEADS
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.views.wandb.summary import claim_summary


def test_verdicts_of_a_layer_have_one_name_in_models_of_any_depth(tmp_path: Path) -> None:
    rows = scorecard(read_judged(synthetic_run(tmp_path / "run", 5, 60)))
    found = claim_summary(rows)
    assert sum(name.endswith("/verdict") for name in found) == len(rows)
    by_layer = {row.layer: row.verdict for row in rows if row.claim == "attention-alike"}
    assert sorted(by_layer) == list(LAYERS[-2:])
    assert found["claims/attention-alike/L-1/verdict"] == by_layer[LAYERS[-1]]
    assert found["claims/attention-alike/L-2/verdict"] == by_layer[LAYERS[-2]]
    deeper = [row if row.layer is None else replace(row, layer=row.layer + 18) for row in rows]
    assert claim_summary(deeper) == found
    early = [replace(rows[0], claim="layer-effect", layer=LAYERS[-2], heads=heads) for heads in (None, *HEADS)]
    names = {name.removeprefix("claims/layer-effect/L-2") for name in claim_summary([*early, *rows[-3:]])}
    assert {"/verdict", "/own-heads/verdict", "/heads-below/verdict"} <= names, "three verdicts, and no space in a name"
