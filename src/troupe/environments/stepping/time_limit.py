"""The declared limit on the steps of an episode."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gymnasium as gym

from troupe.user_code.guard import user_code

_NAMES = ("_max_episode_steps", "max_episode_steps", "max_steps")  # TimeLimit's; in use by many; MiniGrid's
_ATARI_FRAMES = 108_000  # ale-py's own limit (Machado et al. 2018)
_TRIAL_STEPS, _TRIAL_SECONDS = 300, 0.1


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """The limit in steps that the environment, one of its wrappers or its registration declares; None without one."""
    if getattr(env.unwrapped, "ale", None) is not None:
        return _ATARI_FRAMES
    found = [getattr(env.spec, "max_episode_steps", None)]
    for layer in _layers(env):
        for name in _NAMES:
            with suppress(Exception):  # an attribute of the user's class may do anything
                found.append(getattr(layer, name))
    limits = [limit for limit in found if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0]
    return min(limits, default=None)


def never_truncates(env: gym.Env[Any, Any], act: Callable[[Any, Any], Any]) -> bool:
    """Whether no episode is cut off in a few hundred steps, as a user's environment may do without declaring it.

    `act` chooses an action from an observation and its info. An environment too slow to tell is given the benefit of
    the doubt.
    """
    began = time.perf_counter()
    with suppress(Exception), user_code():  # what is wrong with its steps shows in the run
        obs, info = env.reset()
        for _ in range(_TRIAL_STEPS):
            obs, _, terminated, truncated, info = env.step(act(obs, info))
            if truncated or time.perf_counter() - began > _TRIAL_SECONDS:
                return False
            if terminated:
                obs, info = env.reset()
        return True
    return False


def no_time_limit(name: str) -> str:
    """The notice about an environment without one."""
    return (
        f"no time limit: {name} declares none (TimeLimit, max_episode_steps, max_steps); where episodes do not end, "
        "training goes on all the same, and those of evaluations are cut off after evaluation.max_steps"
    )


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env
