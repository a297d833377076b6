"""An encoder of your own: features of an angle. Normalisation, LSTM, hidden layers and heads stay troupe's.

From the command line:  troupe train CartPole-v1 --network.encoder examples/custom_encoder.py:Fourier
"""

import math

import gymnasium as gym
import torch
from torch import nn

import troupe


class Fourier(nn.Module):
    """Observed numbers, and the sine and cosine of each at a few learned frequencies."""

    def __init__(self, observation_space: gym.spaces.Box, frequencies: int = 2):
        super().__init__()
        numbers = math.prod(observation_space.shape)
        self.frequency = nn.Parameter(torch.rand(numbers, frequencies))
        self.features = numbers * (1 + 2 * frequencies)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Normalised observations [N, numbers] -> [N, features]."""
        angles = (obs.unsqueeze(-1) * self.frequency).flatten(1)
        return torch.cat([obs, angles.sin(), angles.cos()], -1)


if __name__ == "__main__":
    run = troupe.train("CartPole-v1", encoder=Fourier, seed=1, steps=30_000, settings={"network.core": "gru"})
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.0f}")
    agent = troupe.load(run.path, encoder=Fourier)  # weights are saved, code is not
    print("action:", int(agent.act([0.0, 0.0, 0.1, 0.0])))
