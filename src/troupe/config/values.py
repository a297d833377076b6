"""Settings by their dotted names, and configurations built from them, with every name and value checked."""

import dataclasses
import datetime
import math
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import msgspec

from troupe.config.checks import check_together
from troupe.config.errors import UsageError, did_you_mean, plain_words
from troupe.config.settings import TrainConfig
from troupe.config.suggestions import suggest

PASSED = "python:"  # prefix of a setting's value that names a callable passed from Python, which is not saved
# Settings whose names are free: arguments of a callable, and files.
TABLES = ("env.kwargs", "loss.kwargs", "learner.optimizer_kwargs", "env.files")


def build(dotted: Mapping[str, Any]) -> TrainConfig:
    """A configuration from dotted names; checks every name and value, and combinations of settings."""
    known = fields()
    nested: dict[str, Any] = {}
    for name, value in flatten(dotted):
        if table := _table_of(name):
            section, _, leaf = table.rpartition(".")
            key = name.removeprefix(f"{table}.")
            nested.setdefault(section, {}).setdefault(leaf, {})[key] = _storable(name, value)
            continue
        if name in TABLES:
            raise UsageError(f"{name} = {value!r}: expected a table; write {name}.NAME for each entry")
        check_name(name)
        checked = _convert(name, value, known[name])
        section, _, leaf = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = checked
    config = msgspec.convert(nested, TrainConfig)
    check_together(config)
    return config


def check_name(name: str) -> None:
    """Raises UsageError, with the nearest name, where there is no such setting."""
    known = fields()
    if name not in known and not _table_of(name):
        section = name.partition(".")[0]
        there = section if any(each.startswith(f"{section}.") for each in known) else ""
        help_ = f"--help {there}" if there else "--help-all"
        raise UsageError(f"no setting '{name}'{suggest(name, known)} (troupe train {help_} lists them)")


def replace(config: TrainConfig, changed: Mapping[str, Any]) -> TrainConfig:
    """`config` with the settings in `changed`, by dotted name, checked."""
    return build(by_name(config) | dict(changed))


def by_name(config: TrainConfig) -> dict[str, Any]:
    """Every setting's value by its dotted name."""
    return dict(flatten(dataclasses.asdict(config)))


def _table_of(name: str) -> str:
    """The table that `name` is an entry of; "" for every other setting."""
    return next((table for table in TABLES if name.startswith(f"{table}.")), "")


def _storable(name: str, value: Any) -> Any:
    """`value` as TOML holds it: text, numbers, booleans, dates, lists and tables of these."""
    if isinstance(value, Mapping):
        return {str(key): _storable(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(name, item) for item in value]
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value  # NumPy's numbers
    if not isinstance(value, str | bool | int | float | datetime.date | datetime.time):
        raise UsageError(
            f"{name} = {value!r}: config.toml cannot hold a value of type {type(value).__name__}; "
            "make it inside a factory, and train with that (env=factory)"
        )
    return value


def check_option(option: str, name: str, value: Any, also: str | None = None) -> None:
    """Raises UsageError, which names the `option` for it, if `value` does not fit the setting `name`.

    `also` is another word that the option takes.
    """
    try:
        check_value(name, value)
    except UsageError as error:
        message = str(error).replace(f"{name} = ", f"{option} ")
        raise UsageError(f"{message}, or {also}" if also else message) from None


def check_value(name: str, value: Any) -> None:
    """Raises UsageError if `value` does not fit the setting `name`."""
    _convert(name, value, fields()[name])


def _convert(name: str, value: Any, field: "Field") -> Any:
    given = value
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    if field.open:
        if isinstance(value, str) and (value in field.choices or _CALLABLE.fullmatch(value)):
            return value
        raise UsageError(
            f"{name} = {given!r}: expected one of {' | '.join(field.choices)}, path/to/file.py:NAME or module:NAME"
            f"{did_you_mean(str(value), field.choices)}"
        )
    if typing.get_origin(typing.get_args(field.type)[0]) is tuple and not isinstance(value, list | tuple):
        value = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else [value]
    if isinstance(value, str) and any(each is int for each, _ in _alternatives(field.type)):
        number = whole_number(value)
        value = value if number is None else number
    try:
        converted = msgspec.convert(value, field.type, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a finite number")
        return converted
    except msgspec.ValidationError as error:
        kinds = [
            plain_words(each.__name__ + "".join(f" >= {limit.ge}" for limit in limits))
            for each, limits in _alternatives(field.type)
            if each in (int, float)
        ]
        choices = " | ".join(field.choices)
        kinds += [choices if len(field.choices) == 1 else f"one of {choices}"] if choices else []
        wrong = f"expected {' or '.join(kinds)}" if choices else plain_words(str(error))
        wrong += ", such as 300000, 100k or 1.5M" if name == "stop.steps" and wrong.endswith("number") else ""
        near = did_you_mean(given, field.choices) if isinstance(given, str) else ""
        raise UsageError(f"{name} = {given!r}: {wrong}{near}") from None


@dataclass(frozen=True)
class Field:
    name: str
    type: Any
    default: Any
    description: str
    choices: tuple[str, ...]
    open: bool  # whether it takes callables of the user as well


_CALLABLE = re.compile(r".+:\w+")


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of the setting with this dotted name."""
    return operator.attrgetter(name)(config)


def named_callables(config: TrainConfig) -> dict[str, str]:
    """The open settings whose value is `path/to/file.py:NAME` or `module:NAME`, by dotted name."""
    values = {name: value_of(config, name) for name, field in fields().items() if field.open}
    return {name: value for name, value in values.items() if _CALLABLE.fullmatch(value)}


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
            default = {} if item.default is dataclasses.MISSING else item.default
            literals = [each for each, _ in _alternatives(inner) if typing.get_origin(each) is Literal]
            open_choices = (meta.extra or {}).get("choices", ())
            choices = open_choices or tuple(choice for each in literals for choice in typing.get_args(each))
            yield Field(prefix + item.name, kind, default, meta.description, choices, bool(open_choices))


def _alternatives(kind: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The types that a setting takes, each with its limits."""
    inner, *limits = typing.get_args(kind) if typing.get_origin(kind) is typing.Annotated else (kind,)
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        for part in typing.get_args(inner):
            yield from _alternatives(part)
    else:
        yield inner, limits


def differing(one: TrainConfig, other: TrainConfig) -> list[str]:
    """The dotted names of the settings that are not the same in both."""
    values = [by_name(config) for config in (one, other)]
    return [name for name in values[0] if values[0][name] != values[1].get(name)]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Both {"learner": {"epochs": 4}} and {"learner.epochs": 4} -> ("learner.epochs", 4).

    A value in one of TABLES may be a table itself, and is kept.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and not _table_of(prefix + key):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def whole_number(text: str) -> int | None:
    """'300000', '300_000', '100k', '1.5M' and '1e6' as whole numbers; None for anything else."""
    match = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\d{1,2})?)([kmb]?)", text.strip().lower())
    if not match:
        return None
    value = Decimal(match[1]) * _MULTIPLES[match[2]]
    return int(value) if value == int(value) else None


_UNITS_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """'90', '30s', '1.5m', '2h' in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match:
        raise UsageError(f"'{text}' is not a time: write 30s, 5m or 1.5h")
    return float(match[1]) * _UNITS_SECONDS[match[2]]
