"""What an environment may do wrong, each in one line with its index, the step and the field."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from troupe.config import Environment, UsageError
from troupe.environments import EnvironmentFailed, VectorEnvironment, find

SPACES = gym.spaces
SEEDS = np.random.SeedSequence(1)


class Rich(gym.Env[Any, int]):
    """Nested observations and a mask; `spoil(step, obs, info)` changes what is shown."""

    observation_space = SPACES.Dict(
        {
            "place": SPACES.Box(-1, 1, (2,), np.float32),
            "card": SPACES.Discrete(4, start=1),
            "more": SPACES.Tuple([SPACES.MultiBinary(2), SPACES.MultiDiscrete([2, 3])]),
        }
    )
    action_space = SPACES.Discrete(3)

    def __init__(self, spoil: Callable[[int, dict[str, Any], dict[str, Any]], None], reward: Any = 1.0):
        self.spoil, self.reward, self.steps = spoil, reward, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._show()

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return (*self._show()[:1], self.reward, self.steps % 5 == 0, False, self._show()[1])

    def _show(self) -> tuple[Any, dict[str, Any]]:
        obs = {
            "place": np.zeros(2, np.float32), "card": 2,
            "more": (np.array([0, 1], np.int8), np.array([1, 2])),
        }  # fmt: skip
        info = {"action_mask": np.array([1, 0, 1], np.int8)}
        self.spoil(self.steps, obs, info)
        return obs, info


def fine(step: int, obs: dict[str, Any], info: dict[str, Any]) -> None:
    """Nothing is wrong."""


def two(spoil: Callable[[int, dict[str, Any], dict[str, Any]], None], reward: Any = 1.0) -> VectorEnvironment:
    """The second of two environments is changed by `spoil`."""
    made = iter([Rich(fine), Rich(fine), Rich(spoil, reward)])  # the first is only looked at

    def rich() -> Rich:
        return next(made)

    rich.__qualname__ = "rich"
    return find(rich).make_vector(2, Environment())


def failure(environment: VectorEnvironment) -> str:
    with pytest.raises(EnvironmentFailed) as caught:  # noqa: PT012
        environment.reset(SEEDS)
        for _ in range(9):
            environment.step(np.zeros(2, np.int64))
    (line,) = str(caught.value).splitlines()
    return line


def at(step: int, name: str, value: Any) -> Callable[..., None]:
    def spoil(now: int, obs: dict[str, Any], info: dict[str, Any]) -> None:
        if now == step:
            (info if name == "action_mask" else obs)[name] = value

    return spoil


AT = "environment python:rich[1], step"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (at(3, "place", np.array([0, np.nan], np.float32)), f"{AT} 3: the observation['place'] holds nan"),
        (at(2, "place", np.array([np.inf, 0], np.float32)), f"{AT} 2: the observation['place'] holds inf"),
        (at(0, "card", 7), f"{AT} 0: the observation['card'] holds 7, which is not in Discrete(4, start=1)"),
        (
            at(2, "more", (np.array([0, 2], np.int8), np.array([1, 2]))),
            f"{AT} 2: the observation['more'][0] holds 2, which is not in MultiBinary(2)",
        ),
        (
            at(2, "more", (np.array([0, 1], np.int8), np.array([1, 3]))),
            f"{AT} 2: the observation['more'][1] holds 3, which is not in MultiDiscrete([2 3])",
        ),
        (at(3, "place", np.zeros(3, np.float32)), f"{AT} 3: the observation['place'] has shape (3,), its space (2,)"),
        (at(3, "action_mask", np.zeros(3)), f"{AT} 3: action_mask forbids every action"),
    ],
)
def test_errors_name_environment_step_and_field(spoil, message):
    assert failure(two(spoil)) == message


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("much", "the reward 'much' (str): expected a number"),
        (None, "the reward None (NoneType): expected a number"),
        ((1, 2), "a reward of shape (2,): expected one number; a wrapper can combine several objectives (mo-"),
    ],
)
def test_a_reward_that_is_no_number_is_named(reward, message):
    assert failure(two(fine, reward)).startswith(f"{AT} 1: step returned {message}")


def test_a_mask_of_another_length_is_named():
    """Gymnasium gathers masks of one length only: the first of another cannot be put beside them."""
    line = failure(two(at(3, "action_mask", np.ones(4))))
    assert "python:rich" in line


def test_finite_numbers_outside_a_box_are_reported_once_and_allowed():
    environment = two(lambda step, obs, info: obs.update(place=np.array([0, 1.5], np.float32)) if step > 2 else None)
    environment.reset(SEEDS)
    for _ in range(8):
        packed = environment.step(np.zeros(2, np.int64)).obs
    assert list(environment.notices.values()) == [
        f"{AT} 3: the observation['place'] holds 1.5, which is not between its bounds, -1.0 and 1.0"
    ]
    assert packed.shape[0] == 2


def test_a_number_outside_a_box_is_reported_with_its_bounds():
    """Not with those of all: of a robot they fill a dozen lines."""

    class Robot(gym.Env[Any, Any]):
        observation_space = SPACES.Box(-np.arange(1, 31, dtype=np.float32), np.arange(1, 31, dtype=np.float32))
        action_space = SPACES.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.full(30, 2.5, np.float32).clip(max=np.where(np.arange(30) == 1, 2.5, 1.0)), {}

        def step(self, action: Any) -> Any:
            return self.reset()[0], 0.0, False, False, {}

    environment = find(Robot).make_vector(2, Environment())
    environment.reset(SEEDS)
    (notice,) = environment.notices.values()
    assert notice.endswith("Robot[0], step 0: the observation holds 2.5, which is not between its bounds, -2.0 and 2.0")


def test_if_a_reset_fails_environments_without_an_observation_are_not_blamed():
    made = iter([Rich(fine), Rich(fine), Rich(at(0, "action_mask", np.ones(4))), Rich(fine)])

    def rich() -> Rich:
        return next(made)

    with pytest.raises(EnvironmentFailed) as caught:
        find(rich).make_vector(3, Environment()).reset(SEEDS)
    assert "has no entry" not in str(caught.value)


def test_masks_are_the_environments_and_all_true_after_an_episodes_end():
    environment = two(lambda step, obs, info: info.update(action_mask=np.array([0, 1, 0])) if step != 5 else None)
    packing = find(lambda: Rich(fine)).packing

    def masks(packed: np.ndarray) -> list[list[int]]:
        return packed[:, packing._ends[-2] : packing._ends[-2] + 3].tolist()

    assert masks(environment.reset(SEEDS)) == [[1, 0, 1], [0, 1, 0]]
    for step in range(1, 8):
        packed = environment.step(np.zeros(2, np.int64)).obs
        over = step % 6 == 5  # after five steps, and the row after that is the reset
        assert masks(packed)[0] == ([1, 1, 1] if over else [1, 0, 1])


def test_masks_that_come_after_the_first_reset_are_ignored_with_a_notice():
    class Late(Rich):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset()[0], {}

    environment = find(partial(Late, fine)).make_vector(2, Environment())
    environment.reset(SEEDS)
    assert not environment.notices
    environment.step(np.zeros(2, np.int64))
    assert list(environment.notices.values()) == [
        "environment python:partial: action_mask is in the info of steps and not of resets: ignored"
    ]


def test_a_first_reset_that_fails_is_reported_before_anything_starts():
    class Broken(gym.Env[Any, Any]):
        observation_space, action_space = SPACES.Discrete(2), SPACES.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise OSError("no\n map")

    with pytest.raises(UsageError) as caught:
        find(Broken)
    assert str(caught.value).endswith("Broken: reset raised OSError: no map")


@pytest.mark.parametrize(
    "space",
    [
        SPACES.Text(3),
        SPACES.Dict({"a": SPACES.Graph(SPACES.Discrete(2), None)}),
        pytest.param(
            SPACES.Box(0, 1, (2,), np.longdouble),
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="it is a float64 here"),
        ),
    ],
    ids=str,
)
def test_a_space_that_is_not_supported_is_refused_by_name(space):
    class Odd(gym.Env[Any, Any]):
        observation_space, action_space = space, SPACES.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return None, {}

    with pytest.raises(UsageError, match=r"observation space (Text|Graph|Box).* is not supported"):
        _ = find(Odd).packing
