"""The interpreter lock: off on free-threaded builds, unless an import turns it on (docs/free_threading.md)."""

import re
import sys
import sysconfig
import warnings
from typing import Any

_WARNING = re.compile(r"The global interpreter lock \(GIL\) has been enabled to load module '([^']+)'")
_turned_on_by: list[str] = []
_shows_warning = True


def threads_run_in_parallel() -> bool:
    """Whether threads of this process run Python code at the same time."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def lock_turned_on() -> str:
    """What has turned the lock on, on a build that begins without it: "module NAME"; "" if it is off, or meant to be
    on."""
    meant = getattr(sys.flags, "gil", None) == 1  # PYTHON_GIL=1
    if threads_run_in_parallel() or meant or not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return ""
    return f"module {_turned_on_by[0]}" if _turned_on_by else "an extension module"


def watch_lock() -> None:
    """From now on keeps the name of a module that turns the lock on: only Python's warning tells it."""
    if not threads_run_in_parallel():
        return
    show = warnings.showwarning

    def keep_name(message: Warning | str, *where: Any, **more: Any) -> None:
        found = _WARNING.match(str(message))
        _turned_on_by.extend(found.groups() if found else ())
        if _shows_warning or not found:
            show(message, *where, **more)

    warnings.showwarning = keep_name


def hide_lock_warning() -> None:
    """For a command, whose run says the same in a line of its own."""
    global _shows_warning
    _shows_warning = False
