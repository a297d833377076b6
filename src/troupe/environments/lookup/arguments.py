"""Arguments of an environment (`env.kwargs`): which it takes, and what text from a shell means to them."""

import enum
import inspect
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from troupe.config import UsageError, did_you_mean, plain_words

_UNKNOWN = inspect.Parameter.empty
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class Parameter:
    """`hint` is the annotated type, or else the default's; `Parameter.empty` where there is neither."""

    hint: Any
    required: bool


@dataclass(frozen=True)
class Parameters:
    """The named parameters of a callable; `open` where it takes any other name as well (**kwargs)."""

    known: Mapping[str, Parameter]
    open: bool
    takes_mode: bool = False  # whether `render_mode` is one of its own, not of a base that **kwargs may reach


def parameters_of(maker: Callable[..., Any], defaults: Mapping[str, Any] | None = None) -> Parameters:
    """What `maker` takes by name, `defaults` (a registered environment's own kwargs) counted in."""
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
    env_id: str, parameters: Parameters, given: Mapping[str, Any], texts: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments out of `given`, as they are passed and as config.toml holds them.

    Strings of the names in `texts` are read as a shell gives them.

    Raises UsageError, in one line, for a name that is not taken, a value that does not fit, or an
    argument that is missing.
    """
    values: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in given.items():
        _check_name(env_id, parameters, name)
        hint = parameters.known[name].hint if name in parameters.known else _UNKNOWN
        plain[name] = _read(name, value, hint) if name in texts and isinstance(value, str) else value
        values[name] = _fitted(plain[name], hint)
    missing = [name for name, each in parameters.known.items() if each.required and name not in plain]
    missing = [name for name in missing if name != "render_mode"]
    if missing:
        options = " ".join(f"--env.kwargs.{name} VALUE" for name in missing)
        raise UsageError(f"environment {env_id} needs {'arguments' if len(missing) > 1 else 'an argument'}: {options}")
    return values, plain


@contextmanager
def naming_strays(env_id: str, parameters: Parameters, given: Collection[str]) -> Iterator[None]:
    """Where the first environment cannot be made because it does not take one of the `given` names, says that."""
    try:
        yield
    except UsageError as error:
        match = _UNEXPECTED.search(str(error.__cause__)) if isinstance(error.__cause__, TypeError) else None
        if match and match[1] in given:
            raise _stray(env_id, parameters, match[1]) from None
        raise


def _check_name(env_id: str, parameters: Parameters, name: str) -> None:
    if name == "render_mode":
        raise UsageError("env.kwargs.render_mode: it is set by what shows the environment (troupe watch); leave it out")
    if name not in parameters.known and not parameters.open:
        raise _stray(env_id, parameters, name)


def _stray(env_id: str, parameters: Parameters, name: str) -> UsageError:
    if name == "max_episode_steps":
        return UsageError("env.kwargs.max_episode_steps: a time limit is set by --env.max_steps")
    taken = [known for known in parameters.known if known not in ("render_mode", name)]
    return UsageError(
        f"env.kwargs.{name}: environment {env_id} takes no such argument{did_you_mean(name, taken)} "
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
    """What `text` means where a value of `hint` is expected, in types that TOML has."""
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
    raise UsageError(f"env.kwargs.{name} = {text!r}: {wrong}")


def _toml(text: str) -> Any:
    """`text` as a TOML value; itself where it is none."""
    if text in ("True", "False"):
        return text == "True"
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if read.keys() == {"value"} else text


def _fitted(value: Any, hint: Any) -> Any:
    """`value` as its parameter is annotated (a tuple, an Enum, a dataclass), where that can be made of it."""
    if hint is _UNKNOWN:
        return value
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return value  # annotations are not always meant literally; the callable has the last word
