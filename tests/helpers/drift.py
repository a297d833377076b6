"""An environment that is both imported and written into a file of its own: it needs nothing else."""

import gymnasium as gym
import numpy as np


class Drift(gym.Env):
    """A position that its own random numbers and the action move; it ends far away."""

    observation_space = gym.spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = gym.spaces.Discrete(3, start=-1)
    length, far, reward = 9, 4.0, 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.played = self.np_random.normal(), 0
        return self._obs(), {}

    def step(self, action):
        self.place += 0.3 * action + self.np_random.normal()
        self.played += 1
        return self._obs(), -self.reward * abs(self.place), self.place > self.far, self.played == self.length, {}

    def _obs(self):
        return np.array([self.place, self.played / self.length], np.float32)
