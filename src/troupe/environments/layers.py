"""The layers of a wrapped environment: the time limit they declare, and wrappers that should not be used here."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gymnasium as gym

from troupe.user_code.guard import user_code

_NAMES = ("_max_episode_steps", "max_episode_steps", "max_steps")  # TimeLimit's; in use by many; MiniGrid's
_ATARI_FRAMES = 108_000  # ale-py's own limit (Machado et al. 2018)
_TRIAL_STEPS, _TRIAL_SECONDS = 300, 0.1
# Wrappers that normalise by running statistics, by the names of their classes: Gymnasium's and Stable-Baselines3's.
_OF_REWARDS = ("NormalizeReward", "VecNormalize")
_OF_OBSERVATIONS = ("NormalizeObservation", "VecNormalize")


def layers(env: Any) -> Iterator[Any]:
    """The environment and those that it wraps, outermost first. Wrappers hold what they wrap as `env`, as Gymnasium's
    do, or as `venv`."""
    seen = set()
    while env is not None and id(env) not in seen:
        seen.add(id(env))
        yield env
        inside = vars(env) if hasattr(env, "__dict__") else {}
        env = inside.get("env", inside.get("venv"))


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """The limit in steps that the environment, one of its wrappers or its registration declares; None without one."""
    if getattr(env.unwrapped, "ale", None) is not None:
        return _ATARI_FRAMES
    found = [getattr(env.spec, "max_episode_steps", None)]
    for layer in layers(env):
        for name in _NAMES:
            with suppress(Exception):  # an attribute of the user's class may do anything
                found.append(getattr(layer, name))
    limits = [limit for limit in found if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0]
    return min(limits, default=None)


def never_truncates(env: gym.Env[Any, Any], act: Callable[[Any, Any], Any]) -> bool:
    """Whether no episode is truncated in a few hundred steps: an environment may have a limit that it does not declare.

    `act` chooses an action from an observation and its info. False for an environment too slow to tell.
    """
    began = time.perf_counter()
    with suppress(Exception), user_code():  # faults in its steps are reported by the run
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
        f"no time limit: {name} declares none (TimeLimit, max_episode_steps, max_steps); if its episodes do not end, "
        "it can be trained on nevertheless, and evaluation episodes are cut off after evaluation.max_steps"
    )


def unwise_wrappers(env: gym.Env[Any, Any]) -> Iterator[str]:
    """A notice for each wrapper that duplicates what troupe does, without saving its statistics."""
    for name in (type(layer).__name__ for layer in layers(env)):
        if name in _OF_REWARDS:
            yield (
                f"{name} in the environment: returns here are of its normalised rewards, not of the environment's own; "
                "leave it out, rewards are normalised for learning (loss.normalize_reward)"
            )
        if name in _OF_OBSERVATIONS:
            yield (
                f"{name} in the environment: its statistics are not saved, so evaluations and later uses of the agent "
                "start without them; leave it out, observations are normalised and saved (network.normalize)"
            )
