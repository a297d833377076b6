"""Settings that are arguments of a callable, such as `env.kwargs`: which it takes, and how text is converted."""

import enum
import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from troupe.config.errors import UsageError, did_you_mean, plain_words

_UNKNOWN = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """`hint` is the annotated type, or else the default's; `Parameter.empty` if there is neither."""

    hint: Any
    required: bool


@dataclass(frozen=True)
class Parameters:
    """The named parameters of a callable; `open` if it takes any other name as well (**kwargs)."""

    known: Mapping[str, Parameter]
    open: bool
    takes_mode: bool = False  # whether `render_mode` is one of its own, not of a base that **kwargs may reach


def parameters_of(maker: Callable[..., Any], defaults: Mapping[str, Any] | None = None) -> Parameters:
    """What `maker` takes by name, including `defaults` (a registered environment's own kwargs)."""
    signature = _signature(maker)
    if signature is None:
        return Parameters({}, open=True)
    parameters = list(signature.parameters.values())
    is_open = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if is_open and inspect.isclass(maker):  # what it passes on to its bases
        for base in maker.__mro__[1:-1]:
            inherited = _signature(vars(base)["__init__"]) if "__init__" in vars(base) else None
            parameters += list(inherited.parameters.values())[1:] if inherited else []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known: dict[str, Parameter] = {}
    for each in parameters:
        if each.kind in named and each.name not in known:
            required = each.default is _UNKNOWN and each.name in signature.parameters
            known[each.name] = Parameter(_hint(each.annotation, each.default), required)
    for name, default in (defaults or {}).items():
        hint = known[name].hint if name in known else _UNKNOWN
        known[name] = Parameter(_hint(hint, default), required=False)
    return Parameters(known, is_open, takes_mode="render_mode" in signature.parameters)


def fill(
    owner: str,
    table: str,
    parameters: Parameters,
    given: Mapping[str, Any],
    texts: Collection[str] = (),
    passed: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments in `given`, as they are passed and as config.toml holds them.

    `owner` ("loss ppo_kl") and `table` ("loss.kwargs") name the callable and its settings in errors. Strings of the
    names in `texts` are text from a shell, and are converted. The caller passes those in `passed`.

    Raises UsageError, in one line, for a name that is not taken, a value that does not fit, or an
    argument that is missing.
    """
    values: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in given.items():
        if name not in parameters.known and not parameters.open:
            raise not_taken(owner, table, parameters, name, passed)
        hint = parameters.known[name].hint if name in parameters.known else _UNKNOWN
        plain[name] = _read(f"{table}.{name}", value, hint) if name in texts and isinstance(value, str) else value
        values[name] = _fitted(plain[name], hint)
    missing = [name for name, each in parameters.known.items() if each.required and name not in {*plain, *passed}]
    if missing:
        options = " ".join(f"--{table}.{name} VALUE" for name in missing)
        raise UsageError(f"{owner} needs {'arguments' if len(missing) > 1 else 'an argument'}: {options}")
    return values, plain


def not_taken(owner: str, table: str, parameters: Parameters, name: str, hidden: Collection[str] = ()) -> UsageError:
    """The error for an argument that does not exist; the names in `hidden` are not offered instead."""
    taken = [known for known in parameters.known if known not in {*hidden, name}]
    return UsageError(
        f"{table}.{name}: {owner} takes no such argument{did_you_mean(name, taken)} "
        f"(it takes {', '.join(taken) or 'none'})"
    )


def _signature(maker: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(maker, eval_str=True)
    except Exception:  # no signature, or annotations that name what only a type checker imports
        try:
            return inspect.signature(maker)
        except (TypeError, ValueError):
            return None


def _hint(annotation: Any, default: Any) -> Any:
    if annotation is not _UNKNOWN and not isinstance(annotation, str):
        return annotation if _is_readable(annotation) else _UNKNOWN
    if type(default) is int:
        return int | float  # a number that happens to be whole
    return type(default) if isinstance(default, bool | float | str | list | tuple | enum.Enum) else _UNKNOWN


def _is_readable(hint: Any) -> bool:
    """Whether msgspec makes values of this type."""
    try:
        info = msgspec.inspect.type_info(hint)
    except TypeError:
        return False
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return not any(isinstance(each, msgspec.inspect.CustomType | msgspec.inspect.AnyType) for each in members)


def _read(name: str, text: str, hint: Any) -> Any:
    """`text` as a value of the type `hint`, in types that TOML has."""
    if hint is str:
        return text
    value = _toml(text)
    if hint is _UNKNOWN:
        return value
    for candidate, strict in ((value, True), (text, False)):
        try:
            return msgspec.to_builtins(msgspec.convert(candidate, hint, strict=strict))
        except msgspec.ValidationError as error:
            wrong = plain_words(str(error))
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        wrong = plain_words(str(error))
    raise UsageError(f"{name} = {text!r}: {wrong}")


def _toml(text: str) -> Any:
    """`text` as a TOML value; unchanged if it is not one."""
    if text in ("True", "False"):
        return text == "True"
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if read.keys() == {"value"} else text


def _fitted(value: Any, hint: Any) -> Any:
    """`value` as the type of its parameter (a tuple, an Enum, a dataclass), if it can be converted."""
    if hint is _UNKNOWN:
        return value
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return value  # annotations are not always meant literally: the callable may accept it
