"""Settings by their dotted names: which there are, and a configuration made of them, every name and value checked."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import msgspec

from troupe.config.checks import check_together
from troupe.config.errors import UsageError, did_you_mean
from troupe.config.settings import TrainConfig


def build(dotted: Mapping[str, Any]) -> TrainConfig:
    """A configuration from dotted names; every name and value is checked, and what does not go together."""
    known = fields()
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        if name not in known:
            raise UsageError(f"no setting '{name}'{did_you_mean(name, known)} (troupe train --help lists them)")
        checked = _convert(name, value, known[name])
        section, _, leaf = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = checked
    config = msgspec.convert(nested, TrainConfig)
    check_together(config)
    return config


def replace(config: TrainConfig, changed: Mapping[str, Any]) -> TrainConfig:
    """`config` with the settings in `changed`, by dotted name, checked."""
    return build(dict(flatten(dataclasses.asdict(config))) | dict(changed))


def _convert(name: str, value: Any, field: "Field") -> Any:
    given = value
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    if typing.get_origin(typing.get_args(field.type)[0]) is tuple and not isinstance(value, list | tuple):
        value = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else [value]
    try:
        converted = msgspec.convert(value, field.type, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a finite number")
        return converted
    except msgspec.ValidationError as error:
        wrong = re.sub(r" - at `.*`$", "", str(error)).replace("`", "")
        kinds = (*_numbers(field.type), *field.choices)
        wrong = f"expected {' | '.join(kinds)}" if field.choices else wrong[0].lower() + wrong[1:]
        near = did_you_mean(given, field.choices) if isinstance(given, str) else ""
        raise UsageError(f"{name} = {given!r}: {wrong}{near}") from None


@dataclass(frozen=True)
class Field:
    name: str
    type: Any
    default: Any
    description: str
    choices: tuple[str, ...]


@cache
def fields() -> Mapping[str, Field]:
    """Every setting by its dotted name, in order."""
    return {item.name: item for item in _fields(TrainConfig)}


def _fields(section: type, prefix: str = "") -> Iterator[Field]:
    for item in dataclasses.fields(section):
        kind = typing.cast(Any, item.type)
        if dataclasses.is_dataclass(kind):
            yield from _fields(typing.cast(type, kind), f"{item.name}.")
        else:
            inner, meta = typing.get_args(kind)[:2]
            yield Field(prefix + item.name, kind, item.default, meta.description, _choices(inner))


def _choices(kind: Any) -> tuple[str, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(kind) for choice in _choices(part))
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _numbers(kind: Any) -> Iterator[str]:
    """The numbers that may stand in place of a choice: "float", or "int >= 0"."""
    for part in typing.get_args(typing.get_args(kind)[0]):
        number, *limits = typing.get_args(part) or (part,)
        if number in (int, float):
            yield number.__name__ + "".join(f" >= {limit.ge}" for limit in limits)


def differing(one: TrainConfig, other: TrainConfig) -> list[str]:
    """The dotted names of the settings that are not the same in both."""
    values = [dict(flatten(dataclasses.asdict(config))) for config in (one, other)]
    return [name for name in values[0] if values[0][name] != values[1].get(name)]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"learner": {"epochs": 4}} and {"learner.epochs": 4} alike -> ("learner.epochs", 4)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


_UNITS_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """'90', '30s', '1.5m', '2h' in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a time: write 30s, 5m or 1.5h")
    return float(match[1]) * _UNITS_SECONDS[match[2]]
