"""What a suites file may hold, as typed records; a field's description says what a wrong value of it must be."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rtdyn.names import CORPORA, HUB_SCHEME

_CORPUS = f"^({'|'.join(CORPORA)})$|^{HUB_SCHEME}"
DefectKind = Literal["duplicate", "final-weights", "missing", "discontinuous", "nearly-identical"]


def _steps(text: Any) -> tuple[int, ...]:
    """Numbers and inclusive ranges `a:b:c`, with no schedule to check them against."""
    if not isinstance(text, str):  # YAML reads 10:30:10 as a number in base 60
        raise ValueError(": the step list must be text; put it in quotes")
    steps: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?::([0-9]+):([1-9][0-9]*))?\s*", part)
        if match is None:
            raise ValueError(f" has a step list that cannot be read: {part.strip()!r}")
        start, stop, stride = match.groups()
        steps.update([int(start)] if stop is None else range(int(start), int(stop) + 1, int(stride)))
    if not steps:
        raise ValueError(" holds no step")
    return tuple(sorted(steps))


def _settings(settings: Any) -> Any:
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        raise ValueError(" must be a mapping of a config.json's settings, model_type among them")
    for key, value in settings.items():
        if not isinstance(value, int | str) or (isinstance(value, int) and value < 0):
            raise ValueError(f": {key} must be a whole number or text")
    return settings


def _rates(rates: Any) -> Any:
    if isinstance(rates, dict) and (0 not in rates or list(rates) != sorted(rates)):
        raise ValueError(": tokens_per_step must map first steps in ascending order, beginning with 0")
    return rates


Rate = Annotated[int, Field(gt=0)]
Steps = Annotated[tuple[int, ...], BeforeValidator(_steps)]
Settings = Annotated[dict[Any, Any], BeforeValidator(_settings)]
HeldOut = Annotated[
    Literal["yes", "no", "not checked"],
    BeforeValidator(lambda value: ("no", "yes")[value] if isinstance(value, bool) else value),
]
"""YAML reads yes and no as truth values."""
ReadAsText = Annotated[str, BeforeValidator(str)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SuiteEntry(_Record):
    """One suite, or several, whose names the values of `for` fill."""

    path: str = ""
    repo: str = ""
    revision: str = Field(
        "", pattern=r"^[^{]*\{step\}[^{]*$", description="contain {step} once and no other placeholder"
    )
    schedule: str = ""
    pattern: str = ""
    tokenizer: str = ""
    placeholders: dict[Any, Annotated[list[Any], Field(min_length=1)]] | None = Field(
        None, alias="for", title="`for`", description="map each placeholder to a list of values"
    )
    tokens_per_step: Annotated[Rate | dict[int, Rate] | None, BeforeValidator(_rates)] = Field(
        None, description="be a positive whole number, or map the first step of each rate to one"
    )
    tokens_before: int = Field(0, ge=0, description="be a whole number")
    family: str = ""
    texts: list[str] = Field([], description="be a list of names")
    corpus: str = Field("king-james", pattern=_CORPUS, examples=[*CORPORA])
    frequencies: str = "corpus"
    note: str = ""
    shape: str = ""


class TextEntry(_Record):
    """An evaluation text, and whether the suites that name it were trained on it."""

    corpus: str = Field(pattern=_CORPUS, examples=[*CORPORA])
    held_out: HeldOut = Field(examples=["yes", "no", "not checked"])
    source: ReadAsText = ""


class DefectEntry(_Record):
    """What is known to be wrong with some steps of the suites whose names match a pattern."""

    suites: list[str] = Field(description="be a list of names")
    steps: Steps
    kind: DefectKind = Field(examples=[*get_args(DefectKind)])
    belongs_to: int | None = Field(None, description="be a step")
    whole: bool = Field(True, description="be true or false")
    note: ReadAsText
    source: ReadAsText


class SuitesFile(_Record):
    """A whole file."""

    schedules: dict[str, Steps] = Field({}, description="be a mapping of names to step lists")
    shapes: dict[str, Settings] = Field({}, description="be a mapping of names to settings of a config.json")
    texts: dict[str, TextEntry] = Field({}, description="be a mapping of names to entries")
    suites: dict[str, SuiteEntry] = Field({}, description="be a mapping of names to entries")
    defects: list[DefectEntry] = Field([], description="be a list")

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v or k not in cls.model_fields} if isinstance(data, dict) else data
