"""Packed observations: what goes in comes out, leaf by leaf in its own type, with its mask."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.environments.spaces import leaves

SPACES = gym.spaces
ACTIONS = Actions(SPACES.Discrete(5))
DTYPES = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64]


@st.composite
def leaf_spaces(draw: st.DrawFn) -> gym.Space:
    kind = draw(st.sampled_from(["box", "discrete", "multidiscrete", "multibinary"]))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    if kind == "box":
        return SPACES.Box(0, 100, shape, draw(st.sampled_from(DTYPES)))
    if kind == "discrete":
        return SPACES.Discrete(draw(st.integers(1, 9)), start=draw(st.integers(-5, 5)))
    if kind == "multidiscrete":
        return SPACES.MultiDiscrete(np.full(shape or (2,), 4))
    return SPACES.MultiBinary(shape or (3,))


NESTED = st.recursive(
    leaf_spaces(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(SPACES.Tuple),
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(SPACES.Dict),
    ),
    max_leaves=6,
)


def batched(space: gym.Space, number: int, seed: int) -> tuple[list[Any], Any]:
    space.seed(seed)
    each = [space.sample() for _ in range(number)]
    out = gym.vector.utils.create_empty_array(space, number)
    return each, gym.vector.utils.concatenate(space, each, out)


@given(space=NESTED, seed=st.integers(0, 1000), masked=st.booleans())
def test_unpacking_inverts_packing(space, seed, masked):
    packing = Packing(space, ACTIONS, "info" if masked else "")
    each, batch = batched(space, 3, seed)
    masks = np.random.default_rng(seed).random((3, 5)) < 0.5 if masked else None
    packed = packing.pack(batch, masks)
    assert packed.shape == (3, *(packing.space.shape or ()))
    assert packed.dtype == packing.space.dtype
    obs, out = packing.unpack(torch.from_numpy(packed))
    assert (out is not None) == masked
    if masked:
        assert out.tolist() == masks.tolist()
    for leaf in leaves(space):
        given_leaf, got = np.asarray(leaf.of(batch)), leaf.of(obs).numpy()
        assert got.dtype == leaf.space.dtype
        np.testing.assert_array_equal(got, given_leaf)
    for number, one in enumerate(each):
        np.testing.assert_array_equal(packing.pack_one(one, None if masks is None else masks[number]), packed[number])


@pytest.mark.parametrize(
    "space", [SPACES.Box(0, 255, (84, 84, 4), np.uint8), SPACES.Discrete(3), SPACES.MultiBinary(2)]
)
def test_one_leaf_without_a_mask_is_itself(space):
    _, batch = batched(space, 4, 0)
    packing = Packing(space, ACTIONS)
    assert packing.space == space
    assert packing.pack(batch) is batch or np.shares_memory(packing.pack(batch), batch)
    assert packing.unpack(torch.from_numpy(batch))[0].data_ptr() == batch.ctypes.data


def test_the_network_does_not_see_a_mask_in_the_observation():
    space = SPACES.Dict({"action_mask": SPACES.MultiBinary(5), "x": SPACES.Box(0, 1, (2,))})
    packing = Packing(space, ACTIONS, "observation")
    obs = {"action_mask": np.array([1, 0, 0, 1, 1], np.int8), "x": np.array([0.25, 0.5], np.float32)}
    seen, mask = packing.unpack(torch.from_numpy(packing.pack_one(obs, packing.mask(obs["action_mask"]))[None]))
    assert list(seen) == ["x"]
    assert seen["x"].tolist() == [[0.25, 0.5]]
    assert mask.tolist() == [[True, False, False, True, True]]


def test_masks_that_allow_nothing_are_refused_except_after_an_episodes_end():
    packing = Packing(SPACES.Discrete(2), ACTIONS, "info")
    with pytest.raises(ValueError, match="forbids every action"):
        packing.mask(np.zeros(5))
    assert packing.mask(np.zeros(5), over=True).all()
    assert packing.mask(None).all()


def test_of_several_choices_each_must_have_one_that_is_allowed():
    packing = Packing(SPACES.Discrete(2), Actions(SPACES.MultiDiscrete([2, 2])), "info")
    with pytest.raises(ValueError, match="forbids every action"):
        packing.mask(np.array([1, 1, 0, 0]))
    assert packing.mask(np.array([0, 1, 1, 0])).tolist() == [False, True, True, False]


def test_a_slice_of_packed_rows_is_unpacked_as_the_whole_is():
    """Learners cut columns out of rollouts; numbers of eight bytes must still lie where they can be read."""
    space = SPACES.Dict({"a": SPACES.Box(0, 1, (3,), np.float64), "b": SPACES.Box(0, 255, (1,), np.uint8)})
    packing = Packing(space, ACTIONS, "info")
    _, batch = batched(space, 12, 0)
    packed = torch.from_numpy(packing.pack(batch, np.ones((12, 5), np.bool_))).reshape(3, 4, -1)
    obs, _ = packing.unpack(packed[:, 1:3].flatten(0, 1))
    expected = batch["a"].reshape(3, 4, 3)[:, 1:3].reshape(6, 3)
    np.testing.assert_array_equal(obs["a"].numpy(), expected)
