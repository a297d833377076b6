"""Packs observations of any space into one array, for rollouts; the network unpacks them.

Observations of a Box, Discrete, MultiDiscrete or MultiBinary stay arrays of their own dtype. Nested observations, and
those with an action mask, become rows of bytes: the bytes of each leaf in order, then the mask. So rollouts and
buffers have one layout for all spaces, and nothing is converted before the network.
"""

from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from troupe.config import UsageError
from troupe.environments.actions import Actions
from troupe.environments.spaces import MASK, Leaf, Space, leaves, with_entries

MaskSource = Literal["", "info", "observation"]
_ALIGNMENT_BYTES = 8  # of the largest number


class Packing:
    """The layout of packed observations of `space`. `masked` is where action masks come from; "": there are none.

    A mask in the observation is the entry `action_mask` of a Dict; the network sees the space without it, `seen`.
    """

    def __init__(self, space: Space, actions: Actions, masked: MaskSource = ""):
        self.masked, self._actions, self.seen = masked, actions, space
        if masked == "observation":
            assert isinstance(space, gym.spaces.Dict)
            self.seen = gym.spaces.Dict({key: part for key, part in space.spaces.items() if key != MASK})
        self.leaves = leaves(self.seen, "observation space")
        if not self.leaves:
            raise UsageError(f"observation space {space} is not supported: nothing is observed")
        self.plain = not masked and not self.leaves[0].path
        self.space = self.seen  # of packed observations
        if not self.plain:
            bytes_each = [leaf.size * _dtype(leaf).itemsize for leaf in self.leaves]
            bytes_each += [actions.mask_size] if masked else []
            self._ends = np.cumsum([-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in bytes_each]).tolist()
            self.space = gym.spaces.Box(0, 255, (self._ends[-1],), np.uint8)

    def pack(self, obs: Any, mask: np.ndarray | None = None) -> np.ndarray:
        """Packs a batch of observations, each leaf [B, ...], and of masks [B, mask_size] into one array [B, ...].

        Raises ValueError, naming the leaf, if one does not have the shape of its space.
        """
        if self.plain:
            (leaf,) = self.leaves
            return _shaped(leaf, obs)
        parts = [_shaped(leaf, leaf.of(obs)) for leaf in self.leaves]
        parts += [] if mask is None else [mask.astype(np.bool_)]
        rows = np.zeros((len(parts[0]), *self.space.shape), np.uint8)  # type: ignore[misc]
        for part, start in zip(parts, [0, *self._ends], strict=False):
            flat = np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8)
            rows[:, start : start + flat.shape[1]] = flat
        return rows

    def mask(self, given: Any = None, *, over: bool = False) -> np.ndarray:
        """One environment's mask as a row [mask_size]. All true if none is given, or if the episode is `over`, as the
        next action is ignored. Raises ValueError if it does not fit or forbids every action."""
        if given is None or over:
            return np.ones(self._actions.mask_size, np.bool_)
        row = self._actions.mask(given)
        start = 0
        for part in self._actions.parts:
            if part.choices and not row[start : start + part.choices].any():
                raise ValueError("forbids every action")
            start += part.choices
        return row

    def mask_of(self, obs: Any, info: Any, *, over: bool = False) -> np.ndarray | None:
        """The mask row from one environment's observation or info; None if it has no masks."""
        if not self.masked:
            return None
        return self.mask((obs if self.masked == "observation" else info).get(MASK), over=over)

    def pack_one(self, obs: Any, mask: np.ndarray | None = None) -> np.ndarray:
        """Packs one observation as the environment returns it, without the batch axis."""
        if self.plain:
            return np.asarray(obs, self.space.dtype)
        batch = with_entries(self.seen, iter([np.asarray(leaf.of(obs))[None] for leaf in self.leaves]))
        packed: np.ndarray = self.pack(batch, None if mask is None else mask[None])[0]
        return packed

    def unpack(self, packed: Shaped[Tensor, "N *shape"]) -> tuple[Any, Bool[Tensor, "N choices"] | None]:
        """Observations, nested as the environment's, each leaf [N, ...] in its own dtype; and the masks."""
        if self.plain:
            return packed, None
        starts = [0, *self._ends]

        def parts() -> Iterator[Tensor]:
            for leaf, start in zip(self.leaves, starts, strict=False):
                dtype = _dtype(leaf)
                flat = packed[:, start : start + leaf.size * dtype.itemsize]
                yield flat.view(_TORCH[dtype]).reshape(len(packed), *(leaf.space.shape or ()))

        obs = with_entries(self.seen, parts())
        if not self.masked:
            return obs, None
        start = starts[len(self.leaves)]
        return obs, packed[:, start : start + self._actions.mask_size].bool()


def _shaped(leaf: Leaf, value: Any) -> np.ndarray:
    array = np.asarray(value, _dtype(leaf))
    if array.shape[1:] != (leaf.space.shape or ()):
        raise ValueError(f"observation{leaf.name} has shape {array.shape[1:]}, its space {leaf.space.shape}")
    return array


def _dtype(leaf: Leaf) -> np.dtype[Any]:
    return np.dtype(leaf.space.dtype)


_TORCH = {
    np.dtype(name): getattr(torch, name)
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
                 "float16", "float32", "float64")
}  # fmt: skip
