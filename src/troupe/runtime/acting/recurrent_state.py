"""What a policy with memory is told of the past: by an actor as it plays, by a rollout as it is learned from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from troupe.environments.actions import Actions
from troupe.networks.recurrent import Memory
from troupe.runtime.data.rollout import Rollout


class Recall:
    """The memory of an actor's environments, from row to row and from rollout to rollout.

    It is never emptied here: where an episode begins `first` says so, and the network forgets.
    """

    def __init__(self, environments: int, size: int, actions: Actions):
        self._state = np.zeros((environments, size), np.float32)
        self._action = np.zeros((environments, *actions.shape), actions.dtype)
        self._reward = np.zeros(environments, np.float32)

    def begin(self, rollout: Rollout) -> None:
        """The rollout says what was before it, so that a learner can begin where the actor did."""
        rollout.initial_state[:] = self._state
        rollout.initial_action[:], rollout.initial_reward[:] = self._action, self._reward

    def before(self, rollout: Rollout, t: int, columns: slice) -> Memory:
        """What to read with the observations of row t."""
        action, reward = (
            (rollout.action[t - 1], rollout.reward[t - 1]) if t else (rollout.initial_action, rollout.initial_reward)
        )
        return _memory(self._state[columns], rollout.first[t, columns], action[columns], reward[columns])

    def keep(self, state: np.ndarray, columns: slice) -> None:
        """The state after a row."""
        self._state[columns] = state

    def end(self, rollout: Rollout) -> None:
        self._action[:], self._reward[:] = rollout.action[-1], rollout.reward[-1]

    def state(self) -> dict[str, np.ndarray]:
        return {"state": self._state.copy(), "action": self._action.copy(), "reward": self._reward.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._state[:], self._action[:], self._reward[:] = state["state"], state["action"], state["reward"]


def of_rollout(rollout: Rollout) -> Memory:
    """What to read with the observations of all its rows."""
    action = np.concatenate([rollout.initial_action[None], rollout.action])
    reward = np.concatenate([rollout.initial_reward[None], rollout.reward])
    return _memory(rollout.initial_state, rollout.first, action, reward)


def _memory(state: np.ndarray, first: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Memory:
    return Memory(*(torch.from_numpy(each) for each in (state, first, action, reward.astype(np.float32))))
