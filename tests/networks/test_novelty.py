"""Novelty: the error written out, and what it is trained by."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from troupe.config import Network, TrainConfig
from troupe.config import Novelty as Config
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import build
from troupe.networks.novelty import Novelty, with_bonus_value

PLANE = gym.spaces.Box(-1, 1, (2,), np.float32)
SPACES = [
    PLANE,
    gym.spaces.Box(0, 9, (3, 2), np.int64),
    gym.spaces.Discrete(5, start=2),
    gym.spaces.Box(0, 255, (40, 36, 4), np.uint8),
    gym.spaces.Box(0, 255, (4, 36, 40), np.uint8),
]


def packing(space: gym.Space) -> Packing:
    return Packing(space, Actions(gym.spaces.Discrete(2)))


def test_it_is_the_mean_squared_error_on_whitened_and_clipped_observations():
    novelty = Novelty(packing(PLANE), Config(hidden=(4, 3)))
    obs, mean, deviation = torch.tensor([[0.5, 0.2], [9.0, -0.1]]), torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.1])
    for row, found in zip(obs, novelty(obs, mean, deviation), strict=True):
        whitened = torch.tensor(
            [max(-5.0, min(5.0, float((row[i] - mean[i]) / deviation[i]))) for i in range(len(row))]
        )
        features = [_by_hand(tower, whitened) for tower in (novelty.predictor, novelty.target)]
        expected = sum((f - g) ** 2 for f, g in zip(*features, strict=True)) / 3
        assert found.item() == pytest.approx(expected, rel=1e-5)


def _by_hand(tower: nn.Module, x: torch.Tensor) -> list[float]:
    layers = [module for module in tower.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        x = layer.weight @ x + layer.bias
        if layer is not layers[-1]:
            x = x.clamp(min=0)
    return x.tolist()


def test_only_the_predictor_learns():
    novelty = Novelty(packing(PLANE), Config())
    novelty(torch.randn(5, 2), torch.zeros(2), torch.ones(2)).sum().backward()
    assert all(each.grad is None for each in novelty.target.parameters())
    assert all(each.grad is not None and each.grad.any() for each in novelty.predictor.parameters())


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_observation_space_has_a_novelty_and_a_value_of_bonuses(space):
    torch.manual_seed(0)
    space.seed(0)
    obs = torch.from_numpy(np.stack([np.asarray(space.sample()) for _ in range(3)]))
    novelty = Novelty(packing(space), Config(hidden=(8,)))
    flat = novelty.flatten(obs)
    found = novelty(flat, flat.mean(0), flat.std(0))
    assert found.shape == (3,)
    assert found.isfinite().all()
    assert (found > 0).all()
    config = TrainConfig(novelty=Config(coefficient=1.0))
    network = with_bonus_value(build(space, gym.spaces.Discrete(2), Network()), config)
    value = network(obs.unflatten(0, (3, 1))).bonus_value
    assert value.shape == (3, 1)


def test_who_acts_does_not_pay_for_the_value_of_bonuses(monkeypatch):
    network = with_bonus_value(
        build(PLANE, gym.spaces.Discrete(2), Network()), TrainConfig(novelty=Config(coefficient=1.0))
    )
    monkeypatch.setattr(network.bonus_value, "forward", lambda obs: pytest.fail("it was computed"))
    network(torch.zeros(3, 2))


def test_a_run_without_novelty_has_no_value_of_bonuses():
    network = build(PLANE, gym.spaces.Discrete(2), Network())
    names = list(network.state_dict())
    assert list(with_bonus_value(network, TrainConfig()).state_dict()) == names
