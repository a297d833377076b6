"""Files of arrays are in the safetensors format: its own package reads ours, we read those it writes, and no others."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from troupe.runs.store import tensors

VALUES = torch.tensor([[0, 1, 2], [3, 4, 5]])
TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
]  # fmt: skip
EVERY = {str(dtype): VALUES.to(dtype) for dtype in TYPES} | {"none": torch.empty(0, 3), "scalar": torch.tensor(2.5)}
TEXTS = {"about": 'a "text" of two\nlines', "umlaut": "ä"}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    alike = [(each.dtype, each.shape) == (other[name].dtype, other[name].shape) for name, each in one.items()]
    return one.keys() == other.keys() and all(alike) and all(one[name].tolist() == other[name].tolist() for name in one)


def test_every_type_comes_back_from_our_files_and_from_the_packages():
    assert same(EVERY, tensors.load(tensors.save(EVERY, TEXTS)))
    assert same(EVERY, safetensors.torch.load(tensors.save(EVERY, TEXTS)))
    assert same(EVERY, tensors.load(safetensors.torch.save(EVERY, TEXTS)))
    assert json.loads(tensors.header_of(tensors.save(EVERY, TEXTS)))["__metadata__"] == TEXTS


def test_arrays_of_numpy_come_back_too_and_can_be_written_to():
    arrays = {name: each.numpy() for name, each in EVERY.items() if each.dtype != torch.bfloat16}
    arrays["big-endian"] = np.arange(3, dtype=">i4")
    arrays["strided"] = np.arange(12).reshape(3, 4)[:, ::2]
    for load in (tensors.load_arrays, safetensors.numpy.load):
        found = load(tensors.save_arrays(arrays))
        assert found.keys() == arrays.keys()
        for name, each in arrays.items():
            np.testing.assert_array_equal(found[name], each)
            assert found[name].dtype.newbyteorder("<") == each.dtype.newbyteorder("<")
    tensors.load_arrays(tensors.save_arrays(arrays))["strided"][0, 0] = 1


def test_arrays_lie_where_their_numbers_are_aligned():
    data = tensors.save({"bytes": torch.ones(3, dtype=torch.uint8), "numbers": torch.ones(2, dtype=torch.float64)})
    header = json.loads(tensors.header_of(data))
    assert header["numbers"]["data_offsets"] == [0, 16]
    assert len(tensors.header_of(data)) % 8 == 0


def written(content: int, **header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(content)


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut off"),
        ((10**6).to_bytes(8, "little") + b"{}", "cut off"),
        ((2).to_bytes(8, "little") + b"[]", "not as the format wants it"),
        ((9).to_bytes(8, "little") + b'{"a": "b"', "not as the format wants it"),
        (written(8, a=entry(0, 8, 3)), "a is not where .*, or of another size"),
        (written(8, a=entry(0, 8, -1, -2)), "not as the format wants it"),
        (written(8, a=entry(4, 8, 1)), "a is not where"),  # a hole
        (written(8, a=entry(0, 8, 2), b=entry(4, 8, 1)), "b is not where"),  # one in another
        (written(8, a=entry(8, 0, 2)), "a is not where"),
        (written(8, a=entry(0, 4, 1)), "holds more, or less"),
        (written(4, a=entry(0, 8, 2)), "holds more, or less"),
        (written(8, a=entry(0, 8, 2, dtype="F8")), "a is of an unknown type"),
        (written(0, a=entry(0, 0, 2**40, 2**40, 0)), "a has a shape that no array can have"),
        (written(0, a=entry(0, 0, 2**70, 0)), "a has a shape that no array can have"),
        (written(4, a=entry(0, 4, *[1] * 65)), "a has a shape that no array can have"),
        (written(0, a=entry(0, 0, 2**20), b=entry(0, 0, 2**20)), "a is not where"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_file_that_is_not_as_the_format_wants_it_is_refused(data: bytes, why: str) -> None:
    for load in (tensors.load, tensors.load_arrays):
        with pytest.raises(ValueError, match=why):
            load(data)


def test_numpy_has_no_bfloat16():
    with pytest.raises(ValueError, match=r"^a is BF16, which NumPy does not have$"):
        tensors.load_arrays(tensors.save({"a": torch.ones(1, dtype=torch.bfloat16)}))
