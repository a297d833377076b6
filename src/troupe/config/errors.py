"""Errors for users, and text that is safe to print."""

import difflib
import re
import traceback
from collections.abc import Iterable


class TroupeError(Exception):
    """A run failed; the message is one plain line. The command line exits with 1."""


class UsageError(TroupeError):
    """Wrong usage: an unknown name, a value out of range, an environment whose first reset or step breaks Gymnasium's
    interface (then it is a WrongEnvironment, a subclass). Exit status 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the nearest of the known words, or nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


_KINDS = {
    "array": "a list", "bool": "true or false", "float": "a number", "int | float": "a number",
    "int": "a whole number", "object": "a table", "str": "text",
}  # fmt: skip
_BOUNDS = {">=": "of at least", ">": "above", "<=": "of at most", "<": "below"}


def plain_words(wrong: str) -> str:
    """An error of msgspec without Python's terms: "Expected `int` >= 1" -> "expected a whole number of
    at least 1"."""
    wrong = re.sub(r" - at `.*`$|, got .*$|`", "", wrong)
    wrong = re.sub(r"array of length >= (\d+)", r"at least \1 value", wrong)
    wrong = re.sub(rf"\b({'|'.join(map(re.escape, _KINDS))})\b", lambda match: _KINDS[match[1]], wrong, count=1)
    wrong = re.sub(r" (>=|>|<=|<) (\S+?)(?:\.0)?$", lambda match: f" {_BOUNDS[match[1]]} {match[2]}", wrong)
    return wrong[:1].lower() + wrong[1:]


def printable(text: str) -> str:
    """The text with escapes for what a terminal would interpret or UTF-8 cannot encode; line breaks and tabs stay.

    Errors, ids and names come from environments and from files of strangers: they may hold control sequences,
    characters that reverse the writing direction, or lone surrogates (bytes of a file name that are not UTF-8).
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def one_line(what: BaseException | str) -> str:
    """A text, or the message of an exception, as one printable line.

    An exception gives `Type: text`, a TroupeError the text alone; one without a text gives where it was raised.
    """
    if isinstance(what, str):
        return printable(" ".join(what.split()))
    kind = type(what).__name__
    try:
        text = one_line(str(what))
    except Exception:  # a user's exception whose __str__ is broken
        text = ""
    if text:
        return text if isinstance(what, TroupeError) else f"{kind}: {text}"
    frames = traceback.extract_tb(what.__traceback__)
    return one_line(f"{kind} raised at {frames[-1].filename}:{frames[-1].lineno}") if frames else kind


def reason(error: BaseException) -> str:
    """Why the system refused, such as "no space left on device", or why a file is not what it should be, without type
    and number; others as `one_line`."""
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror[0].lower() + error.strerror[1:])
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if type(error) is ValueError and str(error):
        return one_line(str(error))
    return one_line(error)
