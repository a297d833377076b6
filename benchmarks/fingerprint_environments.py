"""Environments for fingerprints.py: observation and action spaces that Gymnasium's own environments do not have."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, flatten

TIME_LIMIT = 30  # steps, after which an episode is truncated
TERMINATES = 0.02  # the chance that a step terminates it


class Sampled(gym.Env[Any, Any]):
    """Observations are random; the reward is the dot product of the action and the observation it follows.

    With `masked`, about half of the alternatives of each choice are forbidden, and taking one is an error.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], masked: bool = False):
        self.observation_space, self.action_space, self._masked = observation_space, action_space, masked

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self._steps = 0
        return self._observe()

    def step(self, action: Any) -> Any:
        taken = flatten(self.action_space, action)
        if self._masked and np.any((taken == 1) & (self._mask == 0)):
            raise ValueError(f"the action {action} is forbidden")
        reward = float(taken @ np.resize(self._observed, taken.size).astype(np.float64))
        self._steps += 1
        obs, info = self._observe()
        return obs, reward, bool(self.np_random.random() < TERMINATES), self._steps == TIME_LIMIT, info

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        obs = self.observation_space.sample()
        self._observed = flatten(self.observation_space, obs)
        if not self._masked:
            return obs, {}
        space = self.action_space
        choices = space.nvec if isinstance(space, MultiDiscrete) else [space.n]
        rows = [self.np_random.permutation(np.arange(n) < (n + 1) // 2) for n in choices]
        self._mask = np.concatenate(rows).astype(np.int8)
        return obs, {"action_mask": self._mask}


def _vector() -> Box:
    return Box(-np.inf, np.inf, (3,), np.float32)


def _image() -> Box:
    return Box(0, 255, (40, 40, 3), np.uint8)


def masked() -> Sampled:
    return Sampled(_vector(), Discrete(5), masked=True)


def masked_multidiscrete() -> Sampled:
    return Sampled(_vector(), MultiDiscrete([3, 4]), masked=True)


def multibinary() -> Sampled:
    return Sampled(_vector(), MultiBinary(3))


def dictionary() -> Sampled:
    return Sampled(Dict(position=_vector(), goal=Discrete(4), flags=MultiBinary(2)), Discrete(3))


def images() -> Sampled:
    return Sampled(_image(), Discrete(3))


def image_and_vector() -> Sampled:
    return Sampled(Dict(camera=_image(), speed=_vector()), Box(-1, 1, (2,), np.float32))


def board() -> Sampled:
    return Sampled(Box(0, 1, (8, 8, 4), np.bool_), Discrete(4))
