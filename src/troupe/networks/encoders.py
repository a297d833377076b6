"""Encoders: from observations to features, with one module for each kind of leaf."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from troupe.algorithm.normalization import Normalizer
from troupe.config import Network, UsageError
from troupe.environments.packing import Packing
from troupe.environments.spaces import Leaf
from troupe.networks.images import CONVOLUTIONS, Images, convolutions_for, is_image


class Numbers(nn.Module):
    """Box and MultiBinary leaves as one vector: [N, ...] each -> [N, features].

    In float32, or in float64 if one of them may have more digits (`exact`).
    """

    def __init__(self, leaves: Sequence[Leaf]):
        super().__init__()
        self.leaves = leaves
        self.features = sum(leaf.size for leaf in leaves)
        self.exact = any(np.promote_types(np.dtype(leaf.space.dtype), np.float32) == np.float64 for leaf in leaves)
        self._dtype = torch.float64 if self.exact else torch.float32

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        vectors = [(leaf.of(obs), leaf.size) for leaf in self.leaves]
        # Not len(), which the ONNX exporter would write into the file as a constant batch size.
        flat = [vector.reshape(vector.shape[0], size).to(self._dtype) for vector, size in vectors]
        return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


class OneHots(nn.Module):
    """Discrete and MultiDiscrete leaves, one-hot: [N, ...] each -> [N, features]."""

    def __init__(self, leaves: Sequence[Leaf]):
        super().__init__()
        self.leaves = leaves
        self._choices = [_choices(leaf.space) for leaf in leaves]
        self.features = sum(n for choices in self._choices for n, _ in choices)

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        one_hot = []
        for leaf, choices in zip(self.leaves, self._choices, strict=True):
            value = leaf.of(obs)
            columns = value.reshape(value.shape[0], leaf.size).long().unbind(-1)
            for column, (n, first) in zip(columns, choices, strict=True):
                one_hot.append(nn.functional.one_hot(column - first, n))
        return torch.cat(one_hot, -1).float()


def _choices(space: gym.Space[Any]) -> list[tuple[int, int]]:
    """For each choice, the number of alternatives and the first one."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return [(int(n), int(first)) for n, first in zip(space.nvec.flat, space.start.flat, strict=True)]
    assert isinstance(space, gym.spaces.Discrete)
    return [(int(space.n), int(space.start))]


class Encoder(nn.Module):
    """From observations, nested as the environment's, to one vector of features: the numbers, normalised if the
    settings ask for it, the choices, one-hot, and the features of each image, from convolutions of its own."""

    def __init__(self, leaves: Sequence[Leaf], config: Network):
        super().__init__()
        by_kind: dict[str, list[Leaf]] = {"numbers": [], "choices": []}
        self._image_leaves, images = [], []
        for leaf in leaves:
            kind = _kind(leaf, config)
            if kind in by_kind:
                by_kind[kind].append(leaf)
            else:
                assert isinstance(leaf.space, gym.spaces.Box)
                self._image_leaves.append(leaf)
                images.append(Images(leaf.space, kind))
        self.numbers = Numbers(by_kind["numbers"]) if by_kind["numbers"] else None
        self.normalizer = (
            Normalizer(self.numbers.features, exact=self.numbers.exact) if self.numbers and config.normalize else None
        )
        self.choices = OneHots(by_kind["choices"]) if by_kind["choices"] else None
        self.images = nn.ModuleList(images)
        parts = [self.numbers, self.choices, *images]
        self.features: int = sum(part.features for part in parts if part is not None)

    @property
    def only_images(self) -> bool:
        return self.numbers is None and self.choices is None

    def vector(self, obs: Any) -> Float[Tensor, "N D"]:
        """The numbers, of which there must be some, normalised if there is a normaliser."""
        assert self.numbers is not None
        vector: Tensor = self.numbers(obs)
        return vector.float() if self.normalizer is None else self.normalizer(vector)

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        parts = [] if self.numbers is None else [self.vector(obs)]
        if self.choices is not None:
            parts.append(self.choices(obs))
        parts += [images(leaf.of(obs)) for images, leaf in zip(self.images, self._image_leaves, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def numeric(leaf: Leaf) -> bool:
    """Whether `network.encoder` = auto reads a leaf as numbers."""
    return _kind(leaf, Network()) == "numbers"


def _kind(leaf: Leaf, config: Network) -> str:
    """numbers, choices, or the convolutions that encode it."""
    if isinstance(leaf.space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return "choices"
    return convolutions_for(leaf.space, config.encoder) or "numbers"


def encoder(packing: Packing, config: Network) -> Encoder:
    """The encoder for what `packing` unpacks; raises UsageError if it needs images and there are none."""
    if config.encoder in CONVOLUTIONS and not any(is_image(leaf.space) for leaf in packing.leaves):
        raise UsageError(
            f"network.encoder = '{config.encoder}': it encodes images (docs/extending.md defines what counts as one), "
            f"but the observations are {packing.seen}; use flat"
        )
    return Encoder(packing.leaves, config)
