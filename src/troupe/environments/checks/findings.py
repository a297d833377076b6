"""Findings of `troupe check` about the steps of an environment: faults, and numbers that make learning hard."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from troupe.environments.checks.observations import Limits, misfit
from troupe.environments.source import EnvironmentSource
from troupe.environments.spaces import Leaf

_HUGE, _HUGE_REWARD, _TINY_REWARD = 1e6, 1e3, 1e-4
_DWARFS = 1000.0  # times the usual reward


class Finding(NamedTuple):
    """What was found and what to change; `wrong` or unwise."""

    wrong: bool
    what: str
    change: str


def wrong(what: str, change: str) -> Finding:
    return Finding(True, what, change)


def unwise(what: str, change: str) -> Finding:
    return Finding(False, what, change)


class Seen:
    """Collects findings step by step; keeps statistics of the observations only."""

    def __init__(self, source: EnvironmentSource):
        self._source = source
        self._leaves = [_SeenLeaf(leaf) for leaf in source.packing.leaves]
        self.steps = self.episodes = 0
        self._digests: list[bytes] = []
        self._rewards: list[float] = []
        self._found: dict[str, Finding] = {}
        self._before: list[tuple[str, np.ndarray, np.ndarray]] = []  # the last observation's arrays, and copies of them

    @property
    def wrong(self) -> list[Finding]:
        """Faults after which no further step makes sense."""
        return [finding for name, finding in self._found.items() if name == "fails"]

    def fail(self, what: str, change: str) -> None:
        self._note("fails", wrong(what, change))

    def reset(self, obs: Any, answer: Any) -> None:
        if isinstance(answer, tuple | list) and len(answer) == 2:
            self._check_info("reset", answer[1])
        self._observe(obs, b"reset")

    def step(self, obs: Any, reward: float, terminated: bool, truncated: bool, answer: Any) -> None:
        self.steps += 1
        self.episodes += terminated or truncated
        _, raw, *flags, info = answer
        for name, flag in zip(("terminated", "truncated"), flags, strict=True):
            if not isinstance(flag, bool | np.bool_):
                what = f"{name} is {type(flag).__name__} ({flag!r}): expected bool"
                self._note(name, wrong(what, f"return bool({name})"))
        if np.ndim(raw):
            what = f"the reward is an array of shape {np.shape(raw)}"
            self._note("reward", unwise(what, "return float(reward)"))
        self._check_info("step", info)
        if not np.isfinite(reward):
            self.fail(f"step {self.steps}: the reward is {reward}", "keep rewards finite: look for divisions by zero")
        self._rewards.append(reward)
        self._observe(obs, f"{reward!r} {terminated} {truncated}".encode())

    def findings(self) -> list[Finding]:
        numbers = [finding for leaf in self._leaves for finding in leaf.findings(self.steps)] if self.steps else []
        return [*self._found.values(), *numbers, *self._of_rewards(), *self._of_actions()]

    def first_difference(self, other: "Seen") -> int | None:
        """The first step in which two sequences differ; None if one is a prefix of the other."""
        pairs = enumerate(zip(self._digests, other._digests, strict=False))
        return next((step for step, (mine, theirs) in pairs if mine != theirs), None)

    def _note(self, name: str, finding: Finding) -> None:
        self._found.setdefault(name, finding)

    def _check_info(self, verb: str, info: Any) -> None:
        if info is None:
            what = f"{verb} returns None as info"
            self._note("info", unwise(what, "return a dict, {} if there is nothing to report"))

    def _observe(self, obs: Any, about: bytes) -> None:
        for what, shown, copy in self._before:
            if not np.array_equal(shown, copy, equal_nan=shown.dtype.kind == "f"):
                what = f"{what} is one buffer that each step overwrites: what was returned before has changed"
                self._note("aliased", wrong(what, "return a copy of it (observation.copy())"))
        if fault := misfit([each.leaf for each in self._leaves], obs):
            self.fail(f"step {self.steps}: {fault}", "return what observation_space says, or change observation_space")
            return
        digest = hashlib.blake2b(about)
        self._before = []
        for each in self._leaves:
            value = each.leaf.of(obs)
            if isinstance(value, np.ndarray):
                self._before.append((f"the observation{each.leaf.name}", value, value.copy()))
            array = np.asarray(value, each.leaf.space.dtype)
            digest.update(array.tobytes())
            if unfit := each.limits.unfit(array[None]):
                what = f"step {self.steps}: the observation{each.leaf.name} {unfit[1]}"
                self.fail(what, "return what observation_space says, or change observation_space")
            elif outside := each.limits.outside_box(array[None]):
                name = f"the observation{each.leaf.name}"
                what, change = f"step {self.steps}: {name} {outside[1]}", "declare the bounds that it has"
                self._note(f"bounds{each.leaf.name}", wrong(what, change))
            self._kind(each.leaf, value)
            each.add(array)
        self._digests.append(digest.digest())

    def _kind(self, leaf: Leaf, value: Any) -> None:
        """Notes an observation whose dtype is converted for the network."""
        if not isinstance(leaf.space, gym.spaces.Box):
            return
        name, expected = f"the observation{leaf.name}", np.dtype(leaf.space.dtype)
        given = value.dtype if isinstance(value, np.ndarray | np.generic) else type(value).__name__
        if given != expected:
            change = f"return np.asarray(observation, np.{expected})"
            what = f"{name} is {given}, its space {expected}: it is converted"
            self._note(f"kind{leaf.name}", unwise(what, change))

    def _of_rewards(self) -> Iterator[Finding]:
        sizes = np.abs([reward for reward in self._rewards if reward])
        if not len(self._rewards):
            return
        if not len(sizes):
            yield unwise(
                f"every reward of {self.steps} random steps is 0",
                "reward progress towards the goal, or novelty (novelty.coefficient)",
            )
            return
        usual, most = float(np.sort(sizes)[len(sizes) // 2]), float(sizes.max())
        if most > _HUGE_REWARD or most < _TINY_REWARD:
            size = "as large as" if most > _HUGE_REWARD else "no larger than"
            change = "scale rewards to about 1 (loss.reward_scale for learning only)"
            yield unwise(f"rewards are {size} {most:g}", change)
        if most > _DWARFS * usual:
            yield unwise(
                f"one reward of {most:g} dwarfs the others, half of which are at most {usual:g}",
                "scale them closer together, or clip them for learning (loss.reward_clip)",
            )

    def _of_actions(self) -> Iterator[Finding]:
        for leaf in self._source.actions.leaves:
            space = leaf.space
            if isinstance(space, gym.spaces.Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
                yield unwise(
                    f"the action{leaf.name} has no bounds: the policy begins with numbers between about -1 and 1",
                    "declare the bounds that make sense",
                )


class _SeenLeaf:
    """Statistics of one leaf: the largest magnitude, and which numbers ever changed."""

    def __init__(self, leaf: Leaf):
        self.leaf, self.limits = leaf, Limits(leaf)
        self._first: np.ndarray | None = None
        self._changed: Any = False
        self._most = 0.0

    def add(self, array: np.ndarray) -> None:
        if self._first is None:
            self._first = array.copy()
        self._changed = self._changed | (array != self._first)
        if array.size:
            self._most = max(self._most, float(np.abs(array.astype(np.float64)).max()))

    def findings(self, steps: int) -> Iterator[Finding]:
        name, size = f"the observation{self.leaf.name}", self.leaf.size
        constant = size - int(np.count_nonzero(self._changed))
        whole = constant == size
        if size and (whole or (constant and len(self.leaf.space.shape or ()) == 1)):
            which = f"{name} never changed" if whole else f"{constant} of the {size} numbers of {name} never changed"
            yield unwise(f"{which} in {steps} steps", "leave out what carries no information (--env.ignore)")
        if self._most > _HUGE and isinstance(self.leaf.space, gym.spaces.Box):
            yield unwise(
                f"{name} holds numbers as large as {self._most:g}",
                "use differences or other units; network.normalize, on by default, brings them to one scale",
            )
