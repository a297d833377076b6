"""The rollout: T steps of B environments, time-major, and the one schema every topology uses.

obs                 [T+1, B, ...]  in the environment's own dtype
first               [T+1, B] bool  obs begins a new episode
action              [T, B]         what was played in obs
behaviour_log_prob  [T, B]         log mu(action), with the exploration mixed in
reward              [T, B]         raw, received after action[t]
terminated          [T, B] bool    the episode truly ended with action[t]
truncated           [T, B] bool    it was cut off (a time limit)
valid               [T, B] bool    false on the reset row that follows an episode's end
horizon             [T, B] int     environment steps a row spans: 1, or n for the article's samples
policy_version      [B] int        the weights that acted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

TIME_MAJOR = ("obs", "first", "action", "behaviour_log_prob", "reward", "terminated", "truncated", "valid", "horizon")
FIELDS = (*TIME_MAJOR, "policy_version")


@dataclass(slots=True)
class Rollout:
    """Arrays as in the table above. `actor` and `index` (the actor's own count) say which one it is."""

    obs: np.ndarray
    first: np.ndarray
    action: np.ndarray
    behaviour_log_prob: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    horizon: np.ndarray
    policy_version: np.ndarray
    actor: int = -1
    index: int = -1

    @property
    def steps(self) -> int:
        """Environment steps in it: the rows that are transitions."""
        return int(np.count_nonzero(self.valid))


def allocate(space: gym.Space[Any], steps: int, environments: int, action_shape: tuple[int, ...] = ()) -> Rollout:
    """An empty rollout for observations of `space`; actors write in place, step by step."""
    t, b = steps, environments
    return Rollout(
        obs=np.zeros((t + 1, b, *(space.shape or ())), space.dtype),
        first=np.zeros((t + 1, b), np.bool_),
        action=np.zeros((t, b, *action_shape), np.int64),
        behaviour_log_prob=np.zeros((t, b), np.float32),
        reward=np.zeros((t, b), np.float32),
        terminated=np.zeros((t, b), np.bool_),
        truncated=np.zeros((t, b), np.bool_),
        valid=np.ones((t, b), np.bool_),
        horizon=np.ones((t, b), np.int64),
        policy_version=np.zeros(b, np.int64),
    )


def stack(rollouts: Sequence[Rollout]) -> Rollout:
    """One rollout with the environments of all, copied, in the order given."""
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(rollout, name) for rollout in rollouts], axis=1 if name in TIME_MAJOR else 0)
        for name in FIELDS
    }
    return Rollout(**joined)


def columns(rollout: Rollout, chosen: np.ndarray) -> Rollout:
    """The environments `chosen`, with all their steps: a minibatch keeps sequences whole."""
    cut: dict[str, Any] = {
        name: getattr(rollout, name)[:, chosen] if name in TIME_MAJOR else getattr(rollout, name)[chosen]
        for name in FIELDS
    }
    return Rollout(**cut)


def check(rollout: Rollout) -> None:
    """Raises ValueError, naming the field, where a rollout breaks the contract."""
    t, b = rollout.reward.shape
    for name in FIELDS:
        rows = {"obs": (t + 1, b), "first": (t + 1, b), "policy_version": (b,)}.get(name, (t, b))
        shape = getattr(rollout, name).shape
        if shape[: len(rows)] != rows:
            raise ValueError(f"rollout.{name} has shape {shape}, expected {rows} first")
    ended = rollout.terminated | rollout.truncated
    if (ended & ~rollout.valid).any():
        raise ValueError("rollout.valid is false on a row that ends an episode; only reset rows are invalid")
    if rollout.reward[~rollout.valid].any():
        raise ValueError("rollout.reward is not 0 on a reset row")
    if (rollout.horizon == 1).all():
        if (ended[:-1] & rollout.valid[1:]).any():
            raise ValueError("rollout.valid is true on the row after an episode's end; it must be the reset row")
        if (rollout.first[1:] != ~rollout.valid).any():
            raise ValueError("rollout.first must be true exactly after a reset row")
    if (rollout.behaviour_log_prob > 1e-6).any():
        raise ValueError("rollout.behaviour_log_prob is above 0: not the logarithm of a probability")
