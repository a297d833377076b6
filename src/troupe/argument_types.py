"""Types of the command line's arguments, for argparse: text to a value, or an error that says what was expected."""

import argparse
from collections.abc import Callable

from troupe import config


def count(least: int) -> Callable[[str], int]:
    def checked(text: str) -> int:
        number = config.whole_number(text)
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of at least {least}")
        return number

    return checked


def steps_or_auto(text: str) -> int | str:
    return text if text == "auto" else count(0)(text)


def tracker(text: str) -> str:
    known = ("wandb", "mlflow")
    if text not in known:
        expected = f"expected {' or '.join(known)}{config.did_you_mean(text, known)}"
        raise argparse.ArgumentTypeError(f"'{text}': {expected}")
    return text


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    for index, name in enumerate(found):
        if not name:
            raise argparse.ArgumentTypeError(f"'{text}': expected names, separated by commas")
        if name in found[:index]:
            raise argparse.ArgumentTypeError(f"'{text}': {name} occurs twice")
    return found
