"""Which layers are asked for."""

from __future__ import annotations

import pytest

from rtdyn.analyses.earlier_layers.chosen import earlier_layers, normal_layers
from rtdyn.errors import InputError


def test_layers_have_one_form_however_they_are_given() -> None:
    assert normal_layers(" all ") == "all"
    assert normal_layers("-1") == normal_layers("last") == "last"
    assert normal_layers("-3,-2") == normal_layers("-2, -1,-3,-3") == "-1,-2,-3"
    for wrong in ("", "0", "2", "-1,1", "first", "-1.5", "-1,,-2"):
        with pytest.raises(ValueError, match="give last, all, or numbers from the end"):
            normal_layers(wrong)


def test_they_are_found_in_a_model_of_any_depth() -> None:
    assert earlier_layers("last", 6) == ()
    assert earlier_layers("all", 4) == (0, 1, 2) and earlier_layers("all", 1) == ()
    assert earlier_layers("-1,-2,-4", 4) == (0, 2)
    with pytest.raises(InputError, match="the model has 3 layers; give numbers from -1 to -3, or all"):
        earlier_layers("-1,-4", 3)
