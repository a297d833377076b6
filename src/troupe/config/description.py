"""What a setting's annotation carries besides its type."""

from typing import Any

from msgspec import Meta


def doc(text: str, *, choices: tuple[str, ...] = (), **limits: Any) -> Meta:
    """`choices` are those of a setting that also takes callables of the user (`user_code/choices.py`)."""
    return Meta(description=text, extra={"choices": choices} if choices else None, **limits)
