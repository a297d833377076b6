"""Intrinsic rewards: the prediction error of a random network's output (random network distillation)."""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from troupe.algorithm.normalization import Normalizer
from troupe.config import Network, TrainConfig
from troupe.config import Novelty as Config
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.encoders import encoder
from troupe.networks.images import Layout, convolutions_for, layout
from troupe.networks.layers import hidden_layers, orthogonal
from troupe.networks.user_encoder import EncoderMaker, make_encoder

_CLIP = 5.0  # standard deviations from the mean, as in the paper


class Novelty(nn.Module):
    """Random network distillation (Burda et al. 2018, section 2.2): (f'(s) - f(s))^2, averaged over the features,
    of a fixed random network f and a predictor f' that is trained where the agent has been.

    Observations are normalised and clipped first (section 2.4), as a random network cannot adapt to their scale. Any
    space is read as one vector; large images then get their shape back.
    """

    def __init__(self, packing: Packing, config: Config):
        super().__init__()
        self._packing = packing
        self.flat = encoder(packing, Network(encoder="flat", normalize=False))
        space = packing.seen
        self.target = _network(space, self.flat.features, config.hidden).requires_grad_(requires_grad=False)
        # One layer more than the target has, so that errors come from a lack of data, not of capacity.
        self.predictor = _network(space, self.flat.features, (*config.hidden, config.hidden[-1]))

    def flatten(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        """Packed observations as vectors."""
        features: Tensor = self.flat(self._packing.unpack(obs)[0])
        return features

    def forward(
        self, flat: Float[Tensor, "N features"], mean: Float[Tensor, " features"], std: Float[Tensor, " features"]
    ) -> Float[Tensor, " N"]:
        # A number that never changed is 0; its first change is clipped.
        normalized = ((flat - mean) / (std + 1e-8)).clamp(-_CLIP, _CLIP)
        error: Tensor = self.predictor(normalized) - self.target(normalized)
        return error.square().mean(1)


class BonusValue(nn.Module):
    """The value function of intrinsic rewards: a separate network, which only learners compute. It shares the policy's
    normaliser."""

    def __init__(
        self, packing: Packing, config: Network, normalizer: Normalizer | None, user_encoder: EncoderMaker | None = None
    ):
        super().__init__()
        self.encoder = make_encoder(packing, replace(config, normalize=False), user_encoder)
        self.encoder.normalizer = normalizer
        hidden = () if self.encoder.only_images else config.hidden
        self.trunk = hidden_layers(self.encoder.features, hidden, config.activation)
        self.value = orthogonal((self.encoder.features, *hidden)[-1], 1, 1.0)

    def forward(self, obs: Any) -> Float[Tensor, " N"]:
        """Of observations nested as the environment's."""
        value: Tensor = self.value(self.trunk(self.encoder(obs))).squeeze(-1)
        return value


def _network(space: gym.Space[Any], features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """From normalised observations [N, features] to [N, hidden[-1]]."""
    convolutions: list[nn.Module] = []
    image = layout(space)
    if image and convolutions_for(space, "auto") == "nature":  # large enough
        assert space.shape is not None
        convolutions = [nn.Unflatten(1, space.shape), *_convolutions(image), nn.Flatten()]
        with torch.no_grad():
            features = nn.Sequential(*convolutions)(torch.zeros(1, features)).shape[1]
    last = orthogonal(hidden[-1], hidden[-1], math.sqrt(2))
    return nn.Sequential(*convolutions, hidden_layers(features, hidden, "relu"), last)


def _convolutions(image: Layout) -> list[nn.Module]:
    """The paper's three convolutions, for images of any layout."""
    layers: list[nn.Module] = []
    if image.channel_axis == "last":
        layers.append(_ChannelsFirst())
    elif image.channel_axis == "none":
        layers.append(nn.Unflatten(1, (1, image.height)))
    for inputs, outputs, size, stride in ((image.channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)):
        layers += [nn.Conv2d(inputs, outputs, size, stride), nn.LeakyReLU()]
    return layers


class _ChannelsFirst(nn.Module):
    def forward(self, images: Float[Tensor, "N H W C"]) -> Float[Tensor, "N C H W"]:
        return images.permute(0, 3, 1, 2)


def with_bonus_value(
    network: ActorCritic, config: TrainConfig, user_encoder: EncoderMaker | None = None
) -> ActorCritic:
    """The network, with a value function of intrinsic rewards if the run has them."""
    if config.novelty.coefficient:
        network.bonus_value = BonusValue(network.packing, config.network, network.normalizer, user_encoder)
    return network
