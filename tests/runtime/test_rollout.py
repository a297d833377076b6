"""The schema: what `check` refuses, and that cutting and joining rollouts loses nothing."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers.rollouts import check
from troupe.runtime.data.rollout import FIELDS, Rollout, RolloutSpec, allocate, columns, stack

IMAGE = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)


NUMBERS = (
    "obs", "action", "reward", "behaviour_log_prob", "horizon", "policy_version",
    "initial_state", "initial_action", "initial_reward",
)  # fmt: skip


def numbered(actor: int, steps: int = 3, environments: int = 2) -> Rollout:
    """Every number in it is another one, and says which actor it came from."""
    rollout = allocate(RolloutSpec(gym.spaces.Box(-1e9, 1e9, (2,), np.float64), steps, environments, state_size=4))
    for index, name in enumerate(NUMBERS):
        array = getattr(rollout, name)
        array[...] = 1000 * actor + 100 * index + np.arange(array.size).reshape(array.shape)
    rollout.valid[0, 0] = rollout.terminated[1, 1] = rollout.truncated[2, 0] = rollout.first[1, 0] = True
    rollout.life_lost[0, 1] = True
    return rollout


def test_observations_keep_the_environments_own_type_and_shape():
    rollout = allocate(RolloutSpec(IMAGE, steps=5, environments=2))
    assert (rollout.obs.dtype, rollout.obs.shape) == (np.uint8, (6, 2, 4, 4, 3))
    assert allocate(RolloutSpec(gym.spaces.Discrete(3), 5, 2)).obs.shape == (6, 2)
    check(rollout)


def test_memory_for_a_gpu_is_pinned_field_by_field_and_else_like_any_other(monkeypatch):
    """Where there is no GPU nothing can be pinned, so the call is watched; it gives a tensor of its own."""
    pinned = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    plain = allocate(RolloutSpec(IMAGE, 5, 2, state_size=3))
    assert pinned == []
    rollout = allocate(RolloutSpec(IMAGE, 5, 2, state_size=3), pinned=True)
    assert len(pinned) == len(FIELDS)
    addresses = {tensor.data_ptr() for tensor in pinned}
    for name in FIELDS:
        ours, expected = getattr(rollout, name), getattr(plain, name)
        assert ours.ctypes.data in addresses, name
        assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
        assert (ours == expected).all()
    check(rollout)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_another_shape_is_named(blank, name):
    rollout = blank(3, 2)
    setattr(rollout, name, np.zeros((7, 7)))
    with pytest.raises(ValueError, match=rf"rollout\.(reward|{name}|obs) has shape"):
        check(rollout)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_the_row_after_an_ending_must_be_an_invalid_one_without_reward(blank, ending):
    rollout = blank(3)
    getattr(rollout, ending)[0] = True
    with pytest.raises(ValueError, match=r"rollout\.valid is true on the row after"):
        check(rollout)
    rollout.valid[1] = False
    with pytest.raises(ValueError, match=r"rollout\.first must be true exactly after"):
        check(rollout)
    rollout.first[2] = True
    check(rollout)
    rollout.reward[1] = 1.0
    with pytest.raises(ValueError, match=r"rollout\.reward is not 0 on a reset row"):
        check(rollout)


def test_a_reset_row_cannot_end_an_episode(blank):
    rollout = blank(2)
    rollout.valid[1], rollout.first[2], rollout.terminated[1] = False, True, True
    with pytest.raises(ValueError, match=r"rollout\.valid is false on a row that ends"):
        check(rollout)


def test_no_reset_row_follows_a_lost_life(blank):
    rollout = blank(3)
    rollout.life_lost[0] = True
    check(rollout)
    assert rollout.steps == 3


def test_an_episode_cannot_begin_without_a_reset_row(blank):
    rollout = blank(3)
    rollout.first[2] = True
    with pytest.raises(ValueError, match=r"rollout\.first"):
        check(rollout)


def test_a_probability_above_one_is_no_probability(blank):
    with pytest.raises(ValueError, match=r"behaviour_log_prob is above 0"):
        check(blank(behaviour_log_prob=0.01))


def test_stacked_rollouts_keep_their_order():
    parts = [numbered(actor) for actor in (3, 1, 2)]
    joined = stack(parts)
    for number, part in enumerate(parts):
        again = columns(joined, np.array([2 * number, 2 * number + 1]))
        for name in FIELDS:
            assert (getattr(again, name) == getattr(part, name)).all(), name
            assert getattr(again, name).dtype == getattr(part, name).dtype


def test_a_stacked_rollout_is_a_copy_so_its_parts_can_be_filled_again():
    part = numbered(1)
    joined = stack([part])
    part.obs[:] = part.reward[:] = -1
    assert (joined.obs != -1).all()
    assert (joined.reward != -1).all()


def test_steps_are_the_valid_rows(blank):
    rollout = blank(4, 3)
    rollout.valid[1, 2] = rollout.valid[3, 0] = False
    assert rollout.steps == 10
