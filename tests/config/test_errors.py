"""Errors in plain words."""

import pytest

from troupe import TroupeError
from troupe.config import did_you_mean, one_line, plain_words, reason


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Expected `int` >= 1", "expected a whole number of at least 1"),
        ("Expected `int` > 0", "expected a whole number above 0"),
        ("Expected `int` <= 1024.0", "expected a whole number of at most 1024"),
        ("Expected `float` < 1.0", "expected a number below 1"),
        ("Expected `float` >= 0.5", "expected a number of at least 0.5"),
        ("Expected `int | float`, got `str`", "expected a number"),
        ("Expected `bool`, got `str` - at `$.a`", "expected true or false"),
        ("Expected `str`, got `int`", "expected text"),
        ("Expected `array`, got `int`", "expected a list"),
        ("Expected `array` of length >= 2", "expected at least 2 value"),
        ("Expected `object`, got `int` - at `$[0]`", "expected a table"),
        ("Invalid enum value 'int'", "invalid enum value 'a whole number'"),
        ("", ""),
    ],
)
def test_an_error_about_a_value_is_told_without_pythons_words(raw, words):
    assert plain_words(raw) == words


def test_the_nearest_word_is_asked_for_whatever_its_case():
    known = ("CartPole-v1", "Acrobot-v1")
    assert did_you_mean("cartpole-V1", known) == "; did you mean CartPole-v1?"
    assert did_you_mean("Crobot", known) == "; did you mean Acrobot-v1?"
    assert did_you_mean("zzz", known) == did_you_mean("x", ()) == ""


def test_the_systems_reason_is_told_without_type_and_number():
    assert reason(OSError(28, "No space left on device", "/x")) == "no space left on device"
    assert reason(OSError("odd")) == "OSError: odd"
    assert reason(ValueError("a\nb")) == "a b"
    assert reason(TroupeError("no road")) == one_line("no  road ") == "no road"
