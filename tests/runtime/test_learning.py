"""That it learns: small problems with known answers, in the serial topology with one seed, so without luck."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from helpers import slow
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import ActorCritic, build
from troupe.runtime.assembly import assemble
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

SMALL = {
    "topology": "serial", "actor.count": 1, "actor.environments": 8, "actor.rollout_steps": 16,
    "learner.rollouts": 1, "learner.minibatches": 1, "network.hidden": (16,),
    "learner.learning_rate": 1e-2, "loss.entropy_coefficient": 0.001,
    "loss.normalize_reward": False,  # values in the environment's own units
}  # fmt: skip
EPOCHS = {"a3c": 1, "impala": 1, "appo": 4}


@pytest.fixture
def trained(run: Callable[..., Topology]) -> Callable[..., ActorCritic]:
    """The network after so many batches."""

    def train(env: Any, loss: str, batches: int, **settings: Any) -> ActorCritic:
        source = find(env)
        asked = SMALL | {"loss.kind": loss, "learner.epochs": EPOCHS[loss]} | settings
        config = resolve(source.id, settings=asked)
        torch.manual_seed(0)
        network = build(source.observation_space, source.action_space, config.network)
        run(assemble(config, source, network, np.random.SeedSequence(0), Progress()), batches)
        return network

    return train


def probabilities(network: ActorCritic, obs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(obs).distribution.log_probs.exp()


@pytest.mark.parametrize("loss", ["a3c", "impala", "appo"])
@pytest.mark.slow
def test_the_identity_is_learned(trained, echo, loss):
    """Reward 1 for the action that equals the observation, which the action does not influence."""
    network = trained(echo, loss, 200, **{"loss.gamma": 0.5})
    assert probabilities(network, torch.arange(4)).diagonal().min() >= 0.95


@pytest.mark.parametrize("loss", ["a3c", "impala", "appo"])
@pytest.mark.slow
def test_the_better_arm_of_a_bandit_is_learned(trained, pays, loss):
    network = trained(partial(pays, arms=(0.0, 0.5, 1.0, 0.5), length=1, terminates=True), loss, 250)
    assert probabilities(network, torch.ones(1, 1))[0, 2] >= 0.95


@pytest.mark.slow
def test_the_identity_is_learned_with_an_epsilon_mixture_and_a_window(trained, echo):
    """The article's way: one-row samples from a sliding window, behaviour not quite the policy."""
    settings = {
        "actor.environments": 1, "actor.window_steps": 4, "learner.rollouts": 32, "loss.gamma": 0.5, "loss.lam": 1.0,
        "exploration.epsilon": 0.1,
    }  # fmt: skip
    network = trained(echo, "a3c", 300, **settings)
    assert probabilities(network, torch.arange(4)).diagonal().min() >= 0.9


@pytest.mark.parametrize(
    ("loss", "terminates"),
    [
        ("a3c", False),
        *(
            slow(*each)
            for each in [("impala", True), ("appo", False), ("a3c", True), ("impala", False), ("appo", True)]
        ),
    ],
)
def test_under_a_time_limit_values_go_on_and_after_a_termination_they_do_not(trained, pays, loss, terminates):
    """Reward 1 each step, gamma 0.8. A time limit does not end the environment: V = 1 / (1 - gamma) = 5. If the
    fifth step truly is the last, V over steps that look alike is the mean of 1, 1.8, ..., 3.36, which is 2.31."""
    settings = {"loss.gamma": 0.8, "loss.lam": 1.0, "actor.environments": 10, "actor.rollout_steps": 18}
    network = trained(partial(pays, terminates=terminates), loss, 150, **settings)
    with torch.no_grad():
        value = network(torch.ones(1, 1)).value.item()
    if terminates:
        assert value == pytest.approx(2.31, abs=0.3)
    else:
        assert value == pytest.approx(5.0, abs=0.15)
