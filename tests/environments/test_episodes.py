"""Episodes that can be played again: each has a seed of its own, and restored it goes on as it did."""

import json

import gymnasium as gym
import numpy as np
import pytest

from troupe.config import Environment
from troupe.environments import find
from troupe.environments.stepping.episodes import Episodes, episode_seed

ACTIONS = np.random.default_rng(3).integers(0, 2, (120, 3))


def made(env="CartPole-v1", count=3):
    return find(env).make_restorable(count, Environment())


def row(environment, action):
    return [np.array(each) for each in environment.step(action)]


def test_restored_at_any_step_it_goes_on_as_it_did():
    """120 steps of three poles: in the middle of episodes, at their ends and on their reset rows."""
    environment, again = made(), made()
    obs = environment.reset(np.random.SeedSequence(1)).copy()
    again.reset(np.random.SeedSequence(2))
    states, rows = [], []
    for action in ACTIONS:
        kept = [state | {"actions": np.asarray(state["actions"])} for state in environment.state()]
        states.append((kept, obs.copy()))
        rows.append(row(environment, action))
        obs = rows[-1][0]
    assert any(state["over"] for kept, _ in states for state in kept)
    for k in range(0, len(states), 7):
        kept, obs = states[k]
        again.reset(np.random.SeedSequence(2))
        assert again.restore(kept, obs) == []
        for action, expected in zip(ACTIONS[k : k + 40], rows[k : k + 40], strict=False):
            for ours, theirs in zip(row(again, action), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_state_is_a_copy_however_far_the_environment_goes_on():
    environment = made()
    environment.reset(np.random.SeedSequence(1))
    for action in ACTIONS[:5]:
        environment.step(action)
    kept = environment.state()
    for action in ACTIONS[5:]:
        environment.step(action)
    assert [np.asarray(each["actions"]).tolist() for each in kept] == ACTIONS[:5].T.tolist()


def test_every_episode_has_a_seed_of_its_own():
    seeds = {episode_seed(seed, episode) for seed in range(40) for episode in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_of_episodes_depend_on_the_first_seed_and_not_on_the_actions(counting):
    env, other = Episodes(counting()), Episodes(counting())
    for each in (env, other):
        each.reset(seed=9)
    for _ in range(2):
        env.step(np.int64(0))
    for each in (env, other):
        each.reset()
    assert env.unwrapped.seeds == other.unwrapped.seeds == [episode_seed(9, 0), episode_seed(9, 1)]


class Slippery(gym.Env):
    """Shows nothing but zeros; `payment` tells what a step pays."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    payment = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.played = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.played += 1
        return np.zeros(1, np.float32), self.payment, self.played == 4, False, {}


def test_a_different_reward_is_noticed_even_if_the_observation_is_the_same(monkeypatch):
    environment = made(Slippery, 2)
    obs = environment.reset(np.random.SeedSequence(1)).copy()
    environment.step(np.zeros(2, np.int64))
    kept = [state | {"actions": np.asarray(state["actions"])} for state in environment.state()]
    assert environment.restore(kept, obs) == []
    monkeypatch.setattr(Slippery, "payment", 2.0)
    assert environment.restore(kept, obs) == [0, 1]


def test_an_action_that_the_environment_changes_is_kept_as_it_was_given():
    class Doubling(Slippery):
        action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

        def step(self, action):
            action *= 2
            return (*super().step(action)[:1], float(action.sum()), self.played == 4, False, {})

    environment = made(Doubling, 2)
    obs = environment.reset(np.random.SeedSequence(1)).copy()
    for _ in range(3):
        environment.step(np.full((2, 2), 0.25, np.float32))
    kept = [state | {"actions": np.asarray(state["actions"])} for state in environment.state()]
    assert np.unique(kept[0]["actions"]).tolist() == [0.25]
    assert environment.restore(kept, obs) == []


def test_native_restores_nothing():
    vector = find("CartPole-v1").make_restorable(2, Environment(backend="native"))
    assert vector.state() is None


@pytest.mark.parametrize("steps", [0, 3])
def test_a_state_is_plain_but_for_the_actions(steps):
    environment = made()
    environment.reset(np.random.SeedSequence(1))
    for action in ACTIONS[:steps]:
        environment.step(action)
    for state in environment.state():
        actions = np.asarray(state.pop("actions"))
        assert (actions.shape, actions.dtype) == ((steps,), np.int64)
        assert json.loads(json.dumps(state)) == state
