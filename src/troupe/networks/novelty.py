"""How new an observation is: the error of a network that learns to predict another, random one."""

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

_CLIP = 5.0  # deviations from the mean, as in the paper


class Novelty(nn.Module):
    """Random network distillation (Burda et al. 2018, section 2.2): (f'(s) - f(s))^2, averaged over the features,
    of a fixed random network f and a predictor f', which has been trained where the agent has been.

    Observations are whitened and clipped before either sees them (section 2.4): a network that is not
    trained cannot adapt to their scale. Any space is read as one vector; a picture is then given its shape back.
    """

    def __init__(self, packing: Packing, config: Config):
        super().__init__()
        self._packing = packing
        self.flat = encoder(packing, Network(encoder="flat", normalize=False))
        space = packing.seen
        self.target = _tower(space, self.flat.features, config.hidden).requires_grad_(requires_grad=False)
        # The predictor has a layer more than what it predicts, so that it is the data that is missing, not the form.
        self.predictor = _tower(space, self.flat.features, (*config.hidden, config.hidden[-1]))

    def flatten(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N features"]:
        """Of packed observations."""
        features: Tensor = self.flat(self._packing.unpack(obs)[0])
        return features

    def forward(
        self, flat: Float[Tensor, "N features"], mean: Float[Tensor, " features"], deviation: Float[Tensor, " features"]
    ) -> Float[Tensor, " N"]:
        # What has never changed is no news, and must not divide: the first change of it counts as much as can be.
        whitened = ((flat - mean) / (deviation + 1e-8)).clamp(-_CLIP, _CLIP)
        error: Tensor = self.predictor(whitened) - self.target(whitened)
        return error.square().mean(1)


class BonusValue(nn.Module):
    """The value of bonuses to come: a network of its own, which only those who learn compute.

    It has the policy's normaliser, whose statistics are kept up to date.
    """

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
        """Of observations as the environment nests them."""
        value: Tensor = self.value(self.trunk(self.encoder(obs))).squeeze(-1)
        return value


def _tower(space: gym.Space[Any], features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """From whitened observations [N, features] to as many numbers as the last hidden layer has units."""
    eyes: list[nn.Module] = []
    lies = layout(space)
    if lies and convolutions_for(space, "auto") == "nature":  # large enough
        assert space.shape is not None
        eyes = [nn.Unflatten(1, space.shape), *_convolutions(lies), nn.Flatten()]
        with torch.no_grad():
            features = nn.Sequential(*eyes)(torch.zeros(1, features)).shape[1]
    last = orthogonal(hidden[-1], hidden[-1], math.sqrt(2))
    return nn.Sequential(*eyes, hidden_layers(features, hidden, "relu"), last)


def _convolutions(lies: Layout) -> list[nn.Module]:
    """The paper's three, on images however they lie."""
    turned: dict[str, list[nn.Module]] = {"last": [_ChannelsFirst()], "none": [nn.Unflatten(1, (1, lies.height))]}
    layers = turned.get(lies.channel_axis, [])
    for inputs, outputs, size, stride in ((lies.channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)):
        layers += [nn.Conv2d(inputs, outputs, size, stride), nn.LeakyReLU()]
    return layers


class _ChannelsFirst(nn.Module):
    def forward(self, images: Float[Tensor, "N H W C"]) -> Float[Tensor, "N C H W"]:
        return images.permute(0, 3, 1, 2)


def with_bonus_value(
    network: ActorCritic, config: TrainConfig, user_encoder: EncoderMaker | None = None
) -> ActorCritic:
    """The network, able to value bonuses where a run has any."""
    if config.novelty.coefficient:
        network.bonus_value = BonusValue(network.packing, config.network, network.normalizer, user_encoder)
    return network
