"""The safetensors format: arrays by name, and texts beside them (https://github.com/huggingface/safetensors#format).

Eight bytes hold the length of the header; the header is JSON, with type, shape and place of each array; the arrays
follow. The package of that name is not used: it has no wheels for free-threaded Python.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

HEADER_BYTES = 100_000_000  # the most that readers of the format accept
METADATA = "__metadata__"
_ALIGNMENT_BYTES = 8
_MOST_AXES, _MOST_NUMBERS = 64, 2**48  # NumPy and torch refuse others, also of arrays that are empty, in several ways
_TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
    "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
_TORCH_NAMES = {dtype: name for name, dtype in _TORCH.items()}
_NUMPY_NAMES = {dtype: name for name, dtype in _NUMPY.items()}

Size = Annotated[int, msgspec.Meta(ge=0)]


class Entry(msgspec.Struct):
    """Of an array: its bytes are those from `data_offsets[0]` to `data_offsets[1]` behind the header."""

    dtype: str = ""
    shape: list[Size] = []
    data_offsets: tuple[Size, Size] = (0, 0)


def save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """`tensors`, which are contiguous and not on a GPU, and texts."""
    raw = {
        name: (_TORCH_NAMES[each.dtype], each.shape, each.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, each in tensors.items()
    }
    return _joined(raw, metadata)


def save_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    raw = {}
    for name, array in arrays.items():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        raw[name] = _NUMPY_NAMES[little.dtype], array.shape, little.tobytes()
    return _joined(raw, metadata)


def load(data: bytes) -> dict[str, Tensor]:
    """Raises ValueError for a file that is not as the format wants it, or has a type that torch does not have."""
    found = {}
    for name, (kind, shape, content) in _split(data).items():
        dtype = _TORCH[kind]
        flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
        found[name] = flat.reshape(shape)
    return found


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """As `load`, for types that NumPy has."""
    found = {}
    for name, (kind, shape, content) in _split(data).items():
        if kind not in _NUMPY:
            raise ValueError(f"{name} is {kind}, which NumPy does not have")
        found[name] = np.frombuffer(bytearray(content), _NUMPY[kind]).reshape(shape)
    return found


def header_of(data: bytes) -> bytes:
    """The JSON. Raises ValueError where there is no whole one."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, HEADER_BYTES):
        raise ValueError("its header is cut off")
    return data[8 : 8 + size]


def _joined(raw: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: Mapping[str, str] | None) -> bytes:
    # Large numbers first, so that each array is aligned as its numbers are.
    order = sorted(raw, key=lambda name: (-_TORCH[raw[name][0]].itemsize, name))
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        kind, shape, content = raw[name]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end := end + len(content)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return b"".join([len(text).to_bytes(8, "little"), text, *(raw[name][2] for name in order)])


def _split(data: bytes) -> dict[str, tuple[str, list[int], memoryview]]:
    """Type, shape and bytes of each array, which must lie one after the other and fill the file."""
    text = header_of(data)
    try:
        header = msgspec.json.decode(text, type=dict[str, Entry])
    except msgspec.MsgspecError as error:
        raise ValueError(f"its header is not as the format wants it: {error}") from None
    header.pop(METADATA, None)
    content, reached, found = memoryview(data)[8 + len(text) :], 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if entry.dtype not in _TORCH:
            raise ValueError(f"{name} is of an unknown type")
        if len(entry.shape) > _MOST_AXES or math.prod(max(size, 1) for size in entry.shape) > _MOST_NUMBERS:
            raise ValueError(f"{name} has a shape that no array can have")
        if begin != reached or end - begin != math.prod(entry.shape) * _TORCH[entry.dtype].itemsize:
            raise ValueError(f"{name} is not where its header says, or of another size")
        reached, found[name] = end, (entry.dtype, entry.shape, content[begin:end])
    if reached != len(content):
        raise ValueError("it holds more, or less, than its header says")
    return found
