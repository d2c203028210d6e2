"""Steps that fail in this process: passed over with those of the same weights, unless no step could be stored."""

from __future__ import annotations

import errno

import pytest

from rtdyn.checkpoints.fetch_plan import Repeat
from rtdyn.errors import InputError, ParityError
from rtdyn.execute.serial import PassedOver


@pytest.fixture
def said() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def released() -> list[int]:
    return []


@pytest.fixture
def passed_over(said: list[tuple[int, str]], released: list[int]) -> PassedOver:
    return PassedOver(released.append, {4: (Repeat(8, "step8", "c"),)}, lambda *told: said.append(told))


def fail(passed_over: PassedOver, step: int, cause: Exception | None = None) -> None:
    with passed_over.trying(step):
        raise InputError("it is cut") from cause


def test_a_step_and_those_that_repeat_it_are_named_once_and_its_files_may_go(
    passed_over: PassedOver, said: list[tuple[int, str]], released: list[int]
) -> None:
    fail(passed_over, 2)
    fail(passed_over, 4, OSError(errno.EIO, "Input/output error"))
    with passed_over.trying(16):
        pass
    assert passed_over.reasons == dict.fromkeys((2, 4, 8), "it is cut")
    assert said == list(passed_over.reasons.items()) and released == [2, 4]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_place_that_takes_no_more_ends_a_run(passed_over: PassedOver, code: int) -> None:
    with pytest.raises(InputError, match="it is cut"):
        fail(passed_over, 2, OSError(code, "full"))
    assert passed_over.reasons == {}


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), ValueError("a bug"), ParityError("no parity")])
def test_what_is_not_the_steps_fault_is_not_passed_over(passed_over: PassedOver, error: BaseException) -> None:
    with pytest.raises(type(error)), passed_over.trying(2):
        raise error
    assert passed_over.reasons == {}
