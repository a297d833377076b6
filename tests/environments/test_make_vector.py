"""`troupe.make_vector`: environments as for training, in Gymnasium's own vector interface."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import troupe
from troupe import UsageError


def test_a_registered_environment_is_its_native_batch(counting):
    vector = troupe.make_vector("CartPole-v1", 3)
    assert isinstance(vector, VectorEnv)
    assert not isinstance(vector, SyncVectorEnv)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    obs, _ = vector.reset(seed=1)
    assert obs.shape == (3, 4)
    assert vector.step(np.zeros(3, int))[1].tolist() == [1.0, 1.0, 1.0]
    vector.close()


def test_a_callable_with_arguments_a_limit_and_wrappers_as_for_train(counting):
    vector = troupe.make_vector(counting, 2, settings={"env.max_steps": 2}, env_kwargs={"actions": 5})
    assert vector.single_action_space == gym.spaces.Discrete(5)
    first, _ = vector.reset(seed=0)
    kept = first.copy()
    second, rewards, _, truncated, _ = vector.step(np.array([3, 4]))
    assert rewards.tolist() == [3.0, 4.0]
    assert not truncated.any()
    assert vector.step(np.array([0, 0]))[3].all()
    assert np.array_equal(first, kept)  # what it returned before is not overwritten
    assert not np.array_equal(first, second)
    vector.close()


@pytest.mark.parametrize(
    ("env", "count", "expected"),
    [
        ("CartPol-v1", 1, "no environment 'CartPol-v1'; did you mean CartPole-v1?"),
        ("CartPole-v1", 0, "num_envs = 0: expected a whole number of at least 1"),
    ],
)
def test_bad_input(env, count, expected):
    with pytest.raises(UsageError) as caught:
        troupe.make_vector(env, count)
    assert str(caught.value).startswith(expected)
