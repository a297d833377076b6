"""An environment backend of your own: all the corridors of a batch move with one NumPy call.

troupe train custom_environment.py:make --env.backend custom_backend.py:Corridors
"""

import numpy as np
from custom_environment import Corridor, make
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import troupe


class Corridors(VectorEnv):
    """`num_envs` times the corridor of custom_environment.py, with its time limit."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Corridor.observation_space, Corridor.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.cells, self.steps = np.zeros((2, self.num_envs), np.int64)
        self.ended = np.zeros(self.num_envs, np.bool_)
        return self.cells.copy(), {}

    def step(self, actions):
        self.cells = np.where(self.ended, 0, np.clip(self.cells + np.where(actions == 1, 1, -1), 0, 7))
        self.steps = np.where(self.ended, 0, self.steps + 1)
        arrived = self.cells == 7
        reward = np.where(self.ended, 0.0, np.where(arrived, 1.0, -0.01))
        truncated = self.steps >= 50
        self.ended = arrived | truncated
        return self.cells.copy(), reward, arrived, truncated, {}


if __name__ == "__main__":
    run = troupe.train(make, backend=Corridors, seed=1, steps=60_000, target=0.93)
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.2f} (the shortest way gives 0.94)")
