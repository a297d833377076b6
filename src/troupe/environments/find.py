"""Where environments come from: a Gymnasium id, `module:Id`, `path/to/file.py:factory`, or a callable."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym

from troupe.config import UsageError
from troupe.environments import packages
from troupe.environments.factory import from_factory, load_factory
from troupe.environments.registry import from_registry
from troupe.environments.source import EnvironmentSource

_FILE = re.compile(r"(.+\.py):(\w+)")


def find(env: str | Callable[..., gym.Env[Any, Any]]) -> EnvironmentSource:
    """Resolves `env` and makes it once, to see that it can be made and what its spaces are.

    Raises UsageError in one line: no such name (with the nearest), a package that is missing (with the
    command that installs it), a factory that fails.
    """
    if callable(env):
        return from_factory(f"python:{getattr(env, '__qualname__', type(env).__qualname__)}", env)
    if match := _FILE.fullmatch(env):
        return from_factory(env, load_factory(Path(match[1]), match[2]))
    if env.endswith(".py"):
        raise UsageError(f"'{env}' names no factory: write {env}:NAME, the callable in it that makes an environment")
    return from_registry(env)


def of_run(run: Path, env_id: str, env: Callable[..., gym.Env[Any, Any]] | None = None) -> EnvironmentSource:
    """The environment of a run; `env` gives it where it was a callable, which no file can hold.

    A run directory may come from anybody: code that lies in it is not executed.
    """
    if env is not None:
        return find(env)
    if env_id.startswith("python:"):
        raise UsageError(f"the run's environment was the callable {env_id[7:]}: pass it as env= in Python")
    for code in _code_of(env_id):
        if any(run.resolve() in path.parents for path in (Path(os.path.abspath(code)), code.resolve())):
            raise UsageError(
                f"the environment of '{run}' is code in the run directory itself ({code}), which is not executed; "
                "if you trust it, move it elsewhere and name its new place in config.toml"
            )
    return find(env_id)


def _code_of(env_id: str) -> Iterator[Path]:
    """The files that `env_id` would have imported; none where Gymnasium knows the environment already."""
    if match := _FILE.fullmatch(env_id):
        yield Path(match[1])
        return
    module, _, name = env_id.rpartition(":")
    if not module and name in gym.registry:
        return
    for registrars in packages.registrars(name, module):
        for registrar in registrars:
            with suppress(ImportError, ValueError):
                spec = importlib.util.find_spec(packages.root(registrar.module))
                if spec and spec.origin:
                    yield Path(spec.origin)
