"""Actions as rows: every action of every space has one, and what leaves a Box is clipped on its way out only."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.config import UsageError
from troupe.environments.actions import Actions

SPACES = gym.spaces
NESTED = SPACES.Dict(
    {
        "turn": SPACES.Discrete(3, start=-1),
        "arm": SPACES.Tuple((SPACES.Box(-2, 4, (2, 2), np.float32), SPACES.MultiBinary(3))),
        "tool": SPACES.MultiDiscrete([2, 5], start=[1, 10]),
    }
)
ALL = [
    SPACES.Discrete(4),
    SPACES.Discrete(4, start=7),
    SPACES.Box(-1, 1, (3,), np.float32),
    SPACES.Box(0, 10, (), np.float64),
    SPACES.MultiDiscrete([3, 2], start=[5, 0]),
    SPACES.MultiDiscrete([[3, 2], [4, 4]]),
    SPACES.MultiBinary((2, 2)),
    SPACES.Box(-128, 127, (2, 2), np.int8),
    SPACES.Box(5, 9, (), np.uint64),
    SPACES.Box(0, 1, (3,), np.bool_),
    SPACES.Tuple([SPACES.Discrete(2)]),
    NESTED,
]


@pytest.mark.parametrize("space", ALL, ids=str)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_random_row_is_an_action_of_its_space_alone_and_in_a_batch(space, seed):
    actions = Actions(space)
    rows = actions.random(np.random.default_rng(seed), 5)
    assert rows.shape == (5, *actions.shape)
    assert rows.dtype == actions.dtype
    vector = gym.vector.utils.batch_space(space, 5)
    batch = actions.to_environment(rows)
    for number, one in enumerate(gym.vector.utils.iterate(vector, batch)):
        assert space.contains(one), one
        assert space.contains(actions.one(rows[number]))
        again, first = (SPACES.flatten(space, each) for each in (actions.one(rows[number]), one))
        np.testing.assert_array_equal(again, first)


def test_a_row_has_the_parts_of_a_nested_space_in_its_own_order():
    """Gymnasium sorts a Dict by its keys: arm, tool, turn."""
    row = np.array([[-1, 1, 0, 0.5, 1, 0, 1, 1, 4, 2]], np.float32)
    action = Actions(NESTED).to_environment(row)
    assert action["turn"].tolist() == [1]
    assert action["arm"][0].tolist() == [[[-2, 4], [1, 2.5]]]
    assert action["arm"][1].tolist() == [[1, 0, 1]]
    assert action["tool"].tolist() == [[2, 14]]
    assert Actions(NESTED).mask_size == 3 + 3 * 2 + 2 + 5


def test_between_two_bounds_minus_one_and_one_are_the_bounds_and_beyond_them_it_is_clipped():
    space = SPACES.Box(np.array([0, -3], np.float32), np.array([10, -1], np.float32))
    rows = np.array([[-1, -1], [1, 1], [0, 0.5], [7, -7]], np.float32)
    assert Actions(space).to_environment(rows).tolist() == [[0, -3], [10, -1], [5, -1.5], [10, -3]]
    assert rows[3].tolist() == [7, -7]  # what was drawn stays as it is


def test_without_two_bounds_a_number_is_in_the_environments_unit_and_clipped_at_its_bound():
    space = SPACES.Box(np.array([-np.inf, 0, -np.inf], np.float32), np.array([np.inf, np.inf, 2], np.float32))
    rows = np.array([[100, 100, 100], [-100, -100, -100]], np.float32)
    assert Actions(space).to_environment(rows).tolist() == [[100, 100, 2], [-100, 0, -100]]


def test_the_largest_numbers_there_are_as_bounds_are_no_bounds():
    """Half their distance is infinite, and 0 times that no number."""
    for dtype in (np.float32, np.float64):
        most = np.finfo(dtype).max
        actions = Actions(SPACES.Box(-most, most, (2,), dtype))
        assert actions.to_environment(np.array([[0.0, 0.5]], np.float32)).tolist() == [[0.0, 0.5]]


def test_each_number_of_a_box_of_integers_is_a_choice():
    space = SPACES.Box(np.array([-2, 5]), np.array([0, 6]), dtype=np.int16)
    actions = Actions(space)
    assert actions.countable
    assert [part.choices for part in actions.parts] == [3, 2]
    batch = actions.to_environment(np.array([[0, 0], [2, 1]]))
    assert batch.tolist() == [[-2, 5], [0, 6]]
    assert batch.dtype == np.int16
    assert actions.mask([1, 0, 1, 0, 1]).tolist() == [True, False, True, False, True]


def test_random_rows_keep_to_masks():
    actions = Actions(SPACES.MultiDiscrete([3, 2]))
    masks = np.array([[False, True, False, True, True]] * 2000)
    rows = actions.random(np.random.default_rng(0), 2000, masks)
    assert set(rows[:, 0]) == {1}
    assert abs(rows[:, 1].mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    "given_mask",
    [
        np.array([1, 0, 1, 0, 1]),
        [True, False, True, False, True],
        (np.array([1, 0, 1], np.int8), np.array([0, 1], np.int8)),
        {"first": np.array([1, 0, 1]), "second": [0, 1]},
        (np.array([1, 0, 1]), None, np.array([0, 1])),
    ],
    ids=["array", "list", "tuple", "dict", "nothing for a box"],
)
def test_a_mask_may_be_one_array_or_one_for_each_choice(given_mask):
    assert Actions(SPACES.MultiDiscrete([3, 2])).mask(given_mask).tolist() == [True, False, True, False, True]


def test_a_nested_mask_is_read_in_the_order_of_the_space_and_not_in_its_own():
    """Gymnasium sorts a Dict: arm before turn. Whoever writes turn first means turn all the same."""
    space = SPACES.Dict({"turn": SPACES.Discrete(3), "arm": SPACES.Tuple([SPACES.Discrete(2), SPACES.Box(-1, 1)])})
    written = {"turn": np.array([1, 1, 0]), "arm": ([0, 1], None)}
    assert Actions(space).mask(written).tolist() == [False, True, True, True, False]
    assert Actions(space).mask({"arm": (np.array([0, 1]), None), "turn": [1, 1, 0]}).tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="has an entry 'leg', which is not part of the action"):
        Actions(space).mask(written | {"leg": [1]})


def test_a_mask_of_another_length_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="has 4 entries, expected 5"):
        Actions(SPACES.MultiDiscrete([3, 2])).mask(np.ones(4))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (SPACES.Text(3), "action space Text"),
        (SPACES.Tuple([SPACES.Discrete(2), SPACES.Sequence(SPACES.Discrete(2))]), r"Sequence.* at \[1\]"),
        (
            SPACES.Box(0, 1024, (2,), np.int64),
            "among at most 1,024, and here among 1,025; declare closer",
        ),
        (SPACES.Box(0, 1, (0,)), "it holds no numbers"),
        (SPACES.OneOf([SPACES.Discrete(2), SPACES.Discrete(3)]), r"action space OneOf\(Discrete"),
        (SPACES.Tuple([]), "it has no action"),
    ],
)
def test_unsupported_spaces_are_refused_by_name(space, message):
    with pytest.raises(UsageError, match=message) as caught:
        Actions(space)
    assert len(str(caught.value).splitlines()) == 1
