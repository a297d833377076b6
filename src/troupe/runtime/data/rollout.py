"""The rollout: T steps of B environments, time-major, and the one schema every topology uses.

obs                 [T+1, B, ...]  in the environment's own dtype
first               [T+1, B] bool  obs begins a new episode
action              [T, B, ...]    what was played in obs
behaviour_log_prob  [T, B]         log mu(action), with the exploration mixed in
reward              [T, B]         raw, received after action[t]; float64, as returns are sums of it
terminated          [T, B] bool    the episode truly ended with action[t]
truncated           [T, B] bool    it was cut off (a time limit)
life_lost           [T, B] bool    it ended with action[t] for learning, and the game goes on (Atari)
valid               [T, B] bool    false on the reset row that follows an episode's end
horizon             [T, B] int     environment steps a row spans: 1, or n for the article's samples
policy_version      [T, B] int     the weights that acted
past_return         [T, B]         the episode's rewards until now, the older the more discounted; 0 where nobody asks
initial_state       [B, S]         the policy's memory before obs[0], which it forgets where first[0]; S = 0 without one
initial_action      [B, ...]       what was played before obs[0], for a memory to read; 0 without one
initial_reward      [B]            raw, of that

Observations are packed and actions are rows of numbers (environments/packing.py, actions.py); masks of allowed
actions travel with the observations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from troupe.environments.actions import Actions
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.data.shared_memory import Block

ROWS = (
    "obs", "first", "action", "behaviour_log_prob", "reward", "terminated", "truncated", "life_lost", "valid",
    "horizon", "policy_version", "past_return",
)  # fmt: skip
INITIAL = ("initial_state", "initial_action", "initial_reward")  # of environments, not of steps
FIELDS = ROWS + INITIAL


@dataclass(slots=True)
class Rollout:
    """Arrays as in the table above, and where they are from: the `index`-th rollout of `actor`, which is
    the `generation`-th in that place. `pulls` are the (version, steps played by all) that it went by, and
    `slot` is its place in the memory that actors in processes write to."""

    obs: np.ndarray
    first: np.ndarray
    action: np.ndarray
    behaviour_log_prob: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    life_lost: np.ndarray
    valid: np.ndarray
    horizon: np.ndarray
    policy_version: np.ndarray
    past_return: np.ndarray
    initial_state: np.ndarray
    initial_action: np.ndarray
    initial_reward: np.ndarray
    actor: int = -1
    generation: int = 0
    index: int = -1
    pulls: list[tuple[int, int]] = field(default_factory=list)
    slot: int = -1

    @property
    def steps(self) -> int:
        """Environment steps in it: the rows that are transitions."""
        return int(np.count_nonzero(self.valid))

    @property
    def oldest(self) -> int:
        """The oldest version of the weights that acted in it."""
        return int(self.policy_version.min())

    def recurrent_state(self) -> RecurrentState:
        """What a recurrent policy reads with the T + 1 rows of observations."""
        action = np.concatenate([self.initial_action[None], self.action])
        reward = np.concatenate([self.initial_reward[None], self.reward]).astype(np.float32)
        return RecurrentState(*map(torch.from_numpy, (self.initial_state, self.first, action, reward)))


def fields(
    space: gym.Space[Any], steps: int, environments: int, actions: Actions | None = None, memory: int = 0
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every array of a rollout with packed observations of `space`; actions are single choices
    unless it is said what else they are, and `memory` is the size S of the policy's."""
    shape, dtype = (actions.shape, actions.dtype) if actions else ((), np.int64)
    t, b = steps, environments
    return {
        "obs": ((t + 1, b, *(space.shape or ())), space.dtype),
        "first": ((t + 1, b), np.bool_),
        "action": ((t, b, *shape), dtype),
        "behaviour_log_prob": ((t, b), np.float32),
        "reward": ((t, b), np.float64),
        "terminated": ((t, b), np.bool_),
        "truncated": ((t, b), np.bool_),
        "life_lost": ((t, b), np.bool_),
        "valid": ((t, b), np.bool_),
        "horizon": ((t, b), np.int64),
        "policy_version": ((t, b), np.int64),
        "past_return": ((t, b), np.float64),
        "initial_state": ((b, memory), np.float32),
        "initial_action": ((b, *shape), dtype),
        "initial_reward": ((b,), np.float32),
    }


def allocate(
    space: gym.Space[Any],
    steps: int,
    environments: int,
    actions: Actions | None = None,
    memory: int = 0,
    *,
    pinned: bool = False,
) -> Rollout:
    """An empty rollout; actors write in place, step by step. `pinned` is memory that a GPU copies from by itself."""

    def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.zeros(shape, dtype)
        return torch.from_numpy(array).pin_memory().numpy() if pinned else array

    schema = fields(space, steps, environments, actions, memory)
    arrays: dict[str, Any] = {name: zeros(*field) for name, field in schema.items()}
    empty = Rollout(**arrays)
    empty.valid[:], empty.horizon[:] = True, 1
    return empty


def slots(block: Block, number: int) -> list[Rollout]:
    """The rollouts in a block that `allocate_shared` made: what is written to one is seen wherever the block is."""
    rollouts = []
    for slot in range(number):
        arrays: dict[str, Any] = {name: block[name][slot] for name in FIELDS}
        rollouts.append(Rollout(**arrays, slot=slot))
    return rollouts


def allocate_shared(
    space: gym.Space[Any], steps: int, environments: int, number: int, actions: Actions | None = None, memory: int = 0
) -> tuple[Block, list[Rollout]]:
    """`number` empty rollouts in memory that processes can share, and that memory."""
    one = fields(space, steps, environments, actions, memory)
    block = Block({name: ((number, *shape), dtype) for name, (shape, dtype) in one.items()}, shared=True)
    block["valid"][:], block["horizon"][:] = True, 1
    return block, slots(block, number)


def stack(rollouts: Sequence[Rollout]) -> Rollout:
    """One rollout with the environments of all, copied, in the order given."""
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(rollout, name) for rollout in rollouts], axis=int(name in ROWS))
        for name in FIELDS
    }
    return Rollout(**joined)


def columns(rollout: Rollout, chosen: np.ndarray) -> Rollout:
    """The environments `chosen`, with all their steps: a minibatch keeps sequences whole."""
    cut: dict[str, Any] = {name: getattr(rollout, name)[:, chosen] for name in ROWS}
    cut |= {name: getattr(rollout, name)[chosen] for name in INITIAL}
    return Rollout(**cut)


def check(rollout: Rollout) -> None:
    """Raises ValueError, naming the field, where a rollout breaks the contract."""
    t, b = rollout.reward.shape
    for name in FIELDS:
        rows: tuple[int, ...] = (b,) if name in INITIAL else (t + 1, b) if name in ("obs", "first") else (t, b)
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
    if rollout.action.dtype.kind == "i" and (rollout.behaviour_log_prob > 1e-6).any():  # a density may be above 1
        raise ValueError("rollout.behaviour_log_prob is above 0: not the logarithm of a probability")
