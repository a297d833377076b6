"""Environments whose state can be saved and restored, for which Gymnasium has no interface.

Every episode begins with a seed of its own, so an environment's state follows from that seed and the actions since:
these are saved, and replayed to restore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from troupe.environments.spaces import leaves, with_entries
from troupe.environments.stepping.vector import FAILED, VectorEnvironment
from troupe.user_code.guard import user_code


@dataclass(frozen=True)
class Prefix:
    """The first `length` items of a list that only grows: a copy that costs nothing until it becomes an array."""

    items: list[Any]
    length: int
    dtype: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.items[: self.length], self.dtype if dtype is None else dtype)


class Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds each episode by the environment's seed and the episode's number, and records its actions."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self._seed, self._episode = 0, -1
        self._actions: list[Any] = []
        self._total, self._over = 0.0, False
        self._lives = 0
        self._leaves = leaves(env.action_space, "action space")
        self._kind: Any = np.result_type(*(leaf.space.dtype for leaf in self._leaves))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """With a seed, the first episode of that seed; without one, the next episode."""
        if seed is None:
            self._episode += 1
        else:
            self._seed, self._episode = seed, 0
        self._actions, self._total, self._over = [], 0.0, False
        obs, info = self.env.reset(seed=episode_seed(self._seed, self._episode), options=options)
        if FAILED in info:  # another environment, which has not begun an episode of ours
            return self.reset(options=options)
        self._lives = info.get("lives", 0)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._over:  # restored at an episode's end: the vector does not know that the next step is a reset
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        row = self._row(action)  # before the environment can modify it
        obs, reward, terminated, truncated, info = self.env.step(action)
        if FAILED in info:
            obs, info = self.reset()
            return obs, 0.0, False, False, info | {FAILED: True}
        self._actions.append(row)
        self._total += float(reward)
        self._over = bool(terminated or truncated)
        self._lives = info.get("lives", 0)
        return obs, reward, terminated, truncated, info

    @property
    def lives(self) -> int:
        """The lives left; 0 after an episode's end, and where nothing counts them."""
        return 0 if self._over else self._lives

    def state(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "episode": self._episode,
            "actions": Prefix(self._actions, len(self._actions), self._kind),
            "total": self._total,
            "over": self._over,
        }

    def restore(self, state: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replays the episode up to the saved step; returns the observation and the info there.

        Raises DivergedError if it differs from what was saved.
        """
        self._seed, self._episode = state["seed"], state["episode"] - 1
        obs, info = self.reset()
        for row in state["actions"]:
            if self._over:
                raise DivergedError
            obs, _, _, _, info = self.step(self._action(row))
        if (self._over, self._total) != (state["over"], state["total"]):
            raise DivergedError
        return obs, info

    def _row(self, action: Any) -> Any:
        """An action as a list of numbers; a nested one leaf after leaf."""
        if not self._leaves[0].path:
            return np.asarray(action).tolist()
        return [number for leaf in self._leaves for number in np.ravel(leaf.of(action)).tolist()]

    def _action(self, row: np.ndarray) -> Any:
        if not self._leaves[0].path:
            return row
        ends = np.cumsum([leaf.size for leaf in self._leaves])
        parts = zip(self._leaves, np.split(row, ends[:-1]), strict=True)
        values = [part.astype(leaf.space.dtype).reshape(leaf.space.shape or ()) for leaf, part in parts]
        return with_entries(self.action_space, iter(values))


class DivergedError(Exception):
    """The same seed and actions led to another state."""


class RestorableEnvironment(VectorEnvironment):
    """A vector of `Episodes`."""

    _vector: SyncVectorEnv

    @cached_property
    def _episodes(self) -> Sequence[Any]:
        return self._vector.envs

    def state(self) -> list[dict[str, Any]]:
        return [each.state() for each in self._episodes]

    def restore(self, state: Sequence[Mapping[str, Any]], obs: np.ndarray) -> list[int]:
        """Restores environments that have just been reset to the state in which they returned `obs`.

        Returns the indices of those that diverged; they begin their next episode, whose observation replaces that in
        `obs`.
        """
        diverged = []
        for number, (each, kept) in enumerate(zip(self._episodes, state, strict=True)):
            try:
                with user_code():
                    row = self._pack_one(*each.restore(kept), over=kept["over"])
                if not np.array_equal(row, obs[number]):
                    raise DivergedError
            except Exception:  # whatever the cause, the environment is in another state
                diverged.append(number)
                obs[number] = self._pack_one(*self._begun(each))
        self._lives = np.array([each.lives for each in self._episodes])
        return diverged

    def _begun(self, each: gym.Env[Any, Any]) -> tuple[Any, dict[str, Any]]:
        try:
            return each.reset()
        except BaseException as error:
            raise self._failed("reset", error) from error


def episode_seed(seed: int, episode: int) -> int:
    """A seed of 32 bits, which is what environments take."""
    return int(np.random.SeedSequence(seed, spawn_key=(episode,)).generate_state(1)[0])
