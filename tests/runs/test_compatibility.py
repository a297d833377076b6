"""What checkpoints of earlier versions lack."""

import gymnasium as gym
import numpy as np
import torch

from troupe.config import Network
from troupe.networks.actor_critic import build
from troupe.networks.flat import float_buffers
from troupe.runs.store.compatibility import optimizer_state

SPACES = gym.spaces.Box(-1, 1, (3,), np.float64), gym.spaces.Discrete(2)


def test_an_optimizers_state_has_zeros_for_weights_that_were_added_since():
    network = build(*SPACES, Network(hidden=(4,)))
    rest = network.normalizer.mean_rest
    kept = [each.numel() for each in network.parameters() if each is not rest]
    added = sum(each.numel() for each in float_buffers(network)) + rest.numel()
    assert added >= 3
    old = torch.arange(1.0, 1 + sum(kept))
    state = optimizer_state({"mean": old, "steps": torch.ones(1)}, network)
    assert state["steps"].tolist() == [1.0]
    wide = state["mean"]
    assert len(wide) == len(old) + added
    assert wide[wide != 0].tolist() == old.tolist()
    at = 0
    for each in network.parameters():
        assert (wide[at : at + each.numel()] != 0).all() == (each is not rest)
        at += each.numel()
    assert not wide[at:].any()


def test_where_nothing_was_added_the_state_is_as_it_was():
    network = build(*SPACES, Network(hidden=(4,), normalize=False))
    state = {"mean": torch.arange(5.0)}
    assert optimizer_state(state, network) == state
