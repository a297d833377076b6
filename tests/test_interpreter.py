"""The interpreter lock of a free-threaded Python: what follows where it is off, and what is said where it is on again.

On other builds the tests pretend; those at the end need a free-threaded one.
"""

import shutil
import subprocess
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_SECONDS
from troupe import interpreter
from troupe.config import resolve
from troupe.environments import find
from troupe.runtime.execution.hang_detector import stack_of
from troupe.runtime.execution.placements import placement_of

MODULE = "old_extension"
WARNING = (
    f"The global interpreter lock (GIL) has been enabled to load module '{MODULE}', which has not declared that it can "
    "run safely without the GIL. To override this behavior and keep the GIL disabled (at your own risk), run with "
    "PYTHON_GIL=0 or -Xgil=0."
)


class Lock:
    """What Python says of its lock, and the warnings that it has shown."""

    def __init__(self) -> None:
        self.on, self.shown = False, list[str]()


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lock]:
    """The lock of a free-threaded build: off, until the test turns it on."""
    lock = Lock()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: lock.on, raising=False)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: {"Py_GIL_DISABLED": 1}.get(name))
    monkeypatch.setattr(interpreter, "_turned_on_by", [])
    monkeypatch.setattr(interpreter, "_shows_warning", True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: lock.shown.append(str(message))
        interpreter.watch_lock()
        yield lock


def load_old_extension(lock: Lock) -> None:
    lock.on = True
    warnings.warn(WARNING, RuntimeWarning, stacklevel=1)


def placement(env: str, **settings: object) -> str:
    return placement_of(resolve(env, settings=settings, tuned=False), find(env)).name


def test_without_a_lock_actors_are_threads_unless_processes_are_asked_for(lock):
    assert placement("MountainCar-v0") == "thread"
    assert placement("MountainCar-v0", **{"actor.placement": "process"}) == "process"
    load_old_extension(lock)
    assert placement("MountainCar-v0") == "process"


def test_the_module_that_turned_the_lock_on_is_named_and_pythons_warning_stays(lock):
    assert interpreter.lock_turned_on() == ""
    load_old_extension(lock)
    assert interpreter.lock_turned_on() == f"module {MODULE}"
    assert lock.shown == [WARNING]


def test_a_command_says_it_in_its_own_words_only(lock):
    interpreter.hide_lock_warning()
    load_old_extension(lock)
    warnings.warn("another", RuntimeWarning, stacklevel=1)
    assert lock.shown == ["another"]
    assert interpreter.lock_turned_on() == f"module {MODULE}"


def test_a_module_whose_warning_nobody_saw_has_no_name(lock):
    lock.on = True
    assert interpreter.lock_turned_on() == "an extension module"


def test_a_lock_that_is_meant_to_be_on_is_not_mentioned(lock, monkeypatch):
    lock.on = True
    monkeypatch.setattr(interpreter.sysconfig, "get_config_var", lambda name: 0)  # a build that has always had one
    assert interpreter.lock_turned_on() == ""


@pytest.mark.usefixtures("lock")
def test_the_stack_of_a_thread_that_runs_meanwhile_is_the_same_as_with_a_lock():
    let_go, there = threading.Event(), threading.Event()

    def inner() -> None:
        there.set()
        let_go.wait(PATIENCE_SECONDS)

    def outer() -> None:
        inner()

    thread = threading.Thread(target=outer)
    assert stack_of(thread) == []
    thread.start()
    there.wait(PATIENCE_SECONDS)
    other = threading.Thread(target=let_go.wait, args=(PATIENCE_SECONDS,))
    other.start()
    stack = stack_of(thread)
    let_go.set()
    functions = [line.rpartition(" in ")[2] for line in stack]
    assert functions.index("inner") < functions.index("outer") < functions.index("run")
    assert Path(__file__).name in stack[functions.index("inner")]
    thread.join(PATIENCE_SECONDS)
    other.join(PATIENCE_SECONDS)
    assert stack_of(thread) == []


EXTENSION = """
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "old_extension", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_old_extension(void) { return PyModule_Create(&definition); }
"""
ENVIRONMENT = "import gymnasium, old_extension\ndef make():\n    return gymnasium.make('MountainCar-v0')\n"
free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED") or shutil.which("cc") is None,
    reason="needs a free-threaded Python and a C compiler",
)


@free_threaded
@pytest.mark.parametrize("command", [True, False], ids=["command", "call"])
def test_an_import_that_turns_the_lock_on_is_named_in_a_line(tmp_path, monkeypatch, command):
    """With an extension module as they were before there were free-threaded builds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHON_GIL", raising=False)
    Path("old.c").write_text(EXTENSION)
    include, suffix = sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", "old.c", "-o", f"{MODULE}{suffix}"], check=True)
    Path("envs.py").write_text(ENVIRONMENT)
    Path("script.py").write_text("import troupe\ntroupe.train('envs.py:make', steps=64, target='none')\n")
    words = ["-m", "troupe", "train", "envs.py:make", "--steps", "64", "--target", "none"] if command else ["script.py"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if MODULE in line and "has turned" in line]
    assert len(said) == 1
    assert ("has been enabled to load" in done.stderr) != command
    assert "in processes" in done.stdout
