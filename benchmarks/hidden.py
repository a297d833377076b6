"""Environments that do not show all that one needs to know."""

from typing import Any

import gymnasium as gym
import numpy as np


class Cue(gym.Env[np.ndarray, int]):
    """Shows [-1 or 1, 0] first, then nothing, and after `wait` steps [0, 1]: there the action that was shown pays 1."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, wait: int):
        self._wait = wait

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._cue, self._played = int(self.np_random.integers(2)), 0
        return np.array([2 * self._cue - 1, 0], np.float32), {}

    def step(self, action: int) -> Any:
        asked = self._played == self._wait
        self._played += 1
        obs = np.array([0, self._played == self._wait], np.float32)
        return obs, float(asked and action == self._cue), asked, False, {}


def cue20() -> Cue:
    return Cue(20)


def cue50() -> Cue:
    return Cue(50)


def cue100() -> Cue:
    return Cue(100)


class Positions(gym.ObservationWrapper[Any, Any, Any]):
    """Of a CartPole only where cart and pole are, not how fast they move."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


def positions() -> gym.Env[Any, Any]:
    return Positions(gym.make("CartPole-v1"))
