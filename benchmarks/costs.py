"""Environments whose steps cost what one wants to measure: computing, waiting, or both by turns."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Costly(gym.Env[np.ndarray, int]):
    """Four numbers, two actions, episodes of 100 steps; a step computes for `burn` seconds of the
    processor's time in the interpreter, and sleeps for `sleep` seconds."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, burn: float = 0.0, sleep: float = 0.0):
        self._burn, self._sleep, self._steps = burn, sleep, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> Any:
        if self._sleep:
            time.sleep(self._sleep)
        if self._burn:
            until = time.thread_time() + self._burn
            while time.thread_time() < until:
                pass
        self._steps += 1
        return np.full(4, self._steps / 100, np.float32), float(action), self._steps >= 100, False, {}


def burns() -> Costly:
    return Costly(burn=200e-6)


def sleeps() -> Costly:
    return Costly(sleep=2e-3)


def one_is_slow() -> Costly:
    """The first that is made in an actor's process sleeps ten times as long as all others.

    Processes agree on who is first by a file in the folder SLOW names.
    """
    if multiprocessing.parent_process() is None:
        return Costly(sleep=2e-3)
    try:
        (Path(os.environ["SLOW"]) / "taken").touch(exist_ok=False)
    except FileExistsError:
        return Costly(sleep=2e-3)
    return Costly(sleep=20e-3)
