"""What the tests of several runs have in common."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest


class Countdown(gym.Env[np.ndarray, int]):
    """Ends after `length` steps, each worth 1; its picture becomes lighter with every step."""

    def __init__(self, render_mode: str | None = None, length: int = 5, size: tuple[int, int] = (41, 61)):
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,))
        self.action_space = gym.spaces.Discrete(3)
        self.length, self.size = length, size
        self.rendered = 0
        self.closed = False
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        self.step_number = 0
        return np.zeros(1), {}

    def step(self, action: int) -> Any:
        self.step_number += 1
        return np.zeros(1), 1.0, self.step_number == self.length, False, {}

    def render(self) -> Any:
        self.rendered += 1
        return np.full((*self.size, 3), min(20 * self.step_number, 250), np.uint8)

    def close(self) -> None:
        self.closed = True


class Decided:
    """Always takes action 1."""

    def act(self, observation: Any) -> int:
        return 1

    def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
        return np.array([0.25, 0.75, 0.0]), 12.5


class Balancing:
    """Keeps a CartPole up."""

    def act(self, observation: Any) -> int:
        return int(observation[2] + 0.5 * observation[3] > 0)

    def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
        return np.array([0.5, 0.5]), 0.0


@pytest.fixture
def countdown() -> type[Countdown]:
    return Countdown


@pytest.fixture
def decided() -> type[Decided]:
    return Decided


@pytest.fixture
def balancing() -> type[Balancing]:
    return Balancing


@pytest.fixture
def cartpole() -> Callable[[str], gym.Env[Any, Any]]:
    """Of twelve steps."""
    return lambda mode: gym.make("CartPole-v1", render_mode=mode, max_episode_steps=12)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands where the playing looks at the time: `now` only goes on where something sleeps, or adds to it."""
    from troupe.runs.show import play

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(play, "time", clock)
    return clock


@pytest.fixture
def env_where(tmp_path):
    """Makes a CartPole that does `what` in the runs of these folders."""

    def make(what, *folders):
        (tmp_path / "env.py").write_text(
            "import gymnasium as gym, os, pathlib, signal\n"
            "class Env(gym.Wrapper):\n"
            "    def __init__(self):\n"
            "        super().__init__(gym.make('CartPole-v1'))\n"
            "    def step(self, action):\n"
            f"        for run in map(pathlib.Path('out').joinpath, {folders!r}):\n"
            "            if run.exists() and not (run / 'summary.json').exists():\n"
            f"                {what}\n"
            "        return super().step(action)\n"
        )
        return "env.py:Env"

    return make
