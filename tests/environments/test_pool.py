"""EnvPool: the same environments as Gymnasium's, and the error if it lacks one."""

import importlib.util
import math
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from troupe.config import Environment, UsageError
from troupe.environments import EnvironmentSource, find
from troupe.environments.stepping import pool
from troupe.environments.stepping.vector import VectorEnvironment

needs_envpool = pytest.mark.skipif(not pool.installed(), reason="needs envpool")
POOL = Environment(backend="envpool")
SEEDS = np.random.SeedSequence(7)


def made(env: str, count: int, backend: Any = "envpool", threads: int = 0) -> VectorEnvironment:
    return find(env).make_vector(count, Environment(backend=backend, threads=threads))


# The dynamics, from the equations or from Gymnasium's own step


def cartpole(state: np.ndarray, action: int) -> np.ndarray:
    """Barto, Sutton & Anderson 1983 with Gymnasium's constants, Euler's method: gravity 9.8 m/s^2, cart 1 kg,
    pole 0.1 kg and 1 m long, a force of 10 N, 0.02 s."""
    x, speed, angle, turning = (float(each) for each in state)
    force = 10.0 if action else -10.0
    pushed = (force + 0.05 * turning**2 * math.sin(angle)) / 1.1
    falls = 9.8 * math.sin(angle) - math.cos(angle) * pushed
    twist = falls / (0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1))
    drive = pushed - 0.05 * twist * math.cos(angle) / 1.1
    return np.array([x + 0.02 * speed, speed + 0.02 * drive, angle + 0.02 * turning, turning + 0.02 * twist])


def fallen(state: np.ndarray) -> bool:
    return abs(state[0]) > 2.4 or abs(state[2]) > math.radians(12)


@needs_envpool
def test_cartpole_moves_ends_and_begins_as_written_down() -> None:
    environment, rng = made("CartPole-v1", 5), np.random.default_rng(1)
    before = environment.reset(SEEDS).copy()
    assert (before.shape, before.dtype) == ((5, 4), np.float32)
    ended, endings = np.zeros(5, np.bool_), 0
    for _ in range(300):
        action = rng.integers(2, size=5)
        obs, reward, terminated, truncated, _ = environment.step(action)
        for k in range(5):
            if ended[k]:  # the reset row: a new episode, whatever the action was
                assert (np.abs(obs[k]) <= 0.05).all()
                assert (reward[k], terminated[k], truncated[k]) == (0.0, False, False)
            else:
                np.testing.assert_allclose(obs[k], cartpole(before[k], action[k]), atol=1e-5)
                assert (reward[k], terminated[k], truncated[k]) == (1.0, fallen(obs[k]), False)
        ended, before = terminated.copy(), obs.copy()
        endings += ended.sum()
    environment.close()
    assert endings > 30


def gymnasiums(env: gym.Env[Any, Any], obs: np.ndarray) -> None:
    """Puts Gymnasium's environment where `obs` was seen."""
    inner: Any = env.unwrapped
    match env.spec and env.spec.id:
        case "Acrobot-v1":
            inner.state = [math.atan2(obs[1], obs[0]), math.atan2(obs[3], obs[2]), *obs[4:]]
        case "Pendulum-v1":
            inner.state = np.array([math.atan2(obs[1], obs[0]), obs[2]])
        case "HalfCheetah-v5":
            inner.set_state(np.concatenate([[0.0], obs[:8]]), obs[8:])
        case _:
            inner.state = np.array(obs, np.float64)


@needs_envpool
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("Acrobot-v1", 1e-4),
        ("MountainCar-v0", 1e-6),
        ("MountainCarContinuous-v0", 1e-6),
        ("Pendulum-v1", 1e-4),
        ("HalfCheetah-v5", 1e-6),
    ],
)
def test_a_step_is_the_one_that_gymnasium_takes_from_there(name: str, tolerance: float) -> None:
    if name == "HalfCheetah-v5":
        pytest.importorskip("mujoco")
    env, vector = gym.make(name).unwrapped, pool.PoolVector(name, 2, *spaces(name), threads=1)
    before, _ = vector.reset(seed=[3, 4])
    env.reset(seed=0)
    env.action_space.seed(5)
    for _ in range(60):
        action = np.stack([env.action_space.sample() for _ in range(2)])
        obs, reward, terminated, _, _ = vector.step(action)
        for k in range(2):
            gymnasiums(env, before[k])
            expected = env.step(action[k])
            np.testing.assert_allclose(obs[k], expected[0], atol=tolerance)
            np.testing.assert_allclose(reward[k], expected[1], atol=10 * tolerance)
            assert terminated[k] == expected[2]
        before = obs


