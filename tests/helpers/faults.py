"""Environments that block, fail to close and leave threads; `test_faults` writes them into a folder."""

import pathlib
import threading
import time

import gymnasium as gym
import numpy as np


def here():
    """Shows that the point the test waits for has been reached."""
    pathlib.Path("here").touch()


def part():
    return threading.current_thread().name.partition("-")[0]


def judging_last():
    return threading.current_thread().name == "MainThread-evaluation"


class Plain(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.happens()
        self.left -= 1
        return np.zeros(2, np.float32), float(action), self.left == 0, False, {}

    def happens(self):
        pass


class Blocks(Plain):
    """One step of one actor never returns."""

    steps, last = 0, 500

    def happens(self):
        if part() in ("actor", "serial"):
            Blocks.steps += 1
            if Blocks.steps == self.last:
                here()
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()


class BlocksAtOnce(Blocks):
    last = 1


class BlocksInEvaluation(Plain):
    def happens(self):
        if part() == "learner":
            here()
            time.sleep(1e6)


class SlowInEvaluation(Plain):
    def happens(self):
        if part() == "learner":
            here()
            time.sleep(0.01)


class BlocksAtTheEnd(Plain):
    def happens(self):
        if judging_last():
            here()
            time.sleep(1e6)


class Simulated(Plain):
    """Leaves a file for as long as it is open."""

    def __init__(self):
        self.file = pathlib.Path(f"open-{id(self)}")
        self.file.touch()

    def close(self):
        self.file.unlink(missing_ok=True)


class BlocksInClose(Plain):
    def close(self):
        if threading.current_thread().name == "interruptible":
            here()
            time.sleep(1e6)


class NeverCloses(Plain):
    """Leaves a thread that would keep the process alive."""

    def __init__(self):
        threading.Thread(target=time.sleep, args=(1e6,)).start()
