"""Spaces: their leaves, and their description as JSON.

A space may be nested: Dict and Tuple hold others, to any depth. Their leaves are Box, Discrete,
MultiDiscrete and MultiBinary; a leaf's path is its keys and positions, from the outside in.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import msgspec
import numpy as np
from msgspec import Meta

from troupe.config import UsageError, one_line

Space = gym.Space[Any]
Path = tuple[str | int, ...]
MASK = "action_mask"  # the entry of an info, or of a Dict observation, that says which actions are allowed


class Leaf(NamedTuple):
    path: Path
    space: Space

    def of(self, nested: Any) -> Any:
        """This leaf's part of a nested value."""
        return reduce(operator.getitem, self.path, nested)

    @property
    def size(self) -> int:
        """Numbers in one value."""
        return math.prod(self.space.shape or ())

    @property
    def name(self) -> str:
        return "".join(f"[{key!r}]" for key in self.path)

    @property
    def dotted(self) -> str:
        """`key.0`, as in settings."""
        return ".".join(map(str, self.path))

    def named(self, root: str) -> str:
        """`root.key.0`, for one array of many."""
        return ".".join([root, *map(str, self.path)])


def leaves(space: Space, what: str = "space") -> list[Leaf]:
    """All leaves in order. Raises UsageError for one that is not supported; `what` names the space in the message."""
    found = list(all_leaves(space))
    for leaf in found:
        if not is_readable(leaf.space):
            at = f" at {leaf.name}" if leaf.path else ""
            raise UsageError(
                f"{what} {leaf.space}{at} is not supported: Box, Discrete, MultiDiscrete and MultiBinary are, and Dict "
                "and Tuple of these"
            )
    return found


def all_leaves(space: Space, path: Path = (), whole: Path | None = None) -> Iterator[Leaf]:
    """All leaves in order, whether they are supported or not; the part at the path `whole` counts as one."""
    parts = None if path == whole else parts_of(space)
    if parts is None:
        yield Leaf(path, space)
        return
    for key, part in parts.items():
        yield from all_leaves(part, (*path, key), whole)


def parts_of(space: Space) -> dict[Any, Space] | None:
    """The parts of a Dict by key or of a Tuple by position; None for any other space."""
    if isinstance(space, gym.spaces.Dict):
        return dict(space.spaces)
    return dict(enumerate(space.spaces)) if isinstance(space, gym.spaces.Tuple) else None


def is_readable(space: Space) -> bool:
    """Whether a leaf is supported: numbers of at most 64 bits, and choices."""
    if isinstance(space, gym.spaces.Box):
        return space.dtype is not None and space.dtype.kind in "biuf" and space.dtype.itemsize <= 8
    return isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)


def with_entries(space: Space, values: Iterator[Any]) -> Any:
    """A value of a nested space made of its leaves' values, in order."""
    if isinstance(space, gym.spaces.Dict):
        return {key: with_entries(part, values) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(with_entries(part, values) for part in space.spaces)
    return next(values)


def describe(space: Space) -> dict[str, Any]:
    """The space as JSON, for `restore`. Equal bounds of a Box are kept as one number."""
    if isinstance(space, gym.spaces.Dict):
        return {"type": "Dict", "spaces": [[key, describe(part)] for key, part in space.spaces.items()]}
    if isinstance(space, gym.spaces.Tuple):
        return {"type": "Tuple", "spaces": [describe(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.Box):
        bounds = {
            name: array.flat[0].item() if array.size and (array == array.flat[0]).all() else array.tolist()
            for name, array in (("low", space.low), ("high", space.high))
        }
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "n": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    raise UsageError(f"space {space} is not supported")


MOST_NUMBERS = 2**24  # in one value of a space that a file describes
_MOST_DEPTH = 32
_Size = Annotated[int, Meta(ge=0, le=MOST_NUMBERS)]
_Integer = Annotated[int, Meta(ge=-(2**62), le=2**62)]


class _Dict(msgspec.Struct, tag_field="type", tag="Dict"):
    spaces: list[tuple[Any, Any]]


class _Tuple(msgspec.Struct, tag_field="type", tag="Tuple"):
    spaces: list[Any]


class _Box(msgspec.Struct, tag_field="type", tag="Box"):
    shape: list[_Size]
    dtype: str
    low: Any
    high: Any


class _Discrete(msgspec.Struct, tag_field="type", tag="Discrete"):
    n: Annotated[int, Meta(ge=1, le=2**62)]
    start: _Integer


class _MultiDiscrete(msgspec.Struct, tag_field="type", tag="MultiDiscrete"):
    n: list[Any]
    start: list[Any]


class _MultiBinary(msgspec.Struct, tag_field="type", tag="MultiBinary"):
    n: _Size | list[_Size]


def restore(description: Any, depth: int = 0) -> Space:
    """The space that `describe` described. Raises ValueError for anything else, and for one that is too large."""
    try:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        found = msgspec.convert(description, _Dict | _Tuple | _Box | _Discrete | _MultiDiscrete | _MultiBinary)
        return _restored(found, depth + 1)
    except (LookupError, TypeError, AttributeError, OverflowError, AssertionError, msgspec.ValidationError) as error:
        raise ValueError(f"not the description of a space: {one_line(error)}") from None


def _restored(found: Any, depth: int) -> Space:
    if isinstance(found, _Dict):  # Gymnasium would sort a dict
        return gym.spaces.Dict([(key, restore(part, depth)) for key, part in found.spaces])
    if isinstance(found, _Tuple):
        return gym.spaces.Tuple([restore(part, depth) for part in found.spaces])
    if isinstance(found, _Box):
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(f"dtype {found.dtype}")
        _check_size(shape)
        low, high = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (found.low, found.high))
        return gym.spaces.Box(low, high, shape, dtype.type)
    if isinstance(found, _MultiDiscrete):
        return gym.spaces.MultiDiscrete(np.array(found.n, np.int64), start=np.array(found.start, np.int64))
    if isinstance(found, _MultiBinary):
        _check_size([found.n] if isinstance(found.n, int) else found.n)
        return gym.spaces.MultiBinary(found.n)
    return gym.spaces.Discrete(found.n, start=found.start)


def _check_size(shape: Sequence[int]) -> None:
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"shape {list(shape)}: more than {MOST_NUMBERS:,} numbers")
