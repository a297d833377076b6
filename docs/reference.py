"""Writes docs/settings.md and docs/api.md from the code. `tests/test_docs.py` checks that both are current.

python docs/reference.py
"""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import troupe
from troupe.config import fields, values
from troupe.config.settings import TrainConfig

DOCS = Path(__file__).parent
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", tuple: "list", dict: "table"}


def settings_page() -> str:
    lines = [
        "# Settings (hyperparameters)",
        "",
        "Every setting with its range and its default. Written by `python docs/reference.py` from",
        "`src/troupe/config/settings.py`: do not edit this page. `troupe train --help-all` prints the same.",
        "",
        "A preset, and its settings for one environment, replace some of these defaults; what you give replaces both:",
        "",
        "    troupe train CartPole-v1 --learner.learning_rate 3e-4 --network.hidden 128,128",
        '    troupe.train("CartPole-v1", settings={"learner.learning_rate": 3e-4, "network.hidden": [128, 128]})',
        "",
        "The run directory's `config.toml` has the values that a run used.",
    ]
    section = None
    sections = {each.name: each.type for each in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(each.type)}
    for name, field in fields().items():
        if section != (section := name.rpartition(".")[0]):
            lines += ["", f"## {section or 'General'}", "", *_about(sections.get(section))]
            lines += ["| setting | values | default | |", "|---|---|---|---|"]
        lines.append(
            f"| `{name}` | {_cell(_values_of(field))} | {_default(field.default)} | {_cell(field.description)} |"
        )
    return "\n".join([*lines, ""])


def _about(section: Any) -> list[str]:
    """A section's docstring, unless it is the one that dataclasses make."""
    text = inspect.getdoc(section) if section else None
    return [] if not text or text.startswith(f"{section.__name__}(") else [text, ""]


def _default(value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int):
        value = f"{value:_}"
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{value}`" if value not in ("", {}) else ""


def _values_of(field: values.Field) -> str:
    if field.choices:
        others = [_kind(kind, limits) for kind, limits in values._alternatives(field.type) if kind in (int, float)]
        own = ["or your own (`file.py:NAME`)"] if field.open else []
        return ", ".join([*others, *(f"`{choice}`" for choice in field.choices), *own])
    return ", ".join(_kind(kind, limits) for kind, limits in values._alternatives(field.type))


def _kind(kind: Any, metas: list[Any]) -> str:
    if typing.get_origin(kind) is tuple:
        each, limits = next(values._alternatives(typing.get_args(kind)[0]))
        return f"list, each {_kind(each, limits)}"
    limits = [(sign, getattr(meta, key)) for meta in metas for key, sign in _LIMITS.items()]
    range_ = " and ".join(f"{sign} {limit}" for sign, limit in limits if limit is not None)
    return f"{_KINDS.get(kind, 'table')} {range_}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def api_page() -> str:
    lines = [
        "# The Python API",
        "",
        "The public names of `troupe`. Written by `python docs/reference.py` from the code: do not edit this page.",
        "Examples are in [examples/](../examples), settings in [settings.md](settings.md), and what you can replace",
        "by code of your own is in [extending.md](extending.md).",
    ]
    for name in sorted(troupe.__all__, key=lambda name: (name[0].isupper(), name)):
        lines += ["", f"## troupe.{name}", "", *_described(name, getattr(troupe, name))]
    return "\n".join([*lines, ""])


def _described(name: str, thing: Any) -> Iterator[str]:
    tree = typing.cast(Any, ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0])
    if isinstance(tree, ast.FunctionDef):
        yield from _function(tree, name)
        return
    yield from [*_code(f"class {name}({', '.join(map(ast.unparse, tree.bases))})".replace("()", "")), *_text(tree)]
    if thing is TrainConfig:
        yield from ["", "Its fields are the settings of [settings.md](settings.md)."]
        return
    attributes = [each for each in tree.body if isinstance(each, ast.AnnAssign)]
    if attributes:
        yield from ["", "Attributes:", "", *(f"- `{ast.unparse(each)}`" for each in attributes)]
    for each in tree.body:
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield from ["", f"### {name}.{each.name}", "", *_function(each, f"{name.lower()}.{each.name}")]


def _function(tree: ast.FunctionDef, name: str) -> Iterator[str]:
    if any(isinstance(each, ast.Name) and each.id == "property" for each in tree.decorator_list):
        yield from _code(f"{name}: {ast.unparse(tree.returns) if tree.returns else 'Any'}")
    else:
        arguments = [argument for argument in ast.unparse(tree.args).split(", ") if argument != "self"]
        whole = f"{name}({', '.join(arguments)}) -> {ast.unparse(tree.returns) if tree.returns else 'None'}"
        yield from _code(whole if len(whole) <= 100 else _wrapped(name, tree))
    yield from _text(tree)


def _wrapped(name: str, tree: ast.FunctionDef) -> str:
    """The signature with an argument a line."""
    given, lines = tree.args, []
    defaults = [None] * (len(given.args) - len(given.defaults)) + list(given.defaults)
    positional, keywords = zip(given.args, defaults, strict=True), zip(given.kwonlyargs, given.kw_defaults, strict=True)
    star = [f"    *{ast.unparse(given.vararg) if given.vararg else ''},"] if given.vararg or given.kwonlyargs else []
    for group, mark in ((positional, []), (keywords, star)):
        lines += mark
        for argument, default in group:
            if argument.arg != "self":
                value = f" = {ast.unparse(default)}" if default is not None else ""
                lines.append(f"    {ast.unparse(argument)}{value},")
    lines += [f"    **{ast.unparse(given.kwarg)},"] if given.kwarg else []
    return "\n".join([f"{name}(", *lines, f") -> {ast.unparse(tree.returns) if tree.returns else 'None'}"])


def _code(text: str) -> list[str]:
    return ["```python", text.replace("'", '"'), "```"]


def _text(tree: Any) -> list[str]:
    text = ast.get_docstring(tree)
    return ["", text] if text else []


PAGES = {"settings.md": settings_page, "api.md": api_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
        print(f"wrote {DOCS / page}")
