"""An optimizer of your own: Lion (Chen et al. 2023), whose steps have the sign of a moving average.

    troupe train CartPole-v1 --learner.optimizer examples/custom_optimizer.py:Lion --learner.learning_rate 3e-4

It is made of the weights, one flat vector, and changes them and its state in place. `state` gives its tensors, which
troupe saves, loads and, with topology hogwild, shares between processes.
"""

import torch

import troupe


class Lion:
    def __init__(self, weights, *, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0):
        self.beta1, self.beta2, self.weight_decay = beta1, beta2, weight_decay
        self.momentum = torch.zeros_like(weights)

    def step(self, weights, gradient, learning_rate):
        direction = torch.lerp(gradient, self.momentum, self.beta1).sign_()
        weights.mul_(1 - learning_rate * self.weight_decay).sub_(direction, alpha=learning_rate)
        self.momentum.lerp_(gradient, 1 - self.beta2)

    def state(self):
        return {"momentum": self.momentum}


if __name__ == "__main__":
    settings = {"learner.learning_rate": 3e-4, "learner.optimizer_kwargs.weight_decay": 0.01}
    run = troupe.train("CartPole-v1", optimizer=Lion, seed=1, steps=20_000, settings=settings)
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.1f}")
