"""What is said to a user who asked for what cannot be, or whose run failed."""

import difflib
from collections.abc import Iterable


class TroupeError(Exception):
    """A run failed; the message is one plain line. The command line exits with 1."""


class UsageError(TroupeError):
    """What was asked for cannot be: an unknown name, a value out of range. Exit status 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the nearest of the known words, or nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""
