"""Memory that processes share, and objects that travel to them with their code."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.data.shared_memory import Block, ByValue

FIELDS = {
    "flags": ((3,), np.bool_),
    "image": ((2, 5, 7), np.uint8),
    "number": ((), np.int64),
    "weights": ((4, 9), np.float32),
    "last": ((1,), np.float64),
}


@pytest.mark.parametrize("shared", [True, False])
def test_arrays_begin_at_zero_and_none_overlaps_another(shared):
    block = Block(FIELDS, shared=shared)
    for name, (shape, dtype) in FIELDS.items():
        assert block[name].shape == shape
        assert block[name].dtype == dtype
        assert not block[name].any()
    for number, name in enumerate(FIELDS):
        block[name][...] = number % 2 if name == "flags" else number
    for number, name in enumerate(FIELDS):
        assert (block[name] == (number % 2 if name == "flags" else number)).all()


def test_another_process_sees_what_is_written_here_and_the_other_way_round(elsewhere):
    """Both write while both live: it is the same memory, not a copy made at the start."""

    def play(block):
        import time

        end = time.monotonic() + PATIENCE_SECONDS
        while not block["flags"][0] and time.monotonic() < end:
            time.sleep(0.001)
        block["weights"][1:3] = block["image"][1, 4, 6]
        block["flags"][1] = True
        while not block["flags"][2] and time.monotonic() < end:
            time.sleep(0.001)
        return int(block["number"])

    block = Block(FIELDS, shared=True)
    call = elsewhere(play, block)
    block["image"][1, 4, 6] = 77
    block["flags"][0] = True
    while not block["flags"][1]:
        assert call.process.is_alive()
    assert (block["weights"] == np.array([[0], [77], [77], [0]])).all()
    block["number"][...] = 2**40
    block["flags"][2] = True
    assert call.result() == 2**40


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says which file memory is")
def test_the_memory_has_no_name_that_could_be_left_behind():
    block = Block({"bytes": ((1 << 20,), np.uint8)}, shared=True)
    address = block["bytes"].ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high, file = re.match(r"(\w+)-(\w+) \S+ \S+ \S+ \S+ *(.*)", line).groups()
        if int(low, 16) <= address < int(high, 16):
            assert file == "" or file.endswith("(deleted)")
            return
    pytest.fail("the memory is not mapped")


def in_a_script(source: str, name: str) -> object:
    """What a script defines under that name: its module is __main__, and no other process has that."""
    module = types.ModuleType("__main__")
    exec(source, module.__dict__)
    return getattr(module, name)


def makes_closure():
    secret = [40]
    return lambda x: secret[0] + x


def makes_class():
    class Adds:
        base = 40

        def __call__(self, x):
            return self.base + x

    return Adds()


SCRIPT = "import math\nbase = 40\ndef helper(x): return math.floor(base + x)\ndef add(x): return helper(x)\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda x: x + 40,
        makes_closure,
        makes_class,
        lambda: in_a_script(SCRIPT, "add"),
        lambda: (40).__add__,
    ],
    ids=["lambda", "closure", "local class", "script", "method"],
)
def test_what_could_not_be_imported_there_travels_with_its_code(elsewhere, make):
    assert elsewhere(lambda carried: carried.value(2), ByValue(make())).result() == 42


def test_what_was_received_can_be_sent_on(elsewhere):
    """An actor that is started again is started from the same plan, unpacked or not."""

    def twice(carried):
        import pickle

        unopened = pickle.loads(pickle.dumps(carried))
        return unopened.value(1), pickle.loads(pickle.dumps(unopened)).value(2)

    assert elsewhere(twice, ByValue(makes_closure())).result() == (41, 42)


def test_nothing_is_unpacked_before_it_is_asked_for():
    """Who is sent something that cannot be had there can still say so in order."""
    module = types.ModuleType("only_here")
    module.thing = type("thing", (), {"__module__": "only_here", "__qualname__": "thing"})
    sys.modules["only_here"] = module
    try:
        state = ByValue(module.thing).__getstate__()
    finally:
        del sys.modules["only_here"]
    carried = ByValue.__new__(ByValue)
    carried.__setstate__(state)
    with pytest.raises(ModuleNotFoundError):
        _ = carried.value
