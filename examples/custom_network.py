"""A network of your own: a plain module from observations [N, ...] to (logits [N, A], values [N])."""

import torch
from torch import nn

import troupe


class Body(nn.Module):
    """Features with a skip connection, and a value that sees them too."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.lift = nn.Linear(observation_space.shape[0], 64)
        self.mix = nn.Linear(64, 64)
        self.policy = nn.Linear(64, int(action_space.n))
        self.value = nn.Linear(64, 1)

    def forward(self, obs):
        features = torch.tanh(self.lift(obs))
        features = features + torch.tanh(self.mix(features))
        return self.policy(features), self.value(features).squeeze(-1)


if __name__ == "__main__":
    # The settings tuned for CartPole-v1 are for a smaller network: their learning rate of 3e-3 is too large here.
    run = troupe.train("CartPole-v1", network=Body, seed=1, settings={"learner.learning_rate": 1e-3})
    print(f"{run.outcome} after {run.seconds:.1f} s of training: mean return {run.scores.mean:.1f}")
    agent = troupe.load(run.path, network=Body)  # weights are saved, code is not
    print("probabilities and value of standing still:", agent.distribution([0.0, 0.0, 0.0, 0.0]))
