"""Notices about environments that work, but perhaps not as intended."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from troupe.environments.stepping.readable import Reduced

# Wrappers that normalise by running statistics, by the names of their classes: Gymnasium's and Stable-Baselines3's.
_OF_REWARDS = ("NormalizeReward", "VecNormalize")
_OF_OBSERVATIONS = ("NormalizeObservation", "VecNormalize")


def notices(env: gym.Env[Any, Any], seen: Reduced) -> tuple[str, ...]:
    """One line for each; `env` as it was made, `seen` what is left of its observation."""
    found = []
    if seen.unreadable:
        entries = ", ".join(f"{leaf.dotted} ({type(leaf.space).__name__})" for leaf in seen.unreadable)
        found.append(f"left out of the observation, for no network reads it: {entries}")
    names = [type(each).__name__ for each in _chain(env)]
    for name in names:
        if name in _OF_REWARDS:
            found.append(
                f"{name} in the environment: returns here are of its normalised rewards, not of the environment's own; "
                "leave it out, rewards are normalised for learning (loss.normalize_reward)"
            )
        if name in _OF_OBSERVATIONS:
            found.append(
                f"{name} in the environment: its statistics are not saved, so that evaluations and later use of the "
                "agent start them anew; leave it out, observations are normalised and saved (network.normalize)"
            )
    return tuple(found)


def _chain(env: Any) -> Iterator[Any]:
    """The environment and what it wraps, outermost first. Wrappers of other packages keep what they wrap as Gymnasium's
    do, in `env`, or in `venv`."""
    seen = set()
    while env is not None and id(env) not in seen:
        seen.add(id(env))
        yield env
        inside = vars(env) if hasattr(env, "__dict__") else {}
        env = inside.get("env", inside.get("venv"))
