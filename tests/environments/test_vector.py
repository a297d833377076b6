"""A batch of environments: one contract for all backends, and what goes wrong in one is named."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from troupe.config import Environment, TroupeError
from troupe.environments import EnvironmentFailed, VectorEnvironment, find, spaces
from troupe.environments.stepping import pool

SEEDS = np.random.SeedSequence(1)
NEEDS_ENVPOOL = pytest.mark.skipif(not pool.installed(), reason="needs envpool")
BACKENDS = ["native", "sync", pytest.param("envpool", marks=NEEDS_ENVPOOL)]


class Faulty(gym.Env[np.ndarray, int]):
    """Spoils what `fault(verb, step)` tells it to: "obs", "reward" or an exception to raise."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: Callable[[str, int], Any]):
        self.fault, self.steps = fault, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self._obs(self._happens("reset")), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        what = self._happens("step")
        reward = what[1] if what and what[0] == "reward" else 1.0
        return self._obs(what), reward, self.steps % 4 == 0, False, {}

    def _happens(self, verb: str) -> Any:
        what = self.fault(verb, self.steps)
        if isinstance(what, Exception):
            raise what
        return what

    def _obs(self, what: Any) -> np.ndarray:
        return np.array([0.0, what[1] if what and what[0] == "obs" else 0.0], np.float32)


def never(verb: str, step: int) -> None:
    """Nothing is wrong."""


@pytest.fixture
def two() -> Callable[[Callable[[str, int], Any]], VectorEnvironment]:
    """Two environments of which the second is faulty."""

    def make(fault: Callable[[str, int], Any]) -> VectorEnvironment:
        faults = iter([never, never, fault])  # the first is only looked at

        def maze() -> Faulty:
            return Faulty(next(faults))

        maze.__qualname__ = "maze"
        return find(maze).make_vector(2, Environment())

    return make


def failure(environment: VectorEnvironment, steps: int = 10) -> str:
    with pytest.raises(EnvironmentFailed) as caught:  # noqa: PT012
        environment.reset(SEEDS)
        for _ in range(steps):
            environment.step(np.zeros(2, np.int64))
    assert isinstance(caught.value, TroupeError)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_is_named_with_environment_and_step(two, value):
    environment = two(lambda verb, step: ("reward", value) if step == 3 else None)
    assert failure(environment) == f"environment python:maze[1], step 3: reward is {value}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_no_number_is_named_with_environment_and_step(two, value):
    environment = two(lambda verb, step: ("obs", value) if step == 2 else None)
    assert failure(environment) == f"environment python:maze[1], step 2: the observation holds {value}"


def test_a_first_observation_that_is_no_number_is_named(two):
    environment = two(lambda verb, step: ("obs", np.nan) if verb == "reset" else None)
    assert failure(environment) == "environment python:maze[1], step 0: the observation holds nan"


def test_an_exception_in_a_step_is_one_line(two):
    environment = two(lambda verb, step: ValueError("no\n  door") if step == 3 else None)
    assert failure(environment) == "environment python:maze[1]: step raised ValueError: no door (step 3)"


def test_an_exception_in_a_later_reset_is_named_with_the_step_that_asked_for_it(two):
    environment = two(lambda verb, step: OSError("gone") if (verb, step) == ("reset", 4) else None)
    assert failure(environment) == "environment python:maze[1]: reset raised OSError: gone (step 5)"


def test_an_exception_in_the_first_reset_is_one_line(two):
    environment = two(lambda verb, step: OSError("not\nyet"))
    assert failure(environment) == "environment python:maze[1]: reset raised OSError: not yet (step 0)"


def test_the_cause_is_kept_for_the_traceback(two):
    environment = two(lambda verb, step: OSError("gone"))
    with pytest.raises(EnvironmentFailed) as caught:
        environment.reset(SEEDS)
    assert isinstance(caught.value.__cause__, OSError)


# One contract for all backends


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_row_after_an_ending_is_a_reset_whatever_the_action(backend):
    environment = find("CartPole-v1").make_vector(3, Environment(backend=backend))
    obs = environment.reset(SEEDS)
    assert (obs.shape, obs.dtype) == ((3, 4), np.float32)
    ended, endings = np.zeros(3, bool), 0
    for step in range(200):
        obs, reward, terminated, truncated, life_lost = environment.step(np.full(3, step % 7 == 0, np.int64))
        assert not life_lost.any()
        assert (reward == np.where(ended, 0.0, 1.0)).all()
        assert (np.abs(obs[ended]) <= 0.05).all()  # where CartPole begins
        assert not (terminated | truncated)[ended].any()
        ended = terminated | truncated
        assert (np.abs(obs[ended][:, 2]) > 0.2).all()  # the final observation: the pole has fallen
        endings += ended.sum()
    assert endings > 10
    environment.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seeds_give_the_same_episodes(backend):
    runs = []
    for seed in (1, 1, 2):
        environment = find("CartPole-v1").make_vector(2, Environment(backend=backend))
        rows = [environment.reset(np.random.SeedSequence(seed)).copy()]
        rows += [environment.step(np.ones(2, np.int64)).obs.copy() for _ in range(30)]
        runs.append(np.stack(rows))
        environment.close()
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_native_and_sync_play_the_same_game():
    """From one state and with the same actions, both backends tell the same story to the end and past it."""
    native, sync = (find("CartPole-v1").make_vector(1, Environment(backend=name)) for name in ("native", "sync"))
    start = native.reset(SEEDS)[0].astype(np.float64)
    sync.reset(SEEDS)
    native._vector.unwrapped.state = start[:, None].copy()
    sync._vector.envs[0].unwrapped.state = start.copy()
    for step in range(40):
        action = np.array([int(step % 3 == 0)])
        ours, theirs = native.step(action), sync.step(action)
        np.testing.assert_allclose(ours.obs, theirs.obs, atol=1e-5)
        for name in ("reward", "terminated", "truncated"):
            assert getattr(ours, name) == getattr(theirs, name)
        if ours.terminated[0]:
            break
    assert ours.terminated[0]
    assert native.step(action).reward == sync.step(action).reward == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_sent_and_received(backend):
    environment, other = (find("CartPole-v1").make_vector(2, Environment(backend=backend)) for _ in range(2))
    np.testing.assert_array_equal(environment.reset(SEEDS), other.reset(SEEDS))
    for step in range(60):
        action = np.full(2, step % 3 == 0, np.int64)
        expected = other.step(action)
        environment.send(action)
        action[:] = 0  # whose it is does not matter any more
        for ours, theirs in zip(environment.receive(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_received_that_was_not_sent():
    environment = find("CartPole-v1").make_vector(2, Environment())
    environment.reset(SEEDS)
    environment.step(np.zeros(2, np.int64))
    with pytest.raises(AssertionError, match="receive without send"):
        environment.receive()


# Spaces as JSON


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
        gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        gym.spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, np.inf], np.float32)),
        gym.spaces.Box(-1.0, 1.0, (), np.float32),
        gym.spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
        gym.spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
        gym.spaces.Discrete(5, start=-2),
        gym.spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 3]]),
        gym.spaces.MultiBinary(4),
        gym.spaces.MultiBinary((2, 3)),
        gym.spaces.Dict({"b": gym.spaces.Discrete(2), "a": gym.spaces.Tuple([gym.spaces.Box(0, 1, (2,))])}),
    ],
    ids=str,
)
def test_a_space_comes_back_from_json_as_it_was(space):
    assert spaces.restore(json.loads(json.dumps(spaces.describe(space)))) == space
