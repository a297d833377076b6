"""Checks of observations against their space: missing entries, shapes, values."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from troupe.environments.spaces import Leaf


def misfit(leaves: Sequence[Leaf], obs: Any) -> str:
    """Describes the first leaf of one observation that is missing or does not fit its space; "" if all fit."""
    for leaf in leaves:
        try:
            value = leaf.of(obs)
        except (LookupError, TypeError):
            return f"the observation has no entry {leaf.name}, which its space has: {_found(obs)}"
        expected = leaf.space.shape or ()
        what = f"the observation{leaf.name}"
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            return f"{what} has no shape, its space {expected}: {type(value).__name__} with parts of different lengths"
        if array.shape != expected:
            found = f"shape {array.shape}" if array.dtype != object else f"no shape ({type(value).__name__})"
            return f"{what} has {found}, its space {expected}"
        if array.dtype.kind not in "biuf":
            return f"{what} holds {type(value).__name__} ({array.dtype}), its space numbers ({leaf.space.dtype})"
        with np.errstate(invalid="ignore"):
            converted = array.astype(leaf.space.dtype)
        if (lost := lost_by_conversion(array, converted)) is not None:
            return f"{what} holds {lost}, which does not fit its space's dtype ({leaf.space.dtype})"
    return ""


def lost_by_conversion(array: np.ndarray, converted: np.ndarray) -> Any:
    """The first number that a conversion to integers has changed; None if there is none."""
    if converted.dtype.kind not in "biu" or array.dtype == converted.dtype:
        return None
    changed = array != converted
    return array[changed].flat[0] if changed.any() else None


def _found(obs: Any) -> str:
    if isinstance(obs, dict):
        return f"found {', '.join(map(repr, obs)) or 'nothing'}"
    return f"found {len(obs)} entries" if isinstance(obs, tuple | list) else f"found {type(obs).__name__}"


class Limits:
    """Checks a leaf of a batch of observations against its space."""

    def __init__(self, leaf: Leaf):
        self.leaf, space = leaf, leaf.space
        self._floats = np.dtype(space.dtype).kind == "f"
        self._box = isinstance(space, gym.spaces.Box)
        self._low: Any = None  # None: every value is within bounds, as with bytes
        self._high: Any = None
        if isinstance(space, gym.spaces.Discrete):
            self._low, self._high = space.start, space.start + space.n - 1
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self._low, self._high = space.start, space.start + space.nvec - 1
        elif isinstance(space, gym.spaces.MultiBinary):
            self._low, self._high = 0, 1
        elif isinstance(space, gym.spaces.Box) and space.dtype != np.uint8 and not _is_open(space):
            self._low, self._high = space.low, space.high

    def unfit(self, value: np.ndarray) -> tuple[int, str] | None:
        """The index of the first environment whose value is not finite or not in its space, and why."""
        if self._floats and not np.isfinite(value).all():
            return _first(~np.isfinite(value), value)
        if self._box or self._low is None:
            return None
        return self._outside(value)

    def outside_box(self, value: np.ndarray) -> tuple[int, str] | None:
        """The index of the first environment whose value is outside its Box, and how; reported only once, and not as an
        error, because many declared bounds are wrong."""
        if not self._box or self._low is None:
            return None
        found = self._outside(value)
        if found:
            self._low = None
        return found

    def _outside(self, value: np.ndarray) -> tuple[int, str] | None:
        inside = (value >= self._low) & (value <= self._high)
        if inside.all():
            return None
        number, what = _first(~inside, value)
        if not self._box:
            return number, f"{what}, which is not in {self.leaf.space}"
        low, high = (bound[~inside[number]].flat[0] for bound in (self._low, self._high))
        return number, f"{what}, which is not between its bounds, {low} and {high}"


def _is_open(space: gym.spaces.Box) -> bool:
    return bool(np.isinf(space.low).all() and np.isinf(space.high).all())


def _first(bad: np.ndarray, value: np.ndarray) -> tuple[int, str]:
    number = int(np.argwhere(bad)[0][0])
    return number, f"holds {value[number][bad[number]].flat[0]}"
