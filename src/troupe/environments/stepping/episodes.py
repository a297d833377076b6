"""Environments that can be put back where they were, which Gymnasium has no word for.

Every episode begins with a seed of its own, so that what an environment is follows from that seed and
from the actions since: keeping these keeps the environment, and playing them again restores it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from troupe.environments.spaces import leaves, with_entries
from troupe.environments.stepping.vector import VectorEnvironment
from troupe.user_code.guard import user_code


@dataclass(frozen=True)
class Prefix:
    """The first `length` items of a list that only grows: a copy that costs nothing until an array is made of it."""

    items: list[Any]
    length: int
    dtype: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.items[: self.length], self.dtype if dtype is None else dtype)


class Episodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds each episode by the environment's own seed and the episode's number, and keeps its actions."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self._seed, self._episode = 0, -1
        self._actions: list[Any] = []
        self._total, self._over = 0.0, False
        self._lives = 0
        self._leaves = leaves(env.action_space, "action space")
        self._kind: Any = np.result_type(*(leaf.space.dtype for leaf in self._leaves))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """With a seed the first episode of that seed begins, without one the next."""
        if seed is None:
            self._episode += 1
        else:
            self._seed, self._episode = seed, 0
        self._actions, self._total, self._over = [], 0.0, False
        obs, info = self.env.reset(seed=episode_seed(self._seed, self._episode), options=options)
        self._lives = info.get("lives", 0)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._over:  # it was put back here: the vector does not know that its next step is the reset row
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        row = self._row(action)  # before the environment can change it
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(row)
        self._total += float(reward)
        self._over = bool(terminated or truncated)
        self._lives = info.get("lives", 0)
        return obs, reward, terminated, truncated, info

    @property
    def lives(self) -> int:
        """Those that can be lost in the next step; 0 where nothing counts them."""
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
        """Plays the episode again up to where it was; returns the observation and the info there.

        Raises StrayedError where that is seen to be elsewhere.
        """
        self._seed, self._episode = state["seed"], state["episode"] - 1
        obs, info = self.reset()
        for row in state["actions"]:
            if self._over:
                raise StrayedError
            obs, _, _, _, info = self.step(self._action(row))
        if (self._over, self._total) != (state["over"], state["total"]):
            raise StrayedError
        return obs, info

    def _row(self, action: Any) -> Any:
        """An action as plain numbers, of which arrays can be made; nested ones leaf after leaf."""
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


class StrayedError(Exception):
    """The same seed and actions have led elsewhere."""


class RestorableEnvironment(VectorEnvironment):
    """A vector of `Episodes`."""

    _vector: SyncVectorEnv

    @cached_property
    def _episodes(self) -> Sequence[Any]:
        return self._vector.envs

    def state(self) -> list[dict[str, Any]]:
        return [each.state() for each in self._episodes]

    def restore(self, state: Sequence[Mapping[str, Any]], obs: np.ndarray) -> list[int]:
        """Puts environments that have just been reset back where they showed `obs`.

        Those that come out elsewhere are returned. They have begun their next episode, and it is in `obs`.
        """
        strayed = []
        for number, (each, kept) in enumerate(zip(self._episodes, state, strict=True)):
            try:
                with user_code():
                    row = self._pack_one(*each.restore(kept), over=kept["over"])
                if not np.array_equal(row, obs[number]):
                    raise StrayedError
            except Exception:  # whatever it is, the environment is not what it was
                strayed.append(number)
                obs[number] = self._pack_one(*self._begun(each))
        self._lives = np.array([each.lives for each in self._episodes])
        return strayed

    def _begun(self, each: gym.Env[Any, Any]) -> tuple[Any, dict[str, Any]]:
        try:
            return each.reset()
        except BaseException as error:
            raise self._failed("reset", error) from error


def episode_seed(seed: int, episode: int) -> int:
    """32 bits, which is what environments take."""
    return int(np.random.SeedSequence(seed, spawn_key=(episode,)).generate_state(1)[0])