def spaces(name: str) -> tuple[gym.Space[Any], gym.Space[Any]]:
    source = find(name)
    return source.observation_space, source.action_space


# Endings by the clock


@needs_envpool
@pytest.mark.parametrize(("name", "limit"), [("MountainCar-v0", 200), ("Acrobot-v1", 500)])
def test_the_time_limit_truncates_and_does_not_terminate(name: str, limit: int) -> None:
    environment = made(name, 2)
    environment.reset(SEEDS)
    stay = np.ones(2, np.int64)  # neither to the left nor to the right
    answers = [environment.step(stay) for _ in range(limit + 2)]
    assert [row.truncated.tolist() for row in answers] == [[step == limit - 1] * 2 for step in range(limit + 2)]
    assert not any(row.terminated.any() for row in answers)
    assert [row.reward.tolist() for row in answers] == [[-1.0 * (step != limit)] * 2 for step in range(limit + 2)]
    environment.close()


@needs_envpool
def test_envpool_reports_termination_in_the_last_step_as_truncation() -> None:
    """Gymnasium says both. Should EnvPool learn to, the note in pool.py can go."""
    import envpool

    def to_the_left(**limit: int) -> tuple[int, list[bool]]:
        batch = envpool.make_gymnasium("CartPole-v1", num_envs=1, seed=[2], **limit)
        batch.reset()
        for step in range(1, 100):
            _, _, terminated, truncated, _ = batch.step(np.zeros(1, np.int64))
            if terminated[0] or truncated[0]:
                return step, [bool(terminated[0]), bool(truncated[0])]
        raise AssertionError("it never fell")

    falls, how = to_the_left()
    assert how == [True, False]
    assert to_the_left(max_episode_steps=falls) == (falls, [False, True])


# The same statistics, whichever backend plays


def towards_the_lean(obs: np.ndarray) -> np.ndarray:
    return (obs[:, 2] > 0).astype(np.int64)


def pump(obs: np.ndarray) -> np.ndarray:
    """Torque along with the second link's turning."""
    return np.where(obs[:, 5] > 0, 2, 0)


def with_the_motion(obs: np.ndarray) -> np.ndarray:
    return np.where(obs[:, 1] > 0, 2, 0)


