"""`loss.reduction`: the mean of the loss over the steps of a minibatch, or their sum."""

from typing import Any

import pytest
import torch

import troupe

STEPS, ENVIRONMENTS = 4, 3  # of a rollout; no episode of CartPole ends so soon
FIRST_UPDATE = {
    "actor.count": 1, "actor.environments": ENVIRONMENTS, "actor.rollout_steps": STEPS, "actor.placement": "thread",
    "learner.rollouts": 1, "learner.epochs": 1, "learner.minibatches": 1, "learner.gradient_norm": 0.0,
    "learner.average_decay": 0.0, "network.hidden": (8,), "evaluation.every_seconds": 0.0, "stop.target": "none",
    "evaluation.final_episodes": 1, "stop.steps": STEPS * ENVIRONMENTS, "seed": 3, "env.backend": "native",
}  # fmt: skip


def first_gradient(tmp_path: Any, **settings: Any) -> torch.Tensor:
    """What an optimizer is given first. It depends on the seed only: nobody has changed the weights yet."""
    gradients: list[torch.Tensor] = []

    class Recorder:
        def __init__(self, weights: torch.Tensor):
            del weights

        def step(self, weights: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
            del weights, learning_rate
            gradients.append(gradient.clone())

        def state(self) -> dict[str, torch.Tensor]:
            return {}

    given = FIRST_UPDATE | settings
    troupe.train("CartPole-v1", settings=given, tuned=False, optimizer=Recorder, run_dir=tmp_path / str(len(settings)))
    return gradients[1]  # that before it was made up, to try the optimizer


@pytest.mark.parametrize(
    ("topology", "kind"), [("serial", "appo"), ("async", "impala"), ("queue", "a3c"), ("hogwild", "a3c")]
)
def test_the_gradient_of_the_sum_is_that_of_the_mean_times_the_steps(tmp_path, topology, kind):
    given = {"topology": topology, "loss.kind": kind}
    mean = first_gradient(tmp_path, **given)
    total = first_gradient(tmp_path, **given, **{"loss.reduction": "sum"})
    assert mean.abs().max() > 1e-3
    torch.testing.assert_close(total, STEPS * ENVIRONMENTS * mean, rtol=1e-4, atol=1e-6)
