"""A batch of environments stepped together, with what goes wrong in them named in one line."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from troupe.config import TroupeError


class EnvironmentFailed(TroupeError):
    """An environment raised, or returned what cannot be learned from."""


class Transition(NamedTuple):
    """What B environments answered; the arrays may be overwritten by the next step."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class VectorEnvironment:
    """B environments that reset on the step after an episode's end.

    The observation that ends an episode is therefore always seen; the row that follows it is not a
    transition (its action is ignored and its reward is 0), and the rollout marks it invalid.
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any], name: str, delay_seconds: float = 0.0):
        self._vector = vector
        self._name = name
        self._delay = delay_seconds
        self.count: int = vector.num_envs
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self._first_action = int(getattr(self.action_space, "start", 0))
        self._steps = 0

    def reset(self, seeds: np.random.SeedSequence) -> np.ndarray:
        """Every environment gets a seed of its own; a native vector draws all its episodes from one stream."""
        drawn: list[int | None] = [int(seed) for seed in seeds.generate_state(self.count)]
        try:
            if isinstance(self._vector, SyncVectorEnv):
                obs, _ = self._vector.reset(seed=drawn)
            else:
                obs, _ = self._vector.reset(seed=drawn[0])
        except Exception as error:
            raise self._failed("reset", error) from error
        return self._checked(obs)

    def delay(self) -> None:
        """The pause before a step that the configuration asks for."""
        if self._delay:
            time.sleep(self._delay)

    def step(self, action: np.ndarray) -> Transition:
        """`action` counts from 0, whatever the action space's `start` is."""
        self._steps += 1
        try:
            obs, reward, terminated, truncated, _ = self._vector.step(action + self._first_action)
        except Exception as error:
            raise self._failed("step", error) from error
        if not np.isfinite(reward).all():
            bad = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise EnvironmentFailed(f"environment {self._name}[{bad}], step {self._steps}: reward is {reward[bad]}")
        return Transition(self._checked(obs), reward, terminated, truncated)

    def state(self) -> Sequence[Mapping[str, Any]] | None:
        """What `restore` needs; None where environments cannot be put back where they were (episodes.py)."""
        return None

    def restore(self, state: Sequence[Mapping[str, Any]], obs: np.ndarray) -> list[int]:
        raise NotImplementedError

    def close(self) -> None:
        self._vector.close()

    def _checked(self, obs: np.ndarray) -> np.ndarray:
        if obs.dtype.kind == "f" and not np.isfinite(obs).all():
            bad = int(np.argwhere(~np.isfinite(obs))[0][0])
            value = obs[bad][~np.isfinite(obs[bad])].flat[0]
            raise EnvironmentFailed(
                f"environment {self._name}[{bad}], step {self._steps}: the observation holds {value}"
            )
        return obs

    def _failed(self, verb: str, error: Exception) -> EnvironmentFailed:
        message = " ".join(str(error).split())
        return EnvironmentFailed(
            f"environment {self._name}: {verb} raised {type(error).__name__}: {message} (step {self._steps})"
        )
