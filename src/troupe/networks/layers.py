"""Linear layers and their initial weights."""

import math
from itertools import pairwise
from typing import TypeVar

from torch import nn

L = TypeVar("L", nn.Linear, nn.Conv2d)

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def hidden_layers(features: int, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers, each followed by its activation; orthogonal weights with gain sqrt(2)."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise((features, *hidden)):
        layers += [orthogonal(inputs, units, math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal initial weights and zero initial bias (Huang et al. 2022, detail 2)."""
    return orthogonal_(nn.Linear(inputs, outputs), gain)


def orthogonal_(layer: L, gain: float = math.sqrt(2)) -> L:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
