"""Actions as rows of numbers, whatever the action space: what policies sample, rollouts hold and losses read.

A row has one number for each choice (Discrete, each of a MultiDiscrete, each bit of a MultiBinary, each number of a
Box of integers), counted from 0, and one for each number of a Box of floats. A single Discrete is that number itself.

The numbers of a Box of floats are sampled from a Gaussian without bounds. Where both bounds are finite, the unit is
half their distance, so that -1 and 1 are the bounds; otherwise it is the environment's. Values outside the bounds are
clipped for the environment only: the row keeps the sample, whose density the policy knows.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import gymnasium as gym
import numpy as np

from troupe.config import UsageError
from troupe.environments.spaces import Leaf, Space, leaves, with_entries

_MOST_INTEGERS = 1024  # alternatives of each number in a Box of integers: so many logits


@dataclass(frozen=True)
class Part:
    """Neighbouring numbers of a row: one choice out of `choices`, or (0) `width` numbers of a Box of floats."""

    choices: int
    width: int = 1


class Actions:
    """How a policy represents the actions of a space, and how rows become actions."""

    def __init__(self, space: Space):
        """Raises UsageError for a space that is not supported."""
        self.space = space
        self.leaves = leaves(space, "action space")
        if not self.leaves:
            raise UsageError(f"action space {space} is not supported: it has no action")
        self.parts = [part for leaf in self.leaves for part in _parts(leaf)]
        self._lowest = [lowest(leaf.space) for leaf in self.leaves]
        self.single = isinstance(space, gym.spaces.Discrete)
        self._first = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        self.shape: tuple[int, ...] = () if self.single else (sum(part.width for part in self.parts),)
        self.dtype = np.int64 if self.countable else np.float32

    @cached_property
    def countable(self) -> bool:
        """Whether there are finitely many actions, so that the policy has probabilities and not densities."""
        return all(part.choices for part in self.parts)

    @property
    def mask_size(self) -> int:
        """Entries of a mask: one for each alternative of each choice, in the order of the parts."""
        return sum(part.choices for part in self.parts)

    def to_environment(self, rows: np.ndarray) -> Any:
        """Rows [B, ...] as a batch of actions, nested as the space is, each leaf [B, ...]."""
        if self.single:
            return rows + self._first
        values, start = [], 0
        for leaf, first in zip(self.leaves, self._lowest, strict=True):
            row = rows[:, start : start + leaf.size].reshape(len(rows), *(leaf.space.shape or ()))
            values.append(unscaled(row, leaf.space) if first is None else (row + first).astype(leaf.space.dtype))
            start += leaf.size
        return with_entries(self.space, iter(values))

    def random(self, rng: np.random.Generator, count: int, masks: np.ndarray | None = None) -> np.ndarray:
        """`count` rows, uniform among the allowed choices and between the bounds of a Box."""
        columns: list[np.ndarray] = []
        start = 0
        for part in self.parts:
            if part.choices:
                scores = rng.random((count, part.choices))
                if masks is not None:
                    scores *= masks[:, start : start + part.choices]
                    start += part.choices
                columns.append(scores.argmax(1)[:, None])
            else:
                columns.append(rng.uniform(-1, 1, (count, part.width)))
        rows: np.ndarray = np.concatenate(columns, 1).astype(self.dtype)
        return rows[:, 0] if self.single else rows

    def one(self, row: np.ndarray) -> Any:
        """The action of one row, as the environment's own `step` takes it."""
        if self.single:
            return row + self._first
        batch = self.to_environment(row[None])
        return with_entries(self.space, iter([leaf.of(batch)[0] for leaf in self.leaves]))

    def mask(self, given: Any) -> np.ndarray:
        """A mask as one row of booleans. `given` is an array of all alternatives in order, or one array per choice,
        nested as the space is. Raises ValueError if it is neither."""
        row = np.concatenate([np.ravel(each) for each in _flat(given, self.space)]).astype(np.bool_)
        if row.shape != (self.mask_size,):
            raise ValueError(f"has {len(row)} entries, expected {self.mask_size}")
        return row


def _parts(leaf: Leaf) -> list[Part]:
    space = leaf.space
    if isinstance(space, gym.spaces.Discrete):
        return [Part(int(space.n))]
    if isinstance(space, gym.spaces.MultiDiscrete):
        return [Part(int(n)) for n in space.nvec.flat]
    if isinstance(space, gym.spaces.MultiBinary):
        return [Part(2)] * leaf.size
    assert isinstance(space, gym.spaces.Box)
    unsupported = f"action space {space}{' at ' + leaf.name if leaf.path else ''} is not supported: "
    if not leaf.size:
        raise UsageError(f"{unsupported}it holds no numbers")
    if space.dtype.kind == "f":
        return [Part(0, leaf.size)]
    alternatives = [int(high) - int(low) + 1 for low, high in zip(space.low.flat, space.high.flat, strict=True)]
    if max(alternatives) > _MOST_INTEGERS:
        raise UsageError(
            f"{unsupported}each integer of a Box is a choice among at most {_MOST_INTEGERS:,}, and here among "
            f"{max(alternatives):,}; declare closer bounds, or a Box of floats and round in the environment"
        )
    return [Part(each) for each in alternatives]


def lowest(space: Space) -> np.ndarray | None:
    """The lowest value of each choice in a leaf, shaped as the space; None for a Box of floats."""
    if isinstance(space, gym.spaces.Box):
        return None if space.dtype.kind == "f" else space.low.astype(np.int64)
    return np.array(getattr(space, "start", 0), np.int64)


def unscaled(row: np.ndarray, space: Space) -> np.ndarray:
    """Numbers of a row in the environment's unit, clipped to its bounds."""
    assert isinstance(space, gym.spaces.Box)
    middle, unit = scale(space)
    clipped: np.ndarray = np.clip(middle + row * unit, space.low, space.high).astype(space.dtype)
    return clipped


def scale(space: gym.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and unit of each number of a Box: an action is middle + unit * row."""
    with np.errstate(over="ignore"):
        bounded = np.isfinite(space.high - space.low)  # bounds as large as the dtype's largest numbers count as none
    low, high = np.where(bounded, space.low, -1), np.where(bounded, space.high, 1)
    return (low + high) / 2, (high - low) / 2


def _flat(nested: Any, space: Space | None) -> list[Any]:
    """The arrays of a nested mask in the order of the space, which may differ from that of the mask's own dict."""
    if isinstance(nested, dict):
        named = space.spaces if isinstance(space, gym.spaces.Dict) else dict.fromkeys(nested)
        if unknown := [key for key in nested if key not in named]:
            raise ValueError(f"has an entry {unknown[0]!r}, which is not part of the action")
        return [leaf for key, part in named.items() for leaf in _flat(nested.get(key), part)]
    if isinstance(nested, tuple | list) and any(isinstance(each, np.ndarray | tuple | list | dict) for each in nested):
        parts = space.spaces if isinstance(space, gym.spaces.Tuple) else ()
        return [leaf for each, part in zip_longest(nested, parts) for leaf in _flat(each, part)]
    return [] if nested is None else [nested]