def lengths(environment: VectorEnvironment, policy: Any, episodes: int) -> np.ndarray:
    """Of `episodes` episodes, an equal number from each environment: the first to end are the short ones."""
    found: list[list[int]] = [[] for _ in range(environment.count)]
    length, ended = np.zeros(environment.count, np.int64), np.zeros(environment.count, np.bool_)
    obs = environment.reset(SEEDS)
    while min(map(len, found)) < episodes // environment.count:
        obs, _, terminated, truncated, _ = environment.step(policy(obs))
        length += ~ended
        ended = terminated | truncated
        for k in np.flatnonzero(ended):
            found[k].append(int(length[k]))
        length[ended] = 0
    environment.close()
    return np.array([each[: episodes // environment.count] for each in found]).ravel()


@needs_envpool
@pytest.mark.parametrize(
    ("name", "policy"),
    [("CartPole-v1", towards_the_lean), ("Acrobot-v1", pump), ("MountainCar-v0", with_the_motion)],
)
def test_a_fixed_policy_has_the_same_mean_episode_length_on_every_backend(name: str, policy: Any) -> None:
    source = find(name)
    played = {
        backend: lengths(source.make_vector(20, Environment(backend=backend)), policy, 300)
        for backend in source.backends
    }
    assert {"sync", "envpool"} <= played.keys()
    sync = played.pop("sync")
    assert sync.std() > 1  # it is not always the same episode
    for other in played.values():
        error = math.sqrt(sync.var() / len(sync) + other.var() / len(other))
        assert abs(sync.mean() - other.mean()) < 4 * error
        assert 0.7 < sync.std() / other.std() < 1 / 0.7


# Seeds, threads, halves of a step


def story(environment: VectorEnvironment, seed: int = 1) -> np.ndarray:
    rows = [environment.reset(np.random.SeedSequence(seed)).copy()]
    rows += [environment.step(np.full(environment.count, t % 3 == 0, np.int64)).obs.copy() for t in range(60)]
    return np.stack(rows)


@needs_envpool
def test_the_number_of_threads_does_not_change_the_episodes() -> None:
    assert (story(made("CartPole-v1", 5, threads=1)) == story(made("CartPole-v1", 5, threads=3))).all()


@needs_envpool
def test_a_reset_begins_anew_with_its_own_seeds_even_in_the_middle_of_a_step() -> None:
    environment = made("CartPole-v1", 3)
    first = story(environment)
    environment.send(np.zeros(3, np.int64))
    assert (story(environment) == first).all()
    assert (story(environment, 2) != first).any()


@needs_envpool
def test_actions_that_do_not_start_at_0_are_passed_on_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []
    environment = made("MountainCar-v0", 2)
    environment.reset(SEEDS)
    monkeypatch.setattr(environment._vector._pool, "send", given.append, raising=True)
    environment.send(np.array([0, 2]))
    assert given[0].tolist() == [0, 2]


# Which environments


@needs_envpool
@pytest.mark.parametrize("name", sorted(pool.SAME))
def test_environments_listed_as_the_same_have_the_same_spaces_and_time_limit(name: str) -> None:
    entry = str(gym.spec(name).entry_point)
    for word, package in (("box2d", "Box2D"), ("mujoco", "mujoco")):
        if word in entry:
            pytest.importorskip(package)
    source = find(name)
    assert source.pool_name == name
    source.check(POOL)


def refused(source: EnvironmentSource) -> str:
    with pytest.raises(UsageError) as caught:
        source.make_vector(2, POOL)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_environment_that_envpool_has_not_is_refused() -> None:
    source = find(lambda: gym.make("CartPole-v1"))
    assert refused(replace(source, id="Own-v0")) == "env.backend = 'envpool': EnvPool has no Own-v0; use auto"


def test_an_environment_that_differs_there_is_refused_with_the_reason() -> None:
    source = replace(find("MountainCar-v0"), id="CarRacing-v3", pool_name="")
    assert refused(source) == (
        "env.backend = 'envpool': CarRacing-v3 is not taken from EnvPool: its images are rendered by another "
        "program there; use auto"
    )


def test_another_environment_under_gymnasiums_name_is_not_taken_for_it() -> None:
    spec = gym.spec("CartPole-v1")
    assert pool.name_of(spec) == "CartPole-v1"
    assert pool.name_of(replace(spec, entry_point="mine:CartPole")) == ""
    assert pool.name_of(replace(spec, entry_point=partial(gym.make, "CartPole-v1"))) == ""


def test_where_envpool_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    source = find("CartPole-v1")
    assert "envpool" not in source.backends
    assert refused(source) == "env.backend = 'envpool': EnvPool is not installed: pip install 'envpool>=1.2'"


@needs_envpool
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"observation_space": gym.spaces.Box(-1.0, 1.0, (3,), np.float32)}, "observations"),
        ({"observation_space": gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)}, "observations"),
        ({"action_space": gym.spaces.Discrete(3)}, "actions"),
        ({"action_space": gym.spaces.Box(-1.0, 1.0, (1,))}, "actions"),
    ],
)
def test_an_environment_whose_spaces_are_others_there_is_refused(changed: dict[str, Any], what: str) -> None:
    message = refused(replace(find("CartPole-v1"), **changed))
    assert message.startswith(f"env.backend = 'envpool': CartPole-v1 has {what} of ")
    assert message.endswith(f"{next(iter(changed.values()))} in Gymnasium; use auto")


@needs_envpool
def test_a_release_with_another_time_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym.spec("CartPole-v1"), "max_episode_steps", 300)
    assert "has a time limit of 500 in EnvPool" in refused(find("CartPole-v1"))


def test_threads_are_envpools_too_and_no_others() -> None:
    source = find("CartPole-v1")
    if pool.installed():
        source.check(Environment(backend="envpool", threads=2))
    with pytest.raises(UsageError, match=r"env\.threads = 2"):
        source.check(Environment(backend="sync", threads=2))
