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
    """What B environments answered; the arrays may be overwritten by the next step, so copy them at once.

    `life_lost` is where a life was lost and the game goes on, if `env.episodic_life` asks for it.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    life_lost: np.ndarray


class VectorEnvironment:
    """B environments that reset on the step after an episode's end.

    The observation that ends an episode is therefore always seen; the row that follows it is not a
    transition (its action is ignored and its reward is 0), and the rollout marks it invalid.

    A step is a `send` and a `receive`. Here all the work is done in `receive`; AtariEnvironment begins
    it with `send`.
    """

    def __init__(
        self, vector: VectorEnv[Any, Any, Any], name: str, delay_seconds: float = 0.0, *, episodic_life: bool = False
    ):
        self._vector = vector
        self._name = name
        self._delay = delay_seconds
        self.count: int = vector.num_envs
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self._first_action = int(getattr(self.action_space, "start", 0))
        self._steps = 0
        self._asked = False  # sent, and not received yet
        self._episodic_life = episodic_life
        self._lives = np.zeros(self.count, np.int64)
        self._no_life_lost = np.zeros(self.count, np.bool_)
        self._no_life_lost.setflags(write=False)

    def reset(self, seeds: np.random.SeedSequence) -> np.ndarray:
        """Every environment gets a seed of its own (see `_begin` for the exception)."""
        try:
            obs, info = self._begin(seeds.generate_state(self.count))
        except Exception as error:
            raise self._failed("reset", error) from error
        self._asked = False
        if self._episodic_life:
            self._lives = np.array(info["lives"])
        return self._checked(obs)

    def delay(self) -> None:
        """The pause before a step that the configuration asks for."""
        if self._delay:
            time.sleep(self._delay)

    def step(self, action: np.ndarray) -> Transition:
        """`action` counts from 0, whatever the action space's `start` is."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """The first half of a step; `action` may be overwritten afterwards."""
        self._steps += 1
        try:
            self._ask(action + self._first_action)
        except Exception as error:
            raise self._failed("step", error) from error
        self._asked = True

    def receive(self) -> Transition:
        """The second half: what came of it. Once for every `send`."""
        assert self._asked, "receive without send"
        self._asked = False
        try:
            obs, reward, terminated, truncated, info = self._answer()
        except Exception as error:
            raise self._failed("step", error) from error
        if not np.isfinite(reward).all():
            bad = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise EnvironmentFailed(f"environment {self._name}[{bad}], step {self._steps}: reward is {reward[bad]}")
        return Transition(
            self._checked(obs), reward, terminated, truncated, self._life_lost(terminated, truncated, info)
        )

    def state(self) -> Sequence[Mapping[str, Any]] | None:
        """What `restore` needs; None where environments cannot be put back where they were (episodes.py)."""
        return None

    def restore(self, state: Sequence[Mapping[str, Any]], obs: np.ndarray) -> list[int]:
        raise NotImplementedError

    def close(self) -> None:
        self._vector.close()

    def _begin(self, seeds: np.ndarray) -> tuple[Any, dict[str, Any]]:
        """A native vector of Gymnasium's draws all its episodes from one stream, and takes the first seed."""
        if isinstance(self._vector, SyncVectorEnv):
            return self._vector.reset(seed=seeds.tolist())
        return self._vector.reset(seed=int(seeds[0]))

    def _ask(self, action: np.ndarray) -> None:
        self._action = action

    def _answer(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._vector.step(self._action)

    def _life_lost(self, terminated: np.ndarray, truncated: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
        if not self._episodic_life:
            return self._no_life_lost
        before, self._lives = self._lives, np.array(info["lives"])
        lost: np.ndarray = (self._lives < before) & ~terminated
        self._lives[terminated | truncated] = 0  # the next game, with however many lives, has lost none
        return lost

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
