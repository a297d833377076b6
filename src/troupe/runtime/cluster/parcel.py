"""What hosts are asked and what they answer while they play, as bytes if it is small: bytes are sent as they are, but
anything else is pickled, which takes some ten times as long."""

import traceback
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32

from troupe.config import one_line, printable
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.progress import Counts, Delta

SMALL_BYTES = 100_000  # Ray sends what is smaller in the call or the answer, and the rest by way of its object store


def record_type(spec: RolloutSpec) -> np.dtype[np.void]:
    """The arrays of a rollout as one structured value."""
    return np.dtype([(name, dtype, shape) for name, (shape, dtype) in spec.arrays.items()], align=True)


@dataclass
class Failure:
    """An exception on a host, and its traceback. `module`: the name of a module that is missing there."""

    error: str
    trace: str
    module: str = ""

    @classmethod
    def of(cls, error: BaseException, part: str = "") -> "Failure":
        trace = printable("".join(traceback.format_exception(error)))
        module = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        return cls(f"{part}: {one_line(error)}" if part else one_line(error), trace, module)


@dataclass
class Parcel:
    """Full rollouts, and what was counted since the last parcel."""

    rollouts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))  # [N] of `record_type`, or its bytes
    origins: list[tuple[int, int, list[tuple[int, int]]]] = field(default_factory=list)  # actor, generation, pulls
    deltas: list[Delta] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass
class Request:
    """For a parcel: the run's counts, and weights of `version` if the host does not have them yet."""

    counts: Counts
    version: int
    weights: np.ndarray | None = None


def encode(message: Request | Parcel) -> bytes:
    return msgspec.msgpack.encode(message, enc_hook=lambda array: array.data.cast("B"))


def decode_request(message: bytes) -> tuple[Counts, int, Float32[np.ndarray, " P"] | None]:
    request = _decode_request(message)
    return request.counts, request.version, None if request.weights is None else request.weights.view(np.float32)


def decode_parcel(message: bytes) -> Parcel:
    return _decode_parcel(message)


def _bytes_of(_: type, data: Any) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


_decode_request = msgspec.msgpack.Decoder(Request, dec_hook=_bytes_of).decode
_decode_parcel = msgspec.msgpack.Decoder(Parcel, dec_hook=_bytes_of).decode
