"""PPO's stop on KL for `ablations.py`, made of a loss and an optimizer of one's own.

A minibatch on which the policy is further than `most_kl` nats from the one that acted changes nothing.
"""

import torch

from troupe.algorithm import losses
from troupe.algorithm.optimizers import Adam


def appo(outputs, batch, *, most_kl: float = 0.03, lam=0.95, clip=0.2, value_coefficient=0.5, entropy_coefficient=0.01):
    """Preset appo's loss, times 0 where the approximate KL divergence is above `most_kl`."""
    done = losses.appo(
        outputs, batch, lam=lam, clip=clip,
        value_coefficient=value_coefficient, entropy_coefficient=entropy_coefficient,
    )  # fmt: skip
    stopped = done.metrics["approx_kl"] > most_kl
    # Not 0 * loss: the gradient of what is not finite would be NaN.
    loss = torch.where(stopped, torch.zeros_like(done.loss), done.loss)
    return loss, done.metrics | {"stopped": stopped.float()}


class AdamOrNothing(Adam):
    """Adam, but a gradient of 0 is no step; by its momentum alone Adam would move on."""

    def __init__(self, weights, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8):
        super().__init__(weights, beta1=beta1, beta2=beta2, epsilon=epsilon)

    def step(self, weights, gradient, learning_rate):
        if gradient.any():
            super().step(weights, gradient, learning_rate)
