"""Memory that several processes see."""

import math
import multiprocessing.sharedctypes
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np

from troupe.config import TroupeError

Fields = Mapping[str, tuple[tuple[int, ...], Any]]  # name: (shape, dtype)
_ALIGNMENT_BYTES = 64


class Block:
    """Arrays by name in one piece of memory, all zero at first; `block["obs"]` is an array.

    With `shared`, a process that is started with the block sees the same bytes. The memory has no name
    (on POSIX it is a file that is already removed), so it is freed with the last process that has it,
    however that ends.
    """

    def __init__(self, fields: Fields, *, shared: bool):
        self._fields = dict(fields)
        size = sum(_aligned(shape, dtype) for shape, dtype in self._fields.values())
        self._memory: Any = _share(size) if shared else bytearray(size)
        self._arrays = self._cut()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def _cut(self) -> dict[str, np.ndarray]:
        arrays, start = {}, 0
        for name, (shape, dtype) in self._fields.items():
            flat = np.frombuffer(self._memory, dtype, math.prod(shape), start)
            arrays[name] = flat.reshape(shape)
            start += _aligned(shape, dtype)
        return arrays

    def __getstate__(self) -> tuple[Any, Any]:
        return self._fields, self._memory

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._fields, self._memory = state
        self._arrays = self._cut()


def _share(size: int) -> Any:
    try:
        return multiprocessing.sharedctypes.RawArray("B", size)
    except OSError as error:
        raise TroupeError(
            f"no {size / 1e6:,.1f} MB of memory to share with actor processes: {error.strerror or error}; "
            "fewer actors or shorter rollouts need less, and --actor.placement thread none"
        ) from error


def _aligned(shape: tuple[int, ...], dtype: Any) -> int:
    size = math.prod(shape) * int(np.dtype(dtype).itemsize)
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


class ByValue:
    """Carries an object into a process started later: what is defined in a script, a function or a notebook
    is pickled with its code, so the process need not import it. Unpickled at the first use."""

    def __init__(self, value: Any):
        self._value, self._packed = value, b""

    @property
    def value(self) -> Any:
        if packed := self._packed:  # read once: another thread may unpickle it, too, and then empties it
            self._value, self._packed = cloudpickle.loads(packed), b""
        return self._value

    def __getstate__(self) -> bytes:
        return self._packed or cloudpickle.dumps(self._value)

    def __setstate__(self, state: bytes) -> None:
        self._value, self._packed = None, state
