"""Environments as users bring them, each trained from the command line."""

from pathlib import Path

import pytest

from troupe import cli

ENVIRONMENTS = '''
"""Each shows a number from 0 to 2; the action that names it earns 1. Episodes last eight steps."""
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Cue(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)

    def show(self):
        return np.eye(3, dtype=np.float32)[self.cue]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.cue = 0, int(self.np_random.integers(3))
        return self.show(), {}

    def step(self, action):
        reward = float(action == self.cue)
        self.steps, self.cue = self.steps + 1, int(self.np_random.integers(3))
        return self.show(), reward, False, self.steps == 8, {}


class Picture(Cue):
    """The number is the third of the picture that is bright."""
    observation_space = spaces.Box(0, 255, (40, 36, 3), np.uint8)

    def show(self):
        picture = np.zeros((40, 36, 3), np.uint8)
        picture[:, 12 * self.cue : 12 * self.cue + 12] = 255
        return picture
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("environments.py").write_text(ENVIRONMENTS)


def train(name: str, *options: str) -> int:
    """A short run with the defaults."""
    usual = "--seed 1 --steps 600 --target none --quiet --evaluation.final_episodes 3 --actor.rollout_steps 16"
    return cli.run(["train", f"environments.py:{name}", "--run-dir", "run", *usual.split(), *options])


def test_a_picture_that_is_no_atari_game_is_trained_on():
    """The measurement at the start chose `env.threads`, which only Atari games have."""
    assert train("Picture") == 0
