"""An environment of your own: walk to the end of a corridor, in the dark, before time runs out."""

import gymnasium as gym
import numpy as np

import troupe


class Corridor(gym.Env):
    """Eight cells. Action 1 steps right, 0 left; the reward is 1 at the right end, and every step costs 0.01."""

    observation_space = gym.spaces.Discrete(8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return self.cell, {}

    def step(self, action):
        self.cell = int(np.clip(self.cell + (1 if action == 1 else -1), 0, 7))
        arrived = self.cell == 7
        return self.cell, 1.0 if arrived else -0.01, arrived, False, {}


def make():
    return gym.wrappers.TimeLimit(Corridor(), max_episode_steps=50)


if __name__ == "__main__":
    run = troupe.train(make, seed=1, steps=60_000, target=0.93)
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.2f} (the shortest way gives 0.94)")
    print("actions from cell 0 to 6:", [int(run.agent.act(cell)) for cell in range(7)])
