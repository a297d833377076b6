"""What to do next with a run: a command if it was started from the command line, otherwise a call in Python."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from troupe.config import PASSED, TrainConfig, value_of

_by_command: ContextVar[bool] = ContextVar("by_command", default=False)
CODE = {  # the settings that name code of the user's, by keyword in Python and option
    "env": "env.id", "network": "network.custom", "encoder": "network.encoder", "backend": "env.backend",
    "loss": "loss.kind", "optimizer": "learner.optimizer", "placement": "actor.placement",
}  # fmt: skip
_ONLY_FOR_TRAINING = ("loss", "optimizer", "placement")


@contextmanager
def by_command() -> Iterator[None]:
    """Marks that what runs inside was started from the command line."""
    before = _by_command.set(True)
    try:
        yield
    finally:
        _by_command.reset(before)


def on_terminal() -> bool:
    """Whether the user can be asked: of a command, whose input and messages are a terminal's."""
    return _by_command.get() and all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def either(command: str, python: str) -> str:
    """What to write on the command line, or in Python."""
    return command if _by_command.get() else python


def option(name: str, keyword: str = "") -> str:
    """`--run-dir` or `run_dir=`; `keyword` is its name in Python, if that differs."""
    return either(f"--{name}", f"{keyword or name.replace('-', '_')}=")


def code_option(name: str) -> str:
    """`--network FILE.py:NAME` or `network=`: how the user's code is passed again."""
    return either(f"--{name} FILE.py:NAME", f"{name}=")


def given(name: str, value: str) -> str:
    """`--steps 40,000` or `steps=40,000`: an option as it was given."""
    return either(f"--{name} {value}", f"{name.replace('-', '_')}={value}")


def options(preset: str, settings: Mapping[str, float]) -> str:
    """`--preset appo --novelty.coefficient 0.5`, or the same as arguments of `troupe.train`."""
    if _by_command.get():
        return " ".join([f"--preset {preset}", *(f"--{name} {value:g}" for name, value in settings.items())])
    return f"preset={preset!r}, settings={dict(settings)!r}"


def call(verb: str, path: Path, config: TrainConfig | None = None) -> str:
    """`troupe watch runs/one` or `troupe.watch('runs/one', env=env)`, with the callables that a run cannot save."""
    if _by_command.get():
        return f"troupe {verb} {shlex.quote(str(path))}"
    names = [name for name in CODE if verb == "resume" or name not in _ONLY_FOR_TRAINING]
    passed = [name for name in names if config and value_of(config, CODE[name]).startswith(PASSED)]
    if verb == "resume" and config and any(value.startswith(PASSED) for value in vars(config.schedules).values()):
        passed.append("schedules")
    return f"troupe.{verb}({', '.join([repr(str(path)), *(f'{name}={name}' for name in passed)])})"
