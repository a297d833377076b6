"""Reads what checkpoints of earlier versions hold."""

from collections.abc import Mapping

import torch
from torch import Tensor

from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import float_buffers


def optimizer_state(saved: Mapping[str, Tensor], network: ActorCritic) -> dict[str, Tensor]:
    """The optimizer's state, with zeros for weights that were added since: a normaliser's `mean_rest`, and buffers."""
    rest = network.normalizer.mean_rest if network.normalizer else None
    flat = [*network.parameters(), *float_buffers(network)]
    new = [each is rest or not isinstance(each, torch.nn.Parameter) for each in flat]
    old_size = sum(each.numel() for each, added in zip(flat, new, strict=True) if not added)
    if not any(new):
        return dict(saved)

    def widened(vector: Tensor) -> Tensor:
        parts, start = [], 0
        for each, added in zip(flat, new, strict=True):
            parts.append(torch.zeros(each.numel()) if added else vector[start : start + each.numel()])
            start += 0 if added else each.numel()
        return torch.cat(parts)

    return {name: widened(each) if each.shape == (old_size,) else each for name, each in saved.items()}
