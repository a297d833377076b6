"""A trained agent: what `load` gives back, and what evaluation, video and one's own program use."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from troupe.config import UsageError, from_toml
from troupe.environments import spaces
from troupe.networks.actor_critic import ActorCritic, build
from troupe.runs import checkpoint


class Agent:
    """A policy with its value. Observations come one at a time, as the environment gives them."""

    def __init__(self, network: ActorCritic, observation_space: gym.Space[Any], action_space: gym.Space[Any]):
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        self._first_action = int(getattr(action_space, "start", 0))
        self._generator = torch.Generator()
        self._generator.seed()

    @torch.inference_mode()
    def act(self, observation: Any, *, greedy: bool = True) -> Any:
        """The action for one observation, or an array of actions for a batch [N, ...] of them."""
        batch, single = self._batch(observation)
        distribution = self.network.step(batch).distribution
        action = (distribution.mode() if greedy else distribution.sample(self._generator)).numpy() + self._first_action
        return action[0] if single else action

    @torch.inference_mode()
    def distribution(self, observation: Any) -> tuple[np.ndarray, float]:
        """The probability of every action, and the value, for one observation."""
        batch, _ = self._batch(observation)
        output = self.network.step(batch)
        return output.distribution.log_probs[0].exp().numpy(), float(output.value[0])

    def _batch(self, observation: Any) -> tuple[torch.Tensor, bool]:
        array = np.asarray(observation, dtype=self.observation_space.dtype)
        shape = self.observation_space.shape or ()
        if array.shape != shape and array.shape[1:] != shape:
            raise UsageError(f"observation has shape {array.shape}; the agent was trained on {shape}")
        single = array.shape == shape
        return torch.from_numpy(array[None] if single else array), single


def load(run: str | Path, network: nn.Module | None = None) -> Agent:
    """The best agent of a run directory. Nothing in it is executed or unpickled.

    A run with a network of one's own needs that network again, as `network`: code is not saved.
    """
    run = Path(run)
    saved = checkpoint.load(run, warn=lambda text: print(f"troupe: {text}"))
    config = from_toml((run / "config.toml").read_text())
    observation_space = spaces.restore(saved.state["observation_space"])
    action_space = spaces.restore(saved.state["action_space"])
    if saved.state["custom_network"] and network is None:
        raise UsageError(f"'{run}' was trained with a network of its own: pass it as network= (code is not saved)")
    body = ActorCritic(network) if network is not None else build(observation_space, action_space, config.network)
    try:
        body.load_state_dict(dict(saved.best))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UsageError(f"the weights of '{run}' do not fit the network: {first}") from None
    return Agent(body.eval(), observation_space, action_space)
