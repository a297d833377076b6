"""Small products in threads of ours take one processor, as was set for the run, and not all of them."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Queue

import pytest
import torch

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.interruption import run_interruptible
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.thread_pool import ThreadPool
from troupe.torch_threads import one_torch_thread


def openmp_threads() -> int:
    """How many threads a small product would take where this is called. torch.get_num_threads changes it by asking."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = {line.split()[-1] for line in lines if "libgomp" in line}
    if not paths:
        pytest.skip("torch's OpenMP library is not found here")
    return int(ctypes.CDLL(paths.pop()).omp_get_max_threads())


def in_the_supervisors() -> int:
    found: Queue[int] = Queue()
    with Supervisor(Gate(), lambda: None) as supervisor:
        supervisor.start("part", lambda: found.put(openmp_threads()))
        return found.get(timeout=PATIENCE_SECONDS)


def in_a_thread_pool() -> int:
    pool = ThreadPool(2)
    try:
        return pool.map(lambda _: openmp_threads(), [0, 1])[1]
    finally:
        pool.close()


def in_one_apart() -> int:
    found = run_interruptible(openmp_threads, lambda: False)
    assert found is not None
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [in_the_supervisors, in_a_thread_pool, in_one_apart])
def test_threads_of_ours_have_as_many_of_torchs_as_were_set(count: Callable[[], int], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert count() == threads
        with one_torch_thread():
            assert count() == 1
    finally:
        torch.set_num_threads(before)


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(ValueError), one_torch_thread():
            assert torch.get_num_threads() == 1
            raise ValueError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
