"""Which positions each class is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from rtdyn.errors import InputError
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import measure


def test_classes_are_those_of_the_targets(evaluation: Evaluation) -> None:
    positions, text = evaluation.positions, evaluation.text
    assert (np.diff(positions.flat) > 0).all() and text.kept.ravel()[positions.flat].all()
    assert (positions.target == text.windows[positions.window, positions.query + 1]).all()
    for c in evaluation.classes.classes:
        members = positions.members(c.name)
        assert c.types[positions.target[members]].all()
    rare = positions.members("rare")
    kept_targets = text.targets[text.kept]
    assert rare.sum() == evaluation.classes.named("rare").types[kept_targets].sum()


def test_other_classes_are_drawn_at_the_stated_multiple(evaluation: Evaluation) -> None:
    rare, common = evaluation.positions.classes
    assert len(rare.measured) == rare.available
    assert len(common.measured) == int(1.5 * len(rare.measured)) < common.available


def test_the_draw_depends_on_the_seed_alone(evaluation: Evaluation) -> None:
    args = (evaluation.text, evaluation.classes, "target", 1.5, 40)
    same, other = measure(*args, seed=0), measure(*args, seed=1)
    assert (same.flat == evaluation.positions.flat).all()
    assert not np.array_equal(same.classes[1].measured, other.classes[1].measured)
    assert (same.classes[0].measured == other.classes[0].measured).all()


def test_class_by_query_takes_the_querys_own_token(evaluation: Evaluation) -> None:
    positions = measure(evaluation.text, evaluation.classes, "query", 2.0, 20, seed=0)
    own = evaluation.text.windows[positions.window, positions.query]
    assert evaluation.classes.named("rare").types[own[positions.members("rare")]].all()


def test_a_class_with_too_few_targets_says_what_to_change(evaluation: Evaluation) -> None:
    with pytest.raises(InputError, match=r"'rare' has only \d+ positions .*--corpus, --tokens.*--rare.*--min-targets"):
        measure(evaluation.text, evaluation.classes, "target", 2.0, 5000, seed=0)
