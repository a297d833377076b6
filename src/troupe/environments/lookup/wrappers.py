"""Applies `env.wrappers` and `env.max_steps` to an environment."""

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from troupe.config import Environment, UsageError, one_line
from troupe.config.signatures import parameters_of
from troupe.user_code.files import load_callable, unwrapped

Env = gym.Env[Any, Any]
Wrap = Callable[[Env], Env]


def wrapping(config: Environment) -> Wrap:
    """A function that applies the wrappers in their order, and the time limit around them all.

    Raises UsageError, in one line, for a wrapper that does not exist or is not one.
    """
    wrappers = [(name, _load(name)) for name in config.wrappers]

    def wrap(env: Env) -> Env:
        for name, wrapper in wrappers:
            try:
                env = wrapper(env)
            except Exception as error:
                raise UsageError(f"env.wrappers: {name} does not fit what it wraps: {one_line(error)}") from error
            if not isinstance(env, gym.Env):
                raise UsageError(f"env.wrappers: {name} returned {type(env).__name__}, not a gymnasium.Env")
        return TimeLimit(env, config.max_steps) if config.max_steps else env

    return wrap


def _load(name: str) -> Wrap:
    wrapper = load_callable(name, "env.wrappers", "wrapper")
    itself = unwrapped(wrapper)
    if inspect.isclass(itself) and not issubclass(itself, gym.Wrapper):
        raise UsageError(f"env.wrappers: {name} is not a gymnasium.Wrapper")
    known = list(parameters_of(itself).known.items())
    missing = [each for each, parameter in known[1:] if parameter.required]
    if missing:
        raise UsageError(
            f"env.wrappers: {name} needs more than the environment ({', '.join(missing)}): write a function "
            "env -> wrapped env in a file, and name it path/to/file.py:FUNCTION"
        )
    return wrapper
