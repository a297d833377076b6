"""Trading on a fixed price series: whatever the agent does, the prices are the same.

An environment whose states do not follow from the actions looks as if there were nothing to learn, and a
policy gradient learns all the same: of each action it needs the return, not its influence on the state. What
an action does change, the position held, has to be part of the observation, or its cost could not be foreseen.

    troupe train examples/trading.py:Trading --time 30s
"""

from typing import Any

import gymnasium as gym
import numpy as np

import troupe

DAYS, WINDOW, COST = 60, 4, 0.3
POSITIONS = (-1, 0, 1)  # short, nothing, long


def prices() -> np.ndarray:
    """Two waves, always the same."""
    day = np.arange(WINDOW + DAYS + 1)
    series: np.ndarray = 100 + 3 * np.sin(day / 3) + 2 * np.sin(day / 7)
    return series


class Trading(gym.Env[np.ndarray, int]):
    """Observes the last price changes, the position and the day; chooses the position for the next day.

    Pays position times change, less COST for each unit bought or sold. An episode goes once through the series.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (WINDOW + 2,), np.float32)
    action_space = gym.spaces.Discrete(len(POSITIONS))

    def __init__(self) -> None:
        self.changes = np.diff(prices())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.day, self.position = WINDOW, 0
        return self._observation(), {}

    def step(self, action: int) -> Any:
        position = POSITIONS[action]
        reward = position * self.changes[self.day] - COST * abs(position - self.position)
        self.position, self.day = position, self.day + 1
        return self._observation(), float(reward), self.day == WINDOW + DAYS, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([*self.changes[self.day - WINDOW : self.day], self.position, self.day], np.float32)


def best_return() -> float:
    """The most that anybody could earn who knew the prices: dynamic programming, from the last day back."""
    changes = np.diff(prices())[WINDOW : WINDOW + DAYS]
    value = dict.fromkeys(POSITIONS, 0.0)
    for change in changes[::-1]:
        value = {
            held: max(new * change - COST * abs(new - held) + value[new] for new in POSITIONS) for held in POSITIONS
        }
    return value[0]


if __name__ == "__main__":
    run = troupe.train(Trading, seed=1, seconds=20)
    assert run.scores is not None
    print(f"earned {run.scores.mean:.1f} of {best_return():.1f} that could be earned")
