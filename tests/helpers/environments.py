"""Scripted environments: what they will do is written down, so what was recorded can be checked exactly."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np

Ending = tuple[int, Literal["terminated", "truncated", "both"]]
SCRIPT: Sequence[Ending] = ((3, "terminated"), (2, "truncated"), (1, "terminated"), (4, "truncated"), (1, "both"))


class Counting(gym.Env[np.ndarray, int]):
    """Observes [episode, step]; episode e has the length and the ending `script[e % len(script)]` says.

    The reward tells the step and the action that it belongs to: 10 * step + action, the action from 0.
    `before_step(episode, step)` is called first, and may break anything.
    """

    observation_space = gym.spaces.Box(-1.0, 1e6, (2,), np.float32)

    def __init__(
        self,
        script: Sequence[Ending] = SCRIPT,
        actions: int = 3,
        start: int = 0,
        before_step: Callable[[int, int], object] = lambda episode, step: None,
    ):
        self.action_space = gym.spaces.Discrete(actions, start=start)
        self.script, self.before_step = script, before_step
        self.episode, self.played = -1, 0
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode += 1
        self.played = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.before_step(self.episode, self.played)
        assert self.action_space.contains(action), f"action {action} is not in {self.action_space}"
        reward = 10.0 * self.played + (action - int(self.action_space.start))
        self.played += 1
        length, ending = self.script[self.episode % len(self.script)]
        ends = self.played == length
        return self._observation(), reward, ends and ending != "truncated", ends and ending != "terminated", {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.played], np.float32)


class Echo(gym.Env[int, int]):
    """Shows one of k symbols; the reward is 1 for the action of the same number. Episodes last `length` steps."""

    def __init__(self, symbols: int = 4, length: int = 8):
        self.observation_space = gym.spaces.Discrete(symbols)
        self.action_space = gym.spaces.Discrete(symbols)
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.length
        return self._next(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.symbol)
        self.left -= 1
        return self._next(), reward, self.left == 0, False, {}

    def _next(self) -> int:
        self.symbol = int(self.np_random.integers(self.observation_space.n))
        return self.symbol


class Pays(gym.Env[np.ndarray, int]):
    """A constant observation. Arm a pays `arms[a]`; every episode is cut off, or terminates, after `length` steps."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, arms: Sequence[float] = (1.0, 1.0), length: int = 5, terminates: bool = False):
        self.action_space = gym.spaces.Discrete(len(arms))
        self.arms, self.length, self.terminates = arms, length, terminates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.length
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        ends = self.left == 0
        return np.ones(1, np.float32), self.arms[action], ends and self.terminates, ends and not self.terminates, {}
