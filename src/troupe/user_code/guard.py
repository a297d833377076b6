"""Runs the user's code: SystemExit and KeyboardInterrupt that it raises become ordinary errors."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from troupe.config import TroupeError


class ExitAttempt(TroupeError):
    """The user's code called sys.exit or raised KeyboardInterrupt, which would have ended the program."""


@contextmanager
def user_code() -> Iterator[None]:
    """For the user's code, such as an environment's import, construction, reset, step or close.

    Turns whatever it raises into an Exception; only an interrupt by a signal passes through.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise contained(error) from error


def contained(error: BaseException) -> Exception:
    """`error` as an Exception, for an `except BaseException` around the user's code where `user_code` would be too
    slow. Raises it again if a signal raised it."""
    if isinstance(error, Exception):
        return error
    if _is_interrupt(error):
        raise error
    called = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
    exits = ExitAttempt(f"{called}, where an environment must not exit the program: raise an error instead")
    return exits.with_traceback(error.__traceback__)


def _is_interrupt(error: BaseException) -> bool:
    """Signals arrive in the main thread, and troupe's handlers put the signal's number into the exception.

    With Python's own handler the two cannot be distinguished: then it counts as an interrupt by the user.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    numbered = bool(error.args) and isinstance(error.args[0], int)
    return numbered or signal.getsignal(signal.SIGINT) is signal.default_int_handler
