"""Drops entries of an observation: those that no network can read (Text, Graph, Sequence, a package's own spaces),
and those that the user does not want.

The others keep their paths. A Tuple that loses an entry becomes a Dict whose keys are the remaining positions, so
the same paths lead to the same entries of a full observation and of a reduced one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym

from troupe.config import UsageError, did_you_mean
from troupe.environments.spaces import MASK, Leaf, Path, Space, all_leaves, is_readable, leaves, parts_of, with_entries

_MASK = (MASK,)  # its path; it is kept, whatever its space


class Reduced(NamedTuple):
    """An observation space without the entries that are left out; the same object if none is."""

    space: Space
    unreadable: list[Leaf]
    ignored: list[Leaf]

    @property
    def whole(self) -> bool:
        return not (self.unreadable or self.ignored)

    @property
    def notices(self) -> list[str]:
        """Printed at the start of a run."""
        entries = ", ".join(f"{leaf.dotted} ({type(leaf.space).__name__})" for leaf in self.unreadable)
        return [f"left out of the observation, because no network can read it: {entries}"] if entries else []


def reduced(space: Space, ignore: Sequence[str] = ()) -> Reduced:
    """Drops what cannot be read, and the entries that `ignore` names (`mission`, `camera.depth`, `0.pose`).

    An action mask stays. Raises UsageError for a name that matches no entry, and if no supported entry remains.
    """
    found = list(all_leaves(space, whole=_MASK))
    for name in ignore:
        if not any(_within(leaf, name) for leaf in found):
            names = [leaf.dotted for leaf in found if leaf.path]
            has = f"it has {', '.join(names)}" if names else "it is not a Dict or Tuple"
            raise UsageError(f"env.ignore: the observation has no entry '{name}'{did_you_mean(name, names)}: {has}")
    ignored = [leaf for leaf in found if any(_within(leaf, name) for name in ignore)]
    kept = [leaf for leaf in found if leaf not in ignored]
    unreadable = [leaf for leaf in kept if leaf.path != _MASK and not is_readable(leaf.space)]
    dropped = {leaf.path for leaf in (*ignored, *unreadable)}
    if not dropped:
        return Reduced(space, [], [])
    if dropped >= {leaf.path for leaf in found if leaf.path != _MASK}:
        if ignored:
            raise UsageError(f"env.ignore = {','.join(ignore)}: nothing that can be read remains of the observation")
        leaves(space, "observation space")  # raises, and says which spaces can be read
    return Reduced(_without(space, dropped), unreadable, ignored)


def pick(space: Space, obs: Any) -> Any:
    """The entries of a full observation that a reduced space has; raises LookupError or TypeError if one is missing."""
    return with_entries(space, (leaf.of(obs) for leaf in all_leaves(space)))


def _within(leaf: Leaf, name: str) -> bool:
    return leaf.dotted == name or leaf.dotted.startswith(f"{name}.")


def _without(space: Space, dropped: set[Path], path: Path = ()) -> Space:
    """The space without the leaves at the paths `dropped`, and without parts that hold no others."""
    parts = None if path == _MASK else parts_of(space)
    if parts is None:
        return space
    kept: dict[Any, Space] = {
        key: _without(part, dropped, (*path, key))
        for key, part in parts.items()
        if any(leaf.path not in dropped for leaf in all_leaves(part, (*path, key), _MASK))
    }
    if isinstance(space, gym.spaces.Tuple) and len(kept) == len(parts):
        return gym.spaces.Tuple(list(kept.values()))
    return gym.spaces.Dict(kept)
