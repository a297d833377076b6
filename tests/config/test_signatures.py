"""Arguments of the user's callables: which a callable takes, and how they are passed and kept."""

import datetime
import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from troupe.config import UsageError
from troupe.config.signatures import Parameter, Parameters, fill, not_taken, parameters_of

UNKNOWN = inspect.Parameter.empty


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Shape:
    length: int


class Base:
    def __init__(self, width: int, height: float = 1.0, render_mode: str | None = None):
        pass


class Middle(Base):
    """Has no __init__ of its own."""


class Closed(Middle):
    def __init__(self, size: int):
        super().__init__(size)


class Open(Middle):
    def __init__(self, size: int, height: bool = True, **more: Any):
        super().__init__(size, **more)


def known(maker: Callable[..., Any], defaults: dict[str, Any] | None = None) -> dict[str, tuple[Any, bool]]:
    return {name: (each.hint, each.required) for name, each in parameters_of(maker, defaults).known.items()}


def test_parameters_are_those_that_can_be_named_with_their_types():
    def maker(given: int, /, one: int, *rest: int, two: Shape, three: str = "x") -> None: ...

    assert known(maker) == {"one": (int, True), "two": (Shape, True), "three": (str, False)}
    assert not parameters_of(maker).open


@pytest.mark.parametrize(
    ("default", "hint"),
    [
        (3, int | float), (True, bool), (0.5, float), ("x", str), ([1], list), ((1,), tuple), (Colour.RED, Colour),
        (None, UNKNOWN), ({}, UNKNOWN), (object(), UNKNOWN),
    ],
)  # fmt: skip
def test_without_an_annotation_the_type_is_that_of_the_default_and_a_whole_number_is_any_number(default, hint):
    def maker(one=default): ...

    assert known(maker) == {"one": (hint, False)}


def test_annotations_that_no_value_can_be_read_as_are_left_out():
    def maker(one: Callable[[], int], two: "Shape", three: "Nowhere", four: "Nowhere" = 0.5, five: Any = 1): ...

    def of_union(one: int | Base = 3, two: int | None = 3): ...

    assert known(maker) == {
        "one": (UNKNOWN, True), "two": (UNKNOWN, True), "three": (UNKNOWN, True), "four": (float, False),
        "five": (UNKNOWN, False),
    }  # fmt: skip
    assert known(of_union) == {"one": (UNKNOWN, False), "two": (int | None, False)}


def test_a_class_that_takes_any_name_takes_those_of_its_bases_too_and_its_own_come_first():
    assert known(Closed) == {"size": (int, True)}
    assert known(Open) == {
        "size": (int, True), "height": (bool, False), "width": (int, False), "render_mode": (str | None, False),
    }  # fmt: skip
    assert (parameters_of(Open).open, parameters_of(Closed).open) == (True, False)


def test_a_mode_of_a_base_is_not_taken_for_ones_own():
    assert parameters_of(Base).takes_mode
    assert not parameters_of(Open).takes_mode


def test_registered_arguments_have_a_default_and_need_not_be_given():
    def maker(one: float, two=None, **more): ...

    assert known(maker, {"one": 3, "two": "x", "three": True}) == {
        "one": (float, False), "two": (str, False), "three": (bool, False),
    }  # fmt: skip


def test_what_has_no_signature_takes_anything():
    assert parameters_of(dict) == Parameters({}, open=True)
    assert not parameters_of(dict).takes_mode


# Values

TYPED = Parameters(
    {
        "pair": Parameter(tuple[int, int], required=False),
        "rate": Parameter(float, required=False),
        "whole": Parameter(int, required=False),
        "shape": Parameter(Shape, required=False),
        "word": Parameter(str, required=False),
        "kind": Parameter(Literal["a", "b"], required=False),
        "digit": Parameter(Literal["1", "2"], required=False),
        "on": Parameter(bool, required=False),
        "plain": Parameter(UNKNOWN, required=False),
    },
    open=False,
)


