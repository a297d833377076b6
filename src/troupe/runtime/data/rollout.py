"""The rollout: T steps of B environments, time-major, and the one schema every topology uses.

Observations are packed and actions are rows of numbers (environments/packing.py, actions.py); action masks travel with
the observations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch

from troupe.environments.actions import Actions
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.data.shared_memory import Block, Fields


@dataclass(slots=True)
class Rollout:
    """The arrays below, annotated with their axes and their type (that of the last axis where none is given; see
    `RolloutSpec.arrays`), and their origin: the `index`-th rollout of `actor`, the `generation`-th process or thread of
    that number. `pulls` are the (version, steps played by all) of the weights pulled for it; `slot` is its index in the
    shared memory of actor processes."""

    obs: Annotated[np.ndarray, "T+1 B obs"]
    first: Annotated[np.ndarray, "T+1 B", np.bool_]  # obs begins a new episode
    action: Annotated[np.ndarray, "T B action"]  # taken in obs
    behaviour_log_prob: Annotated[np.ndarray, "T B", np.float32]  # log mu(action), exploration included
    reward: Annotated[np.ndarray, "T B", np.float64]  # raw, after action[t]; float64, as returns are sums of it
    terminated: Annotated[np.ndarray, "T B", np.bool_]  # the episode ended with action[t]
    truncated: Annotated[np.ndarray, "T B", np.bool_]  # it was cut off (a time limit)
    life_lost: Annotated[np.ndarray, "T B", np.bool_]  # it ended for learning only; the game continues (Atari)
    valid: Annotated[np.ndarray, "T B", np.bool_]  # false on the reset row that follows an episode's end
    horizon: Annotated[np.ndarray, "T B", np.int64]  # environment steps a row spans: 1, or n for n-step samples
    policy_version: Annotated[np.ndarray, "T B", np.int64]  # of the weights that acted
    past_return: Annotated[np.ndarray, "T B", np.float64]  # discounted sum of the episode's rewards so far; 0 if unused
    initial_state: Annotated[np.ndarray, "B S", np.float32]  # recurrent state before obs[0], ignored where first[0]
    initial_action: Annotated[np.ndarray, "B action"]  # before obs[0]; 0 for a policy that is not recurrent
    initial_reward: Annotated[np.ndarray, "B", np.float32]  # raw, of initial_action
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


_ARRAYS: dict[str, tuple[Any, ...]] = {
    each.name: each.type.__metadata__ for each in fields(Rollout) if hasattr(each.type, "__metadata__")
}
FIELDS = tuple(_ARRAYS)
ROWS = tuple(name for name, (axes, *_) in _ARRAYS.items() if axes.startswith("T"))  # of steps
INITIAL = tuple(name for name in FIELDS if name not in ROWS)  # of environments


@dataclass(frozen=True)
class RolloutSpec:
    """Sizes and types of rollouts: T = `steps` of B = `environments` with packed observations of `space`. Actions are
    single choices where `actions` is None; S = `state_size` is that of a recurrent policy."""

    space: gym.Space[Any]
    steps: int
    environments: int
    actions: Actions | None = None
    state_size: int = 0

    @property
    def arrays(self) -> Fields:
        """Shape and type of every array."""
        sizes = {
            "T+1": (self.steps + 1,),
            "T": (self.steps,),
            "B": (self.environments,),
            "S": (self.state_size,),
            "obs": self.space.shape or (),
            "action": self.actions.shape if self.actions else (),
        }
        dtypes = {"obs": self.space.dtype, "action": self.actions.dtype if self.actions else np.int64}
        arrays: dict[str, tuple[tuple[int, ...], Any]] = {}
        for name, (axes, *dtype) in _ARRAYS.items():
            names = axes.split()
            shape = tuple(size for axis in names for size in sizes[axis])
            arrays[name] = shape, dtype[0] if dtype else dtypes[names[-1]]
        return arrays


def allocate(spec: RolloutSpec, *, pinned: bool = False) -> Rollout:
    """An empty rollout, which actors write to in place. `pinned` memory is copied to a GPU asynchronously."""

    def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.zeros(shape, dtype)
        return torch.from_numpy(array).pin_memory().numpy() if pinned else array

    arrays: dict[str, Any] = {name: zeros(*array) for name, array in spec.arrays.items()}
    empty = Rollout(**arrays)
    empty.valid[:], empty.horizon[:] = True, 1
    return empty


def allocate_shared(spec: RolloutSpec, number: int) -> tuple[Block, list[Rollout]]:
    """`number` empty rollouts in memory that processes can share, and that memory."""
    block = Block({name: ((number, *shape), dtype) for name, (shape, dtype) in spec.arrays.items()}, shared=True)
    block["valid"][:], block["horizon"][:] = True, 1
    return block, slots(block, number)


def slots(block: Block, number: int) -> list[Rollout]:
    """The rollouts in a block made by `allocate_shared`, as views."""
    views: list[dict[str, Any]] = [{name: block[name][slot] for name in FIELDS} for slot in range(number)]
    return [Rollout(**arrays, slot=slot) for slot, arrays in enumerate(views)]


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
