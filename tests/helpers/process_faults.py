"""Environments that kill, hang and starve the process they are in; `test_process_faults` writes them into a folder."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

FOLDER = Path(__file__).parent


def acts():
    """Not in an evaluation, and not while the environment is only looked at."""
    if (FOLDER / "in threads").exists():
        return threading.current_thread().name.startswith(("actor-", "serial"))
    return multiprocessing.current_process().name.startswith("actor-")


def first(what):
    """Whether nobody in this run has come here before: one of all the actors, however many there are."""
    try:
        os.close(os.open(FOLDER / what, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def sleep():
    time.sleep(1e6)


def spin():
    while True:
        pass


def hold():
    """In C, with the interpreter's lock."""
    ctypes.PyDLL(None).sleep(1000)


class Plain(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        if acts():
            self.resets()
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if acts():
            self.steps += 1
            self.happens()
        else:
            self.judged()
        self.left -= 1
        reward = float(action if acts() else (FOLDER / "enough").exists())
        return np.zeros(2, np.float32), reward, self.left == 0, False, {}

    def resets(self):
        pass

    def happens(self):
        pass

    def judged(self):
        pass


class CloseRaises(Plain):
    def close(self):
        if acts():
            raise RuntimeError("closed badly")


class EndsItsProcess(Plain):
    """Twice: once unasked, once by a signal."""

    def happens(self):
        if self.steps == 50:
            if first("exit"):
                os._exit(3)
            if first("signal"):
                os.kill(os.getpid(), signal.SIGABRT)


class AlwaysEndsItsProcess(Plain):
    def happens(self):
        if self.steps == 500:
            os._exit(3)


class Raises(Plain):
    def happens(self):
        if self.steps == 100:
            raise ValueError("out of\nfuel, \udcff")


class Hangs(Plain):
    """At every point and in every way once, each time another actor."""

    def __init__(self):
        if acts() and first("make"):
            sleep()  # while it is made

    def resets(self):
        if first("reset"):
            sleep()  # in reset

    def happens(self):
        if self.steps == 50:
            if first("sleep"):
                sleep()  # in step
            if first("spin"):
                spin()  # in step
            if first("hold"):
                hold()  # in step


class AlwaysHangs(Plain):
    def happens(self):
        sleep()


class HangsForSomeTime(Plain):
    """Until the test lets it continue; by then another actor has replaced it."""

    def happens(self):
        if self.steps == 50 and first("hangs"):
            while not (FOLDER / "go on").exists():
                time.sleep(0.01)  # hangs here
            raise ValueError("nobody wants to know any more")


class Slow(Plain):
    def happens(self):
        time.sleep(0.03)


class EachInItsWay(Plain):
    """Actors that are in a step when their parent is killed."""

    def happens(self):
        if self.steps == 50:
            number = int(multiprocessing.current_process().name[-1])
            first(f"here-{number}")
            (sleep, spin, hold)[number]()


class HasAProcess(Plain):
    def __init__(self):
        if acts():
            context = multiprocessing.get_context("fork")
            self.mine, theirs = context.Pipe()
            self.process = context.Process(target=echo, args=(theirs,))
            self.process.start()

    def happens(self):
        self.mine.send(1)
        self.mine.recv()

    def close(self):
        if acts():
            self.mine.send(None)
            self.process.join()


def echo(theirs):
    try:
        while theirs.recv():
            theirs.send(1)
    except EOFError:
        sleep()  # it does not mind that nobody asks any more


class SlowInEvaluation(Plain):
    def judged(self):
        if threading.current_thread() is not threading.main_thread():  # where the first steps are tried
            first("judged")
            time.sleep(0.01)
