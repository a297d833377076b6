"""Finds the callbacks of a run: objects, names of the user's code, and trackers."""

from collections.abc import Sequence

from troupe.config import UsageError, did_you_mean, one_line
from troupe.runs.callbacks.callback import Callback
from troupe.runs.callbacks.trackers import SERVICES, tracker
from troupe.user_code import files
from troupe.user_code.guard import user_code


def find(given: Sequence[Callback | str]) -> list[Callback]:
    """The callbacks: objects as they are, the trackers by their names ("wandb"), and of other names
    ("path/to/file.py:NAME", "module:NAME") what they make when called without arguments.

    Raises UsageError, in one line, for anything else.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UsageError(f"callbacks = {given!r}: expected a list")
    found = [_found(each) for each in given]
    for each in found:
        _check_methods(type(each))
    return found


def _check_methods(kind: type[Callback]) -> None:
    """Refuses a method that looks like one of a callback's and is none: it would never be called."""
    known = [name for name in vars(Callback) if name.startswith("on_")]
    for name in dir(kind):
        if name.startswith("on_") and name not in known:
            raise UsageError(
                f"callback {kind.__name__}: no run calls {name}{did_you_mean(name, known)} "
                f"(a run calls {', '.join(known)})"
            )


def _found(given: object) -> Callback:
    if isinstance(given, Callback):
        return given
    if not isinstance(given, str):
        hint = f"an object of it, {given.__name__}()" if isinstance(given, type) else "a troupe.Callback or a name"
        raise UsageError(f"callbacks: {given!r} is not a callback; expected {hint} (docs/extending.md)")
    if given in SERVICES:
        return tracker(given)
    make = files.load_callable(given, "callbacks", "callback")
    shown = files.without_folder(given)
    try:
        with user_code():
            made = make()
    except Exception as error:
        raise UsageError(f"callback {shown}: called without arguments it raised {one_line(error)}") from error
    if not isinstance(made, Callback):
        kind = type(made).__name__
        raise UsageError(f"callback {shown}: called without arguments it returned a {kind}, not a troupe.Callback")
    return made
