"""Leaves an observation's entries out: those that no network reads (text, graphs, sequences, a package's own
spaces), and those that a user does not want.

What remains keeps its path. A Tuple that loses an entry becomes a Dict whose keys are the remaining positions, so
the same paths fetch the same entries of a full observation and of a reduced one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym

from troupe.config import UsageError, did_you_mean
from troupe.environments.spaces import MASK, Leaf, Path, Space, is_readable, leaves


class Reduced(NamedTuple):
    """An observation space without the entries that are left out; the same object where none is."""

    space: Space
    unreadable: list[Leaf]
    ignored: list[Leaf]

    @property
    def whole(self) -> bool:
        return not (self.unreadable or self.ignored)


def reduced(space: Space, ignore: Sequence[str] = ()) -> Reduced:
    """Leaves out what cannot be read, and the entries that `ignore` names (`mission`, `camera.depth`, `0.pose`).

    An action mask stays. Raises UsageError for a name that fits no entry, and where nothing that can be read remains.
    """
    found = list(_leaves(space))
    for name in ignore:
        if not any(_within(leaf, name) for leaf in found):
            names = [leaf.dotted for leaf in found if leaf.path]
            has = f"it has {', '.join(names)}" if names else "it is not a Dict or Tuple"
            raise UsageError(f"env.ignore: the observation has no entry '{name}'{did_you_mean(name, names)}: {has}")
    ignored = [leaf for leaf in found if any(_within(leaf, name) for name in ignore)]
    kept = [leaf for leaf in found if leaf not in ignored]
    unreadable = [leaf for leaf in kept if leaf.path != (MASK,) and not is_readable(leaf.space)]
    dropped = {leaf.path for leaf in (*ignored, *unreadable)}
    if not dropped:
        return Reduced(space, [], [])
    if dropped >= {leaf.path for leaf in found if leaf.path != (MASK,)}:
        if ignored:
            raise UsageError(f"env.ignore = {','.join(ignore)}: nothing that can be read remains of the observation")
        leaves(space, "observation space")  # raises, and says which spaces can be read
    return Reduced(_without(space, dropped), unreadable, ignored)


def pick(space: Space, obs: Any) -> Any:
    """What a reduced space has of a full observation; raises LookupError or TypeError where an entry is missing."""
    if isinstance(space, gym.spaces.Dict):
        return {key: pick(part, obs[key]) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(pick(part, obs[index]) for index, part in enumerate(space.spaces))
    return obs


def _parts(space: Space) -> Iterator[tuple[str | int, Space]] | None:
    if isinstance(space, gym.spaces.Dict):
        return iter(space.spaces.items())
    return iter(enumerate(space.spaces)) if isinstance(space, gym.spaces.Tuple) else None


def _leaves(space: Space, path: Path = ()) -> Iterator[Leaf]:
    """All of them, whether they can be read or not. The action mask is one, whatever it consists of."""
    parts = None if path == (MASK,) else _parts(space)
    if parts is None:
        yield Leaf(path, space)
        return
    for key, part in parts:
        yield from _leaves(part, (*path, key))


def _within(leaf: Leaf, name: str) -> bool:
    return leaf.dotted == name or leaf.dotted.startswith(f"{name}.")


def _without(space: Space, dropped: set[Path], path: Path = ()) -> Space:
    """Without the leaves at the paths `dropped`, and without what holds nothing else."""
    parts = None if path == (MASK,) else _parts(space)
    if parts is None:
        return space
    kept: dict[Any, Space] = {
        key: _without(part, dropped, (*path, key))
        for key, part in parts
        if any(leaf.path not in dropped for leaf in _leaves(part, (*path, key)))
    }
    if isinstance(space, gym.spaces.Tuple) and len(kept) == len(space.spaces):
        return gym.spaces.Tuple(list(kept.values()))
    return gym.spaces.Dict(kept)
