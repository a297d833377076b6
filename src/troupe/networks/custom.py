"""A custom network as an actor-critic: passed in Python, or named by `network.custom`."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from torch import nn

from troupe import hints
from troupe.config import PASSED, Network, TrainConfig, UsageError, one_line
from troupe.environments.packing import MaskSource
from troupe.networks.actor_critic import ActorCritic, wrap
from troupe.user_code import files
from troupe.user_code.choices import Choice, passed_name

NetworkMaker = Callable[[gym.Space[Any], gym.Space[Any]], nn.Module]
AnyNetwork = nn.Module | NetworkMaker | str  # a string names one: path/to/file.py:NAME or module:NAME
NETWORKS = Choice("network", "network.custom", if_changed="the weights may not fit it, or mean something else")


def name_of_network(network: AnyNetwork) -> str:
    """A network as settings name it (`network.custom`)."""
    if isinstance(network, str):
        return files.absolute(network)
    return passed_name(network)


def find_network(network: AnyNetwork | None, config: TrainConfig) -> nn.Module | NetworkMaker | None:
    """`network`, or what it or else `network.custom` names; a file or module is executed. None: the network is built
    in."""
    name = network if isinstance(network, str) else config.network.custom
    if network is not None and not isinstance(network, str):
        return network
    if name == Network.custom:
        return None
    return NETWORKS.load(name)


def network_of_run(
    run: Path, config: TrainConfig, network: AnyNetwork | None, *, trained_with_one: bool = False
) -> nn.Module | NetworkMaker | None:
    """The network of a run, for commands that also execute the run's environment: `network`, or the one that the run
    names. `trained_with_one`: the run had a custom network, whether it is named or not.

    A run directory may come from anybody: code inside it is not executed. Raises UsageError where the network has to be
    passed.
    """
    name = config.network.custom
    if network is None:
        if name.startswith(PASSED) or (trained_with_one and name == Network.custom):
            raise needs_network(run)
        NETWORKS.check_code(run, name, config.env.files)
    return find_network(network, config)


def needs_network(run: Path, name: str = "") -> UsageError:
    """The error for a run whose network, that of the file `name` if there is one, has to be passed."""
    passed = hints.code_option("network")
    if ":" in name and not name.startswith(PASSED):
        return UsageError(
            f"'{run}' was trained with the network '{name}', and loading a run executes no code that it names: if you "
            f"trust it, pass it as {passed}"
        )
    return UsageError(f"'{run}' was trained with a custom network: pass it as {passed} (code is not saved)")


def custom_network(
    network: nn.Module | NetworkMaker,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: Network,
    masked: MaskSource = "",
) -> ActorCritic:
    """The user's network as an actor-critic: a module is copied, a maker is called with the spaces, or without
    arguments if it takes none."""
    value = network.value if isinstance(network, files.FileCallable) else network
    try:
        if isinstance(value, nn.Module):
            own = copy.deepcopy(value)
        else:
            own = value(*((observation_space, action_space) if _takes_arguments(value) else ()))
    except Exception as error:
        verb = "copied" if isinstance(value, nn.Module) else "made"
        raise UsageError(f"network: it cannot be {verb}: {one_line(error)}") from error
    if not isinstance(own, nn.Module):
        raise UsageError(f"network: {type(own).__name__} is not a torch.nn.Module")
    source = network if isinstance(network, files.FileCallable) else None
    return wrap(own, observation_space, action_space, config, masked, source)


def _takes_arguments(maker: Callable[..., Any]) -> bool:
    try:
        return bool(inspect.signature(maker).parameters)
    except (TypeError, ValueError):
        return True
