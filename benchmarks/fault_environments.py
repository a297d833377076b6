"""An environment that does what `benchmarks/faults.py` asks for in its variables, once in a run, and leaves a file."""

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

MORE_BYTES = 100 * 2**20  # of address space, for an environment that takes all there is


class Faulty(gym.Env[np.ndarray, int]):
    """Episodes of ten steps; the fault comes in the call FAULT_CALL of FAULT_PLACE: reset, step or evaluation."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.what, self.place = os.environ.get("FAULT", ""), os.environ.get("FAULT_PLACE", "")
        self.calls, self.most = 0, int(os.environ.get("FAULT_CALL", "0"))
        self.children: list[subprocess.Popen[bytes]] = []
        if self.what == "children" and self._acts():
            self.children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._visit("reset")
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        if threading.current_thread().name.endswith("-evaluation"):
            _touch("judged")
            time.sleep(0.002)
            self._visit("evaluation")
        else:
            self._visit("step")
        self.left -= 1
        return np.zeros(2, np.float32), float(action), self.left == 0, False, {}

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()

    def _acts(self) -> bool:
        names = multiprocessing.current_process().name, threading.current_thread().name
        return names[1] != "MainThread-evaluation" and any(name.startswith(("actor-", "serial")) for name in names)

    def _visit(self, place: str) -> None:
        if self.what not in _FAULTS or place != self.place or not (place == "evaluation" or self._acts()):
            return
        self.calls += 1
        if self.calls > self.most and _touch("happened"):
            _FAULTS[self.what]()


def _touch(name: str) -> bool:
    """Whether nobody in this run has been here before."""
    try:
        os.close(os.open(Path(os.environ["FAULT_FOLDER"]) / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _raise() -> None:
    raise ValueError("out of fuel")


def _print() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.write("the environment says: \udcff\n" * 2000)
    os.write(1, b"x" * 100_000)


def _take_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, used + MORE_BYTES))
    taken = []
    while True:
        taken.append(np.ones(2**17))


def _be_killed() -> None:
    """As by a system that is short of memory."""
    taken = [np.ones(2**20) for _ in range(16)]
    os.kill(os.getpid(), signal.SIGKILL)
    taken.clear()


_FAULTS: dict[str, Callable[[], object]] = {
    "raises": _raise,
    "calls sys.exit": lambda: sys.exit(5),
    "ends its process": lambda: os._exit(3),
    "aborts": os.abort,
    "crashes in C": lambda: ctypes.string_at(0),
    "is killed for its memory": _be_killed,
    "hangs": lambda: time.sleep(1e6),
    "prints": _print,
    "takes all memory": _take_memory,
}
