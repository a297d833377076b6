"""Checks what `reset` and `step` return; errors name what was expected and what was found.

Harmless deviations are corrected: a reward becomes a float, terminated and truncated bools, an info a dict.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from troupe.config import UsageError
from troupe.environments.checks.observations import misfit
from troupe.environments.readable import pick
from troupe.environments.spaces import Space, leaves

_VALUES = "(observation, reward, terminated, truncated, info)"
OLD_INTERFACE = "Gym had one `done` for both; shimmy's GymV21CompatibilityV0 adapts such environments"


class ContractError(Exception):
    """`reset` or `step` violated Gymnasium's interface; the message is a whole sentence."""


class WrongEnvironment(UsageError):
    """The first reset or step of an environment violates the interface; nothing has started yet."""


class Conforming(gym.Wrapper[Any, Any, Any, Any]):
    """Checks what the environment returns; reduces its observations to `space` if one is given.

    Shapes and values of observations are checked in batches (vector.py).
    """

    def __init__(self, env: gym.Env[Any, Any], space: Space | None = None):
        super().__init__(env)
        self._reduces = space is not None
        self._space = self.observation_space = env.observation_space if space is None else space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = of_reset(self.env.reset(seed=seed, options=options), self._space)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        answer: Any = self.env.step(action)
        if not isinstance(answer, tuple | list) or len(answer) != 5:
            raise ContractError(_not_five(answer))
        obs, reward, terminated, truncated, info = answer
        if type(reward) is not float:
            reward = _number(reward)
        if type(terminated) is not bool:
            terminated = _flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = _flag("truncated", truncated)
        if type(info) is not dict:
            info = _info("step", info)
        return self._seen(obs), reward, terminated, truncated, info

    def _seen(self, obs: Any) -> Any:
        if not self._reduces:
            return obs
        try:
            return pick(self._space, obs)
        except (LookupError, TypeError):
            return obs  # an entry is missing: the check of shapes will report it


def of_reset(answer: Any, space: Space) -> tuple[Any, dict[str, Any]]:
    """The observation and the info that `reset` returned; raises ContractError for anything else."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    if pair and isinstance(space, gym.spaces.Tuple) and len(space.spaces) == 2:  # an observation alone is a pair, too
        parts = leaves(space)
        pair = not misfit(parts, answer[0]) or bool(misfit(parts, answer))
    if pair and (answer[1] is None or isinstance(answer[1], Mapping)):
        return answer[0], _info("reset", answer[1])
    if pair and not misfit(leaves(space), answer[0]):
        _info("reset", answer[1])
    raise ContractError(f"reset returned only an observation ({_type(answer)}): expected (observation, info)")


def _not_five(answer: Any) -> str:
    if not isinstance(answer, tuple | list):
        return f"step returned {_type(answer)}: expected {_VALUES}"
    old = f"; {OLD_INTERFACE}" if len(answer) == 4 else ""
    return f"step returned {len(answer)} values: expected 5, {_VALUES}{old}"


def _number(reward: Any) -> float:
    try:
        array = np.asarray(reward)
    except Exception:  # ragged lists, a tensor on another device
        array = np.empty((), object)
    if array.size != 1:
        raise ContractError(
            f"step returned a reward of shape {array.shape}: expected one number; a wrapper can combine several "
            "objectives (mo-gymnasium's LinearReward)"
        )
    value = array.item()
    if not isinstance(value, Real):
        raise ContractError(f"step returned the reward {reward!r} ({_type(reward)}): expected a number")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ContractError(f"step returned {name} = {value!r} ({_type(value)}): expected True or False")
    return bool(array.item())


def _info(verb: str, info: Any) -> dict[str, Any]:
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise ContractError(f"{verb} returned {_type(info)} as info: expected a dict")
    return info if isinstance(info, dict) else dict(info)


def _type(value: Any) -> str:
    name = type(value).__name__
    return f"{name} of length {len(value)}" if isinstance(value, tuple | list) else name
