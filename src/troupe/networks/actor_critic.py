"""One module for actors and learners: `step` on [B] observations, `unroll` on [T, B] of them."""

from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from troupe.algorithm.distributions import Categorical
from troupe.config import Network, UsageError
from troupe.networks.encoders import Flat, Images, OneHot, encoder, hidden_layers, orthogonal


class PolicyOutput(NamedTuple):
    distribution: Categorical
    value: Float[Tensor, "*batch"]
    bonus_value: Float[Tensor, "*batch"] | None = None


class ActorCritic(nn.Module):
    """A policy and a value on any body: a module that maps observations [N, ...] to logits [N, A] and
    values [N]. The body may be one's own (docs/extending.md).

    `precision` is what the body computes in; weights, logits and values are float32 all the same.
    `bonus_value` values the bonuses for what is new (novelty.py), where there are any: for learning only.
    """

    def __init__(self, body: nn.Module, precision: torch.dtype = torch.float32, bonus_value: nn.Module | None = None):
        super().__init__()
        self.body, self.precision, self.bonus_value = body, precision, bonus_value

    def step(self, obs: Shaped[Tensor, "B *shape"]) -> PolicyOutput:
        return policy(*self.heads(obs))

    def unroll(self, obs: Shaped[Tensor, "T B *shape"]) -> PolicyOutput:
        """The same for every row of a rollout, in one call."""
        return policy(*self.unrolled_heads(obs))

    def unrolled_heads(self, obs: Shaped[Tensor, "T B *shape"]) -> tuple[Float[Tensor, "T B A"], Float[Tensor, "T B"]]:
        logits, value = self.heads(obs.flatten(0, 1))
        rows = obs.shape[:2]
        return logits.reshape(*rows, -1), value.reshape(rows)

    def learned_heads(self, obs: Shaped[Tensor, "T B *shape"]) -> tuple[Tensor, ...]:
        """All that is learned: `unrolled_heads`, and the value of bonuses where there is one."""
        heads = self.unrolled_heads(obs)
        if self.bonus_value is None:
            return heads
        return *heads, self.bonus_value(obs.flatten(0, 1)).reshape(obs.shape[:2])

    def heads(self, obs: Shaped[Tensor, "N *shape"]) -> tuple[Float[Tensor, "N A"], Float[Tensor, " N"]]:
        """Logits and values, of which `policy` makes what losses and actors read."""
        if self.precision == torch.float32:
            logits, value = self.body(obs)
            return logits, value
        with torch.autocast(obs.device.type, self.precision):
            logits, value = self.body(obs)
        return logits.float(), value.float()


def policy(
    logits: Float[Tensor, "*batch A"], value: Float[Tensor, "*batch"], bonus_value: Tensor | None = None
) -> PolicyOutput:
    return PolicyOutput(Categorical.from_logits(logits), value, bonus_value)


class Body(nn.Module):
    """Encoder and hidden layers, one trunk for policy and value or one for each, and their heads."""

    def __init__(self, encoder: Flat | OneHot | Images, actions: int, config: Network):
        super().__init__()
        self.encoder = encoder
        features = (self.encoder.features, *config.hidden)[-1]
        self.trunk = hidden_layers(self.encoder.features, config.hidden, config.activation)
        self.value_trunk = (
            None if config.shared else hidden_layers(self.encoder.features, config.hidden, config.activation)
        )
        # A near-uniform first policy explores; a value head of ordinary size learns at once.
        self.policy = orthogonal(features, actions, 0.01)
        self.value = orthogonal(features, 1, 1.0)

    def forward(self, obs: Shaped[Tensor, "N *shape"]) -> tuple[Float[Tensor, "N A"], Float[Tensor, " N"]]:
        encoded = self.encoder(obs)
        features = self.trunk(encoded)
        value_features = features if self.value_trunk is None else self.value_trunk(encoded)
        return self.policy(features), self.value(value_features).squeeze(-1)


def build(observation_space: gym.Space[Any], action_space: gym.Space[Any], config: Network) -> ActorCritic:
    """The network for an environment's spaces; raises UsageError for a space that is not supported."""
    if not isinstance(action_space, gym.spaces.Discrete):
        raise UsageError(f"action space {action_space} is not supported: Discrete is")
    eyes, actions = encoder(observation_space, config), int(action_space.n)
    if isinstance(eyes, Images):  # has its hidden layer, as published
        config = replace(config, hidden=(), shared=True)
    return ActorCritic(Body(eyes, actions, config), precision(config))


def precision(config: Network) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


@torch.no_grad()
def check_body(network: ActorCritic, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Tries a network of one's own on two observations; raises UsageError where it breaks its signature."""
    if not isinstance(action_space, gym.spaces.Discrete):
        raise UsageError(f"action space {action_space} is not supported: Discrete is")
    expected = f"network: it must map observations [N, ...] to (logits [N, {action_space.n}], values [N])"
    obs = torch.from_numpy(np.stack([np.asarray(observation_space.sample()) for _ in range(2)]))
    try:
        logits, value = network.body(obs)
        shapes = tuple(logits.shape), tuple(value.shape)
    except Exception as error:
        message = " ".join(str(error).split())
        raise UsageError(
            f"{expected}; called with {tuple(obs.shape)} it raised {type(error).__name__}: {message}"
        ) from error
    if shapes != ((2, int(action_space.n)), (2,)):
        raise UsageError(f"{expected}; it gave {shapes[0]} and {shapes[1]} for N = 2")
