"""What checkpoints of earlier versions hold, as this version reads it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from troupe.networks.actor_critic import ActorCritic


def optimizer_state(saved: Mapping[str, Tensor], network: ActorCritic) -> dict[str, Tensor]:
    """With zeros for a normaliser's `mean_rest` in vectors that are from before there was one."""
    rest = network.normalizer.mean_rest if network.normalizer else None
    if rest is None:
        return dict(saved)
    parameters = list(network.parameters())
    start = sum(each.numel() for each in parameters[: [each is rest for each in parameters].index(True)])
    old_shape = (sum(each.numel() for each in parameters) - rest.numel(),)
    return {
        name: torch.cat([each[:start], torch.zeros(rest.numel()), each[start:]]) if each.shape == old_shape else each
        for name, each in saved.items()
    }