def filled(given: dict[str, Any], parameters: Parameters = TYPED, texts: tuple[str, ...] = (), **more: Any) -> Any:
    return fill("loss own", "loss.kwargs", parameters, given, texts, **more)


@pytest.mark.parametrize(
    ("name", "text", "passed", "kept"),
    [
        ("pair", "[3, 4]", (3, 4), (3, 4)),
        ("rate", "7", 7.0, 7.0),
        ("digit", "1", "1", "1"),  # no number
        ("on", "1", True, True),
        ("shape", "{length = 3}", Shape(3), {"length": 3}),
        ("word", "7", "7", "7"),
        ("kind", "b", "b", "b"),
        ("plain", "2024-01-02", datetime.date(2024, 1, 2), datetime.date(2024, 1, 2)),
        ("plain", "False", False, False),
        ("plain", "1\nother = 2", "1\nother = 2", "1\nother = 2"),
        ("plain", "[1,", "[1,", "[1,"),
    ],
)
def test_a_text_of_a_shell_is_read_and_kept_as_toml_can_hold_it(name, text, passed, kept):
    assert filled({name: text}, texts=(name,)) == ({name: passed}, {name: kept})
    assert type(filled({name: text}, texts=(name,))[1][name]) is type(kept)


def test_a_value_from_python_is_kept_and_is_passed_as_its_parameters_type_where_that_is_possible():
    assert filled({"pair": [3, 4], "plain": "7"}) == ({"pair": (3, 4), "plain": "7"}, {"pair": [3, 4], "plain": "7"})
    assert filled({"pair": "no pair"})[0] == {"pair": "no pair"}  # it may be accepted all the same
    assert filled({"whole": 7}, texts=("whole",)) == ({"whole": 7},) * 2  # no text


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("whole", "big", "loss.kwargs.whole = 'big': expected a whole number"),
        ("pair", "[1]", "loss.kwargs.pair = '[1]': expected "),
        ("kind", "c", "loss.kwargs.kind = 'c': invalid enum value 'c'"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_by_its_name(name, text, wrong):
    with pytest.raises(UsageError) as caught:
        filled({name: text}, texts=(name,))
    assert str(caught.value).startswith(wrong)


def test_an_unknown_name_is_refused_with_the_nearest_unless_any_name_is_taken():
    with pytest.raises(
        UsageError, match=r"^loss\.kwargs\.wole: loss own takes no such argument; did you mean whole\? "
    ):
        filled({"wole": 1})
    assert filled({"wole": "1"}, Parameters({}, open=True), texts=("wole",)) == ({"wole": 1}, {"wole": 1})


def test_an_argument_that_the_caller_passes_is_not_offered_and_not_missing():
    needs = Parameters({"one": Parameter(int, required=True), "two": Parameter(int, required=True)}, open=False)
    with pytest.raises(UsageError, match=r"^loss own needs arguments: --loss\.kwargs\.one VALUE --loss\.kwargs\.two V"):
        filled({}, needs)
    with pytest.raises(UsageError, match=r"^loss own needs an argument: --loss\.kwargs\.two VALUE$"):
        filled({}, needs, passed=("one",))
    with pytest.raises(UsageError, match=r"^loss own needs an argument: --loss\.kwargs\.two VALUE$"):
        filled({"one": 1}, needs)
    assert filled({"two": 2}, needs, passed=("one",)) == ({"two": 2},) * 2
    with pytest.raises(UsageError, match=r"takes no such argument \(it takes two\)$"):
        filled({"ome": 1, "two": 2}, needs, passed=("one",))


def test_an_argument_that_does_not_exist_is_answered_with_the_others():
    assert str(not_taken("loss own", "loss.kwargs", TYPED, "rate", ("pair",))) == (
        "loss.kwargs.rate: loss own takes no such argument (it takes whole, shape, word, kind, digit, on, plain)"
    )
    assert str(not_taken("loss own", "loss.kwargs", Parameters({}, open=False), "x")).endswith(" (it takes none)")
