"""Hill's α over the length of the tail: by its definition at every k, of planted tails, and beside selected sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2, pareto

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.heavytail import Spectra, spectra, standard_rows
from rtdyn.analyses.groups.hill_over_k import group_hill_over_k, layer_hill_over_k, lengths
from rtdyn.analyses.groups.input_weights import spectra_once
from rtdyn.names import PLATEAU, SELECTED, TOP
from rtdyn.store.schema import CURVE_SCHEMA
from rtdyn.tables.curves import curve_table, hill_curves
from rtdyn.undefined import Undefined

NOBODY = Undefined("nobody")


def by_definition(values: np.ndarray, k: int) -> float:
    ordered = sorted(values, reverse=True)
    return 1 / float(np.mean([np.log(ordered[j] / ordered[k]) for j in range(k)]))


def of_rows(rows: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.corrcoef(rows))


@pytest.mark.parametrize(
    ("live", "expected"), [(15, []), (19, []), (20, [2, 3, 4]), (32, [2, 3, 4, 5, 6]), (100, list(range(5, 21)))]
)
def test_tails_are_of_5_to_20_percent_of_the_rows(live: int, expected: list[int]) -> None:
    assert lengths(live).tolist() == expected
    many = lengths(100 * live)
    assert (many[0], many[-1]) == (5 * live, 20 * live) and len(many) <= 64 and (np.diff(many) > 0).all()


def test_a_pareto_tail_is_level_and_held_by_its_interval_at_95_of_100_places() -> None:
    rng, inside, slopes = np.random.default_rng(0), [], []
    for _ in range(200):
        values = np.sort(pareto.rvs(1.5, size=200, random_state=rng))[::-1]
        (line,) = layer_hill_over_k("in", Spectra(values[None], np.array([200])))
        assert line.alpha[7] == pytest.approx(by_definition(values, int(line.k[7])))
        inside.append((line.low <= 1.5) & (line.high >= 1.5))
        slopes.append(np.polyfit(np.log(line.k), line.alpha, 1)[0])
    assert np.mean(inside, axis=0) == pytest.approx(0.95, abs=0.05)
    assert abs(np.mean(slopes)) < 3 * np.std(slopes) / np.sqrt(200) + 0.05
    # a body with a steeper end is not level: the exponent falls as the tail takes in more of the body
    body = np.sort(np.append(rng.uniform(0.9, 1.0, 190), 1 + rng.uniform(0, 1, 10)))[::-1]
    (line,) = layer_hill_over_k("in", Spectra(body[None], np.array([200])))
    assert line.alpha.max() > 2 * line.alpha.min()


def test_groups_have_alpha_at_each_k_beside_that_of_selected_sets() -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((200, 60)) * rng.lognormal(0, 1, 60)
    members = (np.arange(30), np.arange(20, 50))
    drawn = [np.stack([np.sort(rng.choice(200, 30, replace=False)) for _ in range(25)]) for _ in (0, 1)]
    group = Group(TOP, members, {SELECTED: (drawn[0], drawn[1])}, 0.1, 0.0)
    spectra_of = {"in": spectra_once(torch.from_numpy(weights), {TOP: group})}
    lines = group_hill_over_k(spectra_of, {PLATEAU: NOBODY, TOP: group})
    assert [(line.matrix, line.group, line.half, line.k.tolist()) for line in lines] == [
        ("in", TOP, half, [2, 3, 4, 5, 6]) for half in (0, 1)
    ]
    for half, line in enumerate(lines):
        values = of_rows(weights[members[half]])
        expected = np.array([by_definition(values, k) for k in line.k])
        np.testing.assert_allclose(line.alpha, expected)
        for end, share in ((line.low, 0.025), (line.high, 0.975)):
            np.testing.assert_allclose(end, expected * chi2.ppf(share, 2 * line.k) / (2 * line.k))
        of_sets = np.array([[by_definition(of_rows(weights[s]), k) for k in line.k] for s in drawn[half]])
        assert line.selected is not None
        np.testing.assert_allclose(line.selected[0], of_sets.mean(0))
        np.testing.assert_allclose(line.selected[1:], np.quantile(of_sets, (0.025, 0.975), axis=0))
    small = replace(group, members=(np.arange(12), np.arange(12)))
    unselected = replace(group, sets={SELECTED: NOBODY})
    assert group_hill_over_k(spectra_of, {PLATEAU: small, TOP: unselected}) == []


def test_lines_are_stored_by_matrix_group_and_half() -> None:
    weights = torch.from_numpy(np.random.default_rng(2).standard_normal((40, 90)))
    lines = layer_hill_over_k("gate", spectra(standard_rows(weights), np.arange(40)[None]))
    selected = (lines[0].alpha + 1, lines[0].low, lines[0].high)
    beside = replace(lines[0], group=TOP, half=1, selected=selected)
    table = curve_table(7, hill_curves([*lines, beside], True, 3))
    assert dict(table.schema) == CURVE_SCHEMA and table["step"].unique().to_list() == [7]
    named = table.select("kind", "group", "half", "layer").unique(maintain_order=True).rows()
    assert named == [
        ("hill_alpha_gate", None, None, 3), ("hill_alpha_gate", TOP, 1, 3), ("selected_hill_alpha_gate", TOP, 1, 3),
    ]  # fmt: skip
    assert table.filter(group=TOP, kind="selected_hill_alpha_gate")["value"].to_list() == selected[0].tolist()
    assert {line["kind"] for line in hill_curves(lines, False, 3)} == {"hill_alpha"}
