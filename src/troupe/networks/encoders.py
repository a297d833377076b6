"""From observations to features: a module for each kind of leaf, and one for all of them together."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard, TypeVar

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from troupe.algorithm.normalization import Normalizer
from troupe.config import Network, UsageError
from troupe.environments.packing import Packing
from troupe.environments.spaces import Leaf

L = TypeVar("L", nn.Linear, nn.Conv2d)

_LEAST_PIXELS = 36  # in height and width, for the convolutions that are chosen by themselves

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Numbers(nn.Module):
    """Leaves of a Box or MultiBinary as one vector: [N, ...] each -> [N, features].

    In float32, or in float64 where one of them may have more digits (`exact`).
    """

    def __init__(self, leaves: Sequence[Leaf]):
        super().__init__()
        self.leaves = leaves
        self.features = sum(leaf.size for leaf in leaves)
        self.exact = any(np.promote_types(np.dtype(leaf.space.dtype), np.float32) == np.float64 for leaf in leaves)
        self._dtype = torch.float64 if self.exact else torch.float32

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        vectors = [(leaf.of(obs), leaf.size) for leaf in self.leaves]
        # Not len(): that would be the number in the exported file (runs/export.py), whatever the batch there.
        flat = [vector.reshape(vector.shape[0], size).to(self._dtype) for vector, size in vectors]
        return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


class OneHots(nn.Module):
    """Leaves of a Discrete or MultiDiscrete, a one for each: [N, ...] each -> [N, features]."""

    def __init__(self, leaves: Sequence[Leaf]):
        super().__init__()
        self.leaves = leaves
        self._choices = [[(int(n), int(first)) for n, first in _choices(leaf.space)] for leaf in leaves]
        self.features = sum(n for choices in self._choices for n, _ in choices)

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        hot = []
        for leaf, choices in zip(self.leaves, self._choices, strict=True):
            value = leaf.of(obs)
            columns = value.reshape(value.shape[0], leaf.size).long().unbind(-1)
            hot += [
                nn.functional.one_hot(column - first, n) for column, (n, first) in zip(columns, choices, strict=True)
            ]
        return torch.cat(hot, -1).float()


def _choices(space: gym.Space[Any]) -> list[tuple[Any, Any]]:
    if isinstance(space, gym.spaces.MultiDiscrete):
        return list(zip(space.nvec.flat, space.start.flat, strict=True))
    assert isinstance(space, gym.spaces.Discrete)
    return [(space.n, space.start)]


class Images(nn.Module):
    """Convolutions and one hidden layer on images of bytes, in either layout: [N, H, W, C] or [N, C, H, W] ->
    [N, features].

    Images whose channels come last are read where they lie: turned round they are what PyTorch calls
    channels_last, which is the order its convolutions are fastest in.
    """

    def __init__(self, space: gym.spaces.Box, kind: str):
        super().__init__()
        self.channels_last = space.shape[2] <= space.shape[0]
        height, width, channels = space.shape if self.channels_last else (*space.shape[1:], space.shape[0])
        self.convolutions, self.features = _CONVOLUTIONS[kind](channels)
        with torch.no_grad():
            try:
                flat = self.convolutions(torch.zeros(1, channels, height, width)).numel()
            except RuntimeError:
                raise UsageError(
                    f"network.encoder = '{kind}': images of {height} x {width} are too small for it"
                ) from None
        self.hidden = orthogonal(flat, self.features, math.sqrt(2))

    def forward(self, obs: UInt8[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        # bfloat16 holds the bytes exactly; the division by 255 is done where it costs least, in the first weights.
        images = obs.to(torch.bfloat16 if torch.is_autocast_enabled(obs.device.type) else torch.float32)
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        features: Tensor = self.hidden(self.convolutions(images).relu().flatten(1))
        return features.relu()


class FromBytes(nn.Conv2d):
    """A convolution on bytes as if they were 0..1, whose filters sum to zero: it sees differences.

    Nearly all of a picture is the same everywhere and always. With filters that answer to that, the first hundred
    updates of Adam agree on little else, and leave most of them silent for good (docs/algorithms.md, Networks).
    """

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        weight = self.weight.float()  # an actor's copy may be bfloat16, too coarse for a mean to be subtracted in
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) * (1 / 255)
        if images.dtype == torch.bfloat16:
            weight = weight + (_rounded_to_sum_zero(weight.detach()) - weight.detach())
        return nn.functional.conv2d(images, weight.to(images.dtype), self.bias, self.stride, self.padding)


def _rounded_to_sum_zero(filters: Float[Tensor, "D C h w"]) -> Float[Tensor, "D C h w"]:
    """In bfloat16, each filter's smallest weight taking what rounding made of its sum, for it has the finest digits.

    Rounded one by one, they would answer to an even picture by up to a hundredth of their size, anew after each
    update, which is enough to switch on and off what a filter says of everything that does not move.
    """
    rounded = filters.bfloat16().float().flatten(1)
    smallest = rounded.abs().argmin(1, keepdim=True)
    rest = rounded.scatter(1, smallest, 0.0).sum(1, keepdim=True)
    return rounded.scatter(1, smallest, -rest).bfloat16().float().view_as(filters)


def _plain(first: nn.Conv2d, *following: nn.Conv2d) -> nn.Sequential:
    layers: list[nn.Module] = [_orthogonal(first)]
    for layer in following:
        layers += [nn.ReLU(), _orthogonal(layer)]
    return nn.Sequential(*layers)


def _a3c(channels: int) -> tuple[nn.Module, int]:
    """Mnih et al. 2016, section 5.1, which is the network of Mnih et al. 2013."""
    return _plain(FromBytes(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)), 256


def _nature(channels: int) -> tuple[nn.Module, int]:
    """Mnih et al. 2015, Human-level control through deep reinforcement learning."""
    return _plain(FromBytes(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)), 512


def _impala(channels: int) -> tuple[nn.Module, int]:
    """The deep network of Espeholt et al. 2018, figure 3, without its LSTM."""
    depths = (16, 32, 32)
    sections = [
        nn.Sequential(
            _orthogonal((nn.Conv2d if i else FromBytes)(inputs, depth, 3, padding=1)),
            nn.MaxPool2d(3, 2, padding=1),
            Residual(depth),
            Residual(depth),
        )
        for i, (inputs, depth) in enumerate(pairwise((channels, *depths)))
    ]
    return nn.Sequential(*sections), 256


_CONVOLUTIONS = {"a3c": _a3c, "nature": _nature, "impala": _impala}


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, depth: int):
        super().__init__()
        self.first, self.second = (_orthogonal(nn.Conv2d(depth, depth, 3, padding=1)) for _ in range(2))

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        seen: Tensor = self.second(self.first(images.relu()).relu())
        return images + seen


class Encoder(nn.Module):
    """From observations, nested as the environment gives them, to one vector of features.

    Numbers are normalised if the configuration says so, choices become ones and zeros, and every image is seen by
    convolutions of its own; all stand beside one another.
    """

    def __init__(self, leaves: Sequence[Leaf], config: Network):
        super().__init__()
        kinds = [_kind(leaf, config) for leaf in leaves]
        numbers = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind == "numbers"]
        choices = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind == "choices"]
        self._pictures = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind in _CONVOLUTIONS]
        self.numbers = Numbers(numbers) if numbers else None
        self.normalizer = (
            Normalizer(self.numbers.features, exact=self.numbers.exact) if self.numbers and config.normalize else None
        )
        self.choices = OneHots(choices) if choices else None
        self.images = nn.ModuleList(
            Images(leaf.space, kind)
            for leaf, kind in zip(leaves, kinds, strict=True)
            if kind in _CONVOLUTIONS and isinstance(leaf.space, gym.spaces.Box)
        )
        parts = [self.numbers, self.choices, *self.images]
        self.features: int = sum(int(part.features) for part in parts if part is not None)

    @property
    def only_images(self) -> bool:
        return self.numbers is None and self.choices is None

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        seen = []
        if self.numbers is not None:
            vector = self.numbers(obs)
            seen.append(vector.float() if self.normalizer is None else self.normalizer(vector))
        if self.choices is not None:
            seen.append(self.choices(obs))
        seen += [images(leaf.of(obs)) for images, leaf in zip(self.images, self._pictures, strict=True)]
        return seen[0] if len(seen) == 1 else torch.cat(seen, -1)


def _kind(leaf: Leaf, config: Network) -> str:
    """numbers, choices, or the convolutions that see it."""
    space, asked = leaf.space, config.encoder
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return "choices"
    if is_image(space):
        small = min(sorted(space.shape)[1:]) < _LEAST_PIXELS  # height and width: the channels are fewest
        return {"auto": "numbers" if small else "nature", "flat": "numbers"}.get(asked, asked)
    return "numbers"


def encoder(packing: Packing, config: Network) -> Encoder:
    """The encoder for what `packing` unpacks; raises UsageError where its convolutions find no image."""
    if config.encoder in _CONVOLUTIONS and not any(is_image(leaf.space) for leaf in packing.leaves):
        raise UsageError(
            f"network.encoder = '{config.encoder}': it reads images of bytes, and observations here are "
            f"{packing.seen}; use flat"
        )
    return Encoder(packing.leaves, config)


def is_image(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Box]:
    """Whether observations are bytes of height, width and up to sixteen channels, these first or last."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return min(space.shape[0], space.shape[2]) <= 16


def hidden_layers(features: int, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
    """Linear layers, each followed by its activation; orthogonal weights with gain sqrt(2)."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise((features, *hidden)):
        layers += [orthogonal(inputs, units, math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights and no bias to begin with (Huang et al. 2022, detail 2)."""
    return _orthogonal(nn.Linear(inputs, outputs), gain)


def _orthogonal(layer: L, gain: float = math.sqrt(2)) -> L:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
