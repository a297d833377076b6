"""An environment whose reward is rare: a combination lock."""

from typing import Any

import gymnasium as gym
import numpy as np


class Lock(gym.Env[np.ndarray, int]):
    """Has `length` digits, 0 or 1. The right one leads to the next, a wrong one back to the first; the last one pays 1
    and ends the episode. A random policy needs about 2^(length + 1) steps; an episode has at most ten times `length`.
    """

    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int):
        self._digits = np.random.default_rng(0).integers(2, size=length)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (length,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._opened, self._played = 0, 0
        return self._seen(), {}

    def step(self, action: int) -> Any:
        self._opened = self._opened + 1 if action == self._digits[self._opened] else 0
        self._played += 1
        done = self._opened == len(self._digits)
        return self._seen(), float(done), done, self._played == 10 * len(self._digits), {}

    def _seen(self) -> np.ndarray:
        """Which digit comes next."""
        return np.eye(len(self._digits), dtype=np.float32)[min(self._opened, len(self._digits) - 1)]


def lock() -> Lock:
    return Lock(14)
