"""Makes an environment once, to see what it is and that it can be played."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from troupe.config import UsageError, one_line
from troupe.environments import packages
from troupe.environments.own_code import own_code
from troupe.environments.packing import MaskPlace
from troupe.environments.source import EnvironmentSource
from troupe.environments.spaces import MASK


def probe(name: str, make: Callable[..., gym.Env[Any, Any]], threshold: float | None = None) -> EnvironmentSource:
    """Makes one environment to see what it is, and begins an episode to see whether it says what is allowed."""
    try:
        with own_code():
            env = make()
    except UsageError:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(packages.missing(name, error)) from None
    except Exception as error:
        raise UsageError(f"environment {name} cannot be made: {one_line(error)}") from error
    source = EnvironmentSource(name, make, env.observation_space, env.action_space, _masked(name, env), threshold)
    with own_code():
        env.close()
    return source


def _masked(name: str, env: gym.Env[Any, Any]) -> MaskPlace:
    """Where its action masks come from."""
    if isinstance(env.observation_space, gym.spaces.Dict) and MASK in env.observation_space.spaces:
        return "observation"
    if getattr(env.unwrapped, "ale", None) is not None:
        return ""
    try:
        with own_code():
            _, info = env.reset(seed=0)
    except Exception as error:
        raise UsageError(f"environment {name}: reset raised {one_line(error)}") from error
    return "info" if MASK in info else ""
