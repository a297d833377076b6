"""What several test files share: `from helpers... import ...`, as pytest puts this folder on the path."""

from collections.abc import Iterable
from typing import Any

import pytest

PATIENCE_SECONDS = 240  # ends what hangs, before pytest's own limit does; nothing waits for so long on a busy machine


def slow(*values: Any) -> Any:
    """A set of parameters for `parametrize` that only the slow tests have."""
    return pytest.param(*values, marks=pytest.mark.slow)


def slow_unless(quick: Iterable[Any], all_of: Iterable[Any]) -> list[Any]:
    """Parameters for `parametrize`: those that are not among `quick` are slow."""
    quick = list(quick)
    return [each if each in quick else slow(each) for each in all_of]


def slow_unless_in_turn(ones: Iterable[Any], others: Iterable[Any], each: int = 2) -> list[Any]:
    """All pairs, as parameters: each of `ones` with the next `each` of `others` is quick, the rest is slow.

    So every value of both occurs in the quick pairs, if `ones` times `each` are as many as `others`.
    """
    others = list(others)
    return [
        (one, other) if (index - each * row) % len(others) < each else slow(one, other)
        for row, one in enumerate(ones)
        for index, other in enumerate(others)
    ]
