"""The user's own network, as an actor-critic."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from torch import nn

from troupe.config import Network, UsageError, one_line
from troupe.environments.packing import MaskPlace
from troupe.networks.actor_critic import ActorCritic, wrap

NetworkMaker = Callable[[gym.Space[Any], gym.Space[Any]], nn.Module]


def custom_network(
    network: nn.Module | NetworkMaker,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: Network,
    masked: MaskPlace = "",
) -> ActorCritic:
    """The user's network as an actor-critic: a module is copied, a maker is called with the spaces."""
    try:
        own = copy.deepcopy(network) if isinstance(network, nn.Module) else network(observation_space, action_space)
    except Exception as error:
        verb = "copied" if isinstance(network, nn.Module) else "made"
        raise UsageError(f"network: it cannot be {verb}: {one_line(error)}") from error
    if not isinstance(own, nn.Module):
        raise UsageError(f"network: {type(own).__name__} is no torch.nn.Module")
    return wrap(own, observation_space, action_space, config, masked)
