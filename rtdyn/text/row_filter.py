"""Which rows of a corpus are read: those whose fields have given values, as the parts of the Pile have a name each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rtdyn.counted import counted
from rtdyn.errors import InputError, UsageError, near_matches

ROWS_WITHOUT_MATCH = 50_000
"""Rows after which a condition that none of them met is taken for a wrong one."""
_VALUES_SHOWN = 12
NAME_LENGTH = 80
"""Characters of a value beyond which it is a text and no name."""


class RowChoice(Protocol):
    """What is asked of a choice of rows."""

    option: str
    """Which option made it."""

    @property
    def columns(self) -> list[str]:
        """The outermost fields that it looks at."""
        ...

    def keeps(self, row: Any) -> bool:
        """Whether the row is read."""
        ...

    def check(self, what: str, rows: int = 1) -> None:
        """Raises InputError if at least `rows` rows were read and it kept none of them."""
        ...


class RowFilter:
    """Conditions `FIELD=VALUE` that a row has to meet, all of them; FIELD may be nested, as `meta.pile_set_name`."""

    option = "--text-where"

    def __init__(self, conditions: Sequence[str], met: bool = False) -> None:
        """met: whether rows that met them were read before. Raises UsageError for what is no condition."""
        pairs = [condition.partition("=") for condition in conditions]
        wrong = next(
            (c for c, (field, equals, _) in zip(conditions, pairs, strict=True) if not (field and equals)), None
        )
        if wrong is not None:
            raise UsageError(
                f"cannot read --text-where {wrong!r}; write FIELD=VALUE, such as meta.pile_set_name=FreeLaw"
            )
        self.conditions = [(field.split("."), value) for field, _, value in pairs]
        self.text = " and ".join(conditions)
        self.met = met
        self.rows = 0
        self.values: list[dict[str, None]] = [{} for _ in pairs]
        """What each condition's field was met with, in order."""

    @property
    def columns(self) -> list[str]:
        """The outermost fields."""
        return [path[0] for path, _ in self.conditions]

    def keeps(self, row: Any) -> bool:
        """Whether the row meets every condition; numbers and truth values are compared as JSON writes them."""
        self.rows += 1
        kept = True
        for (path, wanted), met_with in zip(self.conditions, self.values, strict=True):
            value = field_value(row, path)
            if value is not None and len(met_with) < 1000:
                met_with[value] = None
            kept = kept and value == wanted
        self.met = self.met or kept
        return kept

    def check(self, what: str, rows: int = 1) -> None:
        """Raises InputError if at least `rows` rows were read and none of them met the conditions."""
        if self.met or self.rows < rows:
            return
        for (path, wanted), met_with in zip(self.conditions, self.values, strict=True):
            field = ".".join(path)
            if not met_with:
                raise InputError(f"{what}: no row has the field {field!r}; correct --text-where")
            if wanted not in met_with:
                there = ", ".join(map(shortened, list(met_with)[:_VALUES_SHOWN]))
                near = near_matches(wanted, (name for name in met_with if len(name) <= NAME_LENGTH))
                raise InputError(
                    f"{what}: none of {counted(self.rows, 'row')} has {field}={wanted} (there are {there}){near}; "
                    "correct --text-where"
                )
        raise InputError(f"{what}: none of {counted(self.rows, 'row')} has {self.text}; correct --text-where")


class RowLabels:
    """Rows that have a value, no blank one, under a field that tells a text's parts apart; the values are noted."""

    option = "--domains"

    def __init__(self, field: str, met: bool = False) -> None:
        """field: may be nested, as `RowFilter` has it. met: whether rows that have it were read before."""
        self.field, self.path, self.met, self.rows = field, field.split("."), met, 0
        self.taken: list[str] = []
        """The values of the rows that were kept since `take`, in their order."""

    @property
    def columns(self) -> list[str]:
        """As `RowChoice` has it."""
        return [self.path[0]]

    def keeps(self, row: Any) -> bool:
        """As `RowChoice` has it."""
        self.rows += 1
        value = field_value(row, self.path)
        if value is None or not value.strip():  # a part without a name is none
            return False
        self.taken.append(value)
        self.met = True
        return True

    def take(self) -> list[str]:
        """The values since the last time."""
        taken, self.taken = self.taken, []
        return taken

    def check(self, what: str, rows: int = 1) -> None:
        """As `RowChoice` has it."""
        if not self.met and self.rows >= rows:
            raise InputError(f"{what}: no row has the field {self.field!r}; correct --domains")


def shortened(value: str) -> str:
    """A value as a message shows it, on one line."""
    line = " ".join(value.split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1]}…"


def field_value(row: Any, path: Sequence[str]) -> str | None:
    """The value at a place in nested objects, as text; None where there is none."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    if row is None or isinstance(row, dict | list):
        return None
    if isinstance(row, bool):
        return str(row).lower()
    return f"{row:.15g}" if isinstance(row, float) else str(row)
