"""Spaces as JSON, so that an agent can be loaded without making its environment or running any code."""

from typing import Any

import gymnasium as gym
import numpy as np

from troupe.config import UsageError


def describe(space: gym.Space[Any]) -> dict[str, Any]:
    """What `restore` needs. Bounds of a Box are kept as two numbers where they are all the same."""
    if isinstance(space, gym.spaces.Box):
        bounds = {
            name: float(array.flat[0]) if array.size and (array == array.flat[0]).all() else array.tolist()
            for name, array in (("low", space.low), ("high", space.high))
        }
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    raise UsageError(f"space {space} is not supported: Box and Discrete are")


def restore(description: dict[str, Any]) -> gym.Space[Any]:
    if description["type"] == "Box":
        shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
        low, high = (np.broadcast_to(np.asarray(description[name], dtype), shape) for name in ("low", "high"))
        return gym.spaces.Box(low, high, shape, dtype.type)
    return gym.spaces.Discrete(description["n"], start=description["start"])
