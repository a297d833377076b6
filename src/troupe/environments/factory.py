"""Environments of one's own: a callable that makes them, in this program or in a file."""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from troupe.config import Environment, UsageError, did_you_mean, one_line
from troupe.environments.own_code import own_code
from troupe.environments.probe import probe
from troupe.environments.source import EnvironmentSource


def from_factory(name: str, factory: Callable[..., gym.Env[Any, Any]]) -> EnvironmentSource:
    try:
        takes_mode = "render_mode" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        takes_mode = False

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        env = factory(render_mode=render_mode) if takes_mode else factory()
        if not isinstance(env, gym.Env):
            raise UsageError(f"environment {name}: the factory returned {type(env).__name__}, not a gymnasium.Env")
        return env

    return probe(name, make)


def load_factory(path: Path, name: str) -> Callable[..., gym.Env[Any, Any]]:
    if not path.is_file():
        raise UsageError(f"no file '{path}' to take the environment factory '{name}' from")
    spec = importlib.util.spec_from_file_location(f"troupe_environment_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with own_code():
            spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be imported: {one_line(error)}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{path} has no callable '{name}'{did_you_mean(name, callables)}")
    return factory  # type: ignore[no-any-return]
