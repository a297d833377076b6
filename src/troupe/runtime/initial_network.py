"""The network that a run begins with, and the device that it is on."""

import numpy as np
import torch
from torch import nn

from troupe.config import TrainConfig, UsageError
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic, build
from troupe.networks.custom import NetworkMaker, custom_network
from troupe.networks.images import convolutions_for
from troupe.networks.novelty import with_bonus_value
from troupe.networks.user_encoder import ENCODERS
from troupe.torch_threads import one_torch_thread


def first_network(
    network: nn.Module | NetworkMaker | None, source: EnvironmentSource, config: TrainConfig, resumes: int = 0
) -> tuple[ActorCritic, np.random.SeedSequence, np.random.SeedSequence]:
    """The network with its first weights, and the seeds of the parts and of the judge."""
    root = np.random.SeedSequence(config.seed, spawn_key=(resumes,))
    network_seed, parts_seed, judge_seed = root.spawn(3)
    made = _make_network(network, source, config, network_seed)
    return made.to(choose_device(config, source)), parts_seed, judge_seed


def _make_network(
    network: nn.Module | NetworkMaker | None,
    source: EnvironmentSource,
    config: TrainConfig,
    seeds: np.random.SeedSequence,
) -> ActorCritic:
    """The network, with initial weights drawn from the run's seed; a module of the user is copied."""
    # One thread: the last bits of an orthogonal matrix depend on their number.
    with torch.random.fork_rng(devices=[]), one_torch_thread():
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        return with_any_weights(network, source, config)


def with_any_weights(
    network: nn.Module | NetworkMaker | None, source: EnvironmentSource, config: TrainConfig
) -> ActorCritic:
    spaces = source.observation_space, source.action_space
    built = build(*spaces, config.network, source.masked)
    if network is not None:
        built = custom_network(network, *spaces, config.network, source.masked)
    return with_bonus_value(built, config)


def choose_device(config: TrainConfig, source: EnvironmentSource) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("device = 'cuda': torch sees no CUDA device here; use cpu, or auto")
    if config.device != "auto":
        return torch.device(config.device)
    # Small networks on vectors are faster on the processor: the learner's work is calls, not arithmetic.
    return torch.device("cuda" if available and sees_images(source, config) else "cpu")


def sees_images(source: EnvironmentSource, config: TrainConfig) -> bool:
    """Whether an encoder of troupe's reads images."""
    name = config.network.encoder
    return ENCODERS.is_builtin(name) and convolutions_for(source.observation_space, name) != ""
