"""The user's encoders, to which troupe adds normalisation, recurrence, hidden layers and heads (docs/extending.md)."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from troupe.config import Network, UsageError, one_line
from troupe.environments.packing import Packing
from troupe.environments.spaces import with_entries
from troupe.networks.encoders import Encoder, encoder, numeric
from troupe.user_code.choices import Choice

EncoderMaker = Callable[[gym.Space[Any]], nn.Module]
ENCODERS = Choice("encoder", "network.encoder", if_changed="the weights may not fit it, or mean something else")


def make_encoder(packing: Packing, config: Network, make: EncoderMaker | None = None) -> Encoder:
    """The encoder that `make` makes, or else the one that the configuration names."""
    if make is None and ENCODERS.is_builtin(config.encoder):
        return encoder(packing, config)
    return UserEncoder(packing, config, make or ENCODERS.load(config.encoder))


class UserEncoder(Encoder):
    """A module of the user that reads observations nested as the environment's, with numbers normalised by troupe.

    Numbers are what troupe's own encoder reads as a vector. Images and choices reach the module as they are. Raises
    UsageError if the module does not map observations to [N, features].
    """

    def __init__(self, packing: Packing, config: Network, make: EncoderMaker):
        # Pickled before the module, in the order of __dict__: unpickling it imports the file that defines the module.
        object.__setattr__(self, "_make", make)
        super().__init__([leaf for leaf in packing.leaves if numeric(leaf)], replace(config, encoder="auto"))
        self._leaves, self._space, self._name = packing.leaves, packing.seen, config.encoder
        try:
            self.module = make(self._space)
        except Exception as error:
            raise UsageError(f"{self._setting}: making it raised {one_line(error)}") from error
        features = getattr(self.module, "features", None)
        if not isinstance(self.module, nn.Module) or not isinstance(features, int) or features < 1:
            raise UsageError(
                f"{self._setting}: it must make a torch.nn.Module with a whole number of `features` above 0; it made a "
                f"{type(self.module).__name__} with features = {features!r}"
            )
        self.features = features
        self._try()

    @property
    def _setting(self) -> str:
        return f"network.encoder = '{self._name}'"

    @property
    def only_images(self) -> bool:
        return False  # hidden layers follow it

    def forward(self, obs: Any) -> Float[Tensor, "N features"]:
        values = {leaf.path: leaf.of(obs) for leaf in self._leaves}
        if self.numbers is not None:
            parts = self.vector(obs).split_with_sizes([leaf.size for leaf in self.numbers.leaves], -1)
            for leaf, part in zip(self.numbers.leaves, parts, strict=True):
                values[leaf.path] = part.reshape(part.shape[0], *(leaf.space.shape or ()))
        features: Tensor = self.module(with_entries(self._space, iter(values.values())))
        return features

    def _try(self) -> None:
        """Calls the module on two random observations."""
        space = copy.deepcopy(self._space)  # sampling changes its generator
        samples = [space.sample() for _ in range(2)]
        leaves = (
            torch.from_numpy(np.stack([np.asarray(leaf.of(each), leaf.space.dtype) for each in samples]))
            for leaf in self._leaves
        )
        obs, training = with_entries(space, leaves), self.module.training
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found = tuple(self.eval()(obs).shape)
        except Exception as error:
            raise UsageError(f"{self._setting}: called on 2 observations it raised {one_line(error)}") from error
        self.train(training)
        if found != (2, self.features):
            raise UsageError(f"{self._setting}: expected [N, {self.features}]; it gave {list(found)} for N = 2")
