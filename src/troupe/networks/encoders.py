"""From an observation to features: one encoder for each kind of observation space."""

import math
from itertools import pairwise
from typing import Any

import gymnasium as gym
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from troupe.config import UsageError

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Flat(nn.Module):
    """Any Box as a vector of floats: [N, ...] -> [N, features]."""

    def __init__(self, space: gym.spaces.Box):
        super().__init__()
        self.features = math.prod(space.shape)

    def forward(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        return obs.reshape(len(obs), self.features).float()


class OneHot(nn.Module):
    """A Discrete observation: [N] -> [N, n]."""

    def __init__(self, space: gym.spaces.Discrete):
        super().__init__()
        self.features, self.start = int(space.n), int(space.start)

    def forward(self, obs: Shaped[Tensor, " N"]) -> Float[Tensor, "N n"]:
        return nn.functional.one_hot(obs.long() - self.start, self.features).float()


def encoder(space: gym.Space[Any]) -> Flat | OneHot:
    """The encoder for `space`; raises UsageError, by name, for a space that has none."""
    if isinstance(space, gym.spaces.Box):
        return Flat(space)
    if isinstance(space, gym.spaces.Discrete):
        return OneHot(space)
    raise UsageError(f"observation space {space} is not supported: Box and Discrete are")


def hidden_layers(features: int, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers, each followed by its activation; orthogonal weights with gain sqrt(2)."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise((features, *hidden)):
        layers += [orthogonal(inputs, units, math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights and no bias to begin with (Huang et al. 2022, detail 2)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
