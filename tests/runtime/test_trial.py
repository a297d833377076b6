"""What a user's loss and optimizer are tried on before anything starts."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from troupe.algorithm.returns import AdvantageEMA
from troupe.config import UsageError, resolve
from troupe.environments import EnvironmentSource
from troupe.runtime.learning.loss_and_optimizer import LOSSES, OPTIMIZERS
from troupe.runtime.learning.trial import try_callables

CPU = torch.device("cpu")
BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def source(actions: gym.Space[Any] | None = None, masked: str = "") -> EnvironmentSource:
    spaces = BOX, actions or gym.spaces.Discrete(3)
    return EnvironmentSource("none", lambda: None, *spaces, masked=masked)  # type: ignore[arg-type, return-value]


def tried(loss: Any = None, on: Any = None, **settings: Any) -> Any:
    """What the loss was given: outputs, batch and keywords."""
    given: list[Any] = []

    def keep(outputs: Any, batch: Any, **keywords: Any) -> Any:
        given.append((outputs, batch, keywords))
        return outputs.value.sum(), {"a": torch.zeros(())}

    kind = LOSSES.named(loss or keep)
    try_callables(resolve("x", settings={"loss.kind": kind, **settings}, tuned=False), on or source(), CPU)
    return given[0] if given else None


def test_a_loss_is_tried_on_four_steps_of_two_environments_in_which_an_episode_ends():
    outputs, batch, _ = tried(**{"loss.gamma": 0.9, "novelty.coefficient": 0.0})
    assert batch.action.shape == batch.behaviour_log_prob.shape == batch.reward.shape == (4, 2)
    assert outputs.value.shape == (5, 2)
    assert outputs.bonus_value is None
    assert batch.bonus is None
    assert outputs.distribution.log_prob(batch.action).shape == (4, 2)
    ends, resets = torch.ones(4, 2), torch.ones(4, 2, dtype=torch.bool)
    ends[1, 0], resets[2, 0] = 0.0, False
    assert torch.equal(batch.trace, ends)
    torch.testing.assert_close(batch.discount, 0.9 * ends)
    assert torch.equal(batch.valid, resets)
    assert torch.equal(outputs.distribution.log_prob(batch.action), batch.behaviour_log_prob)
    assert len({*batch.reward.flatten().tolist(), *outputs.value.flatten().tolist()}) == 8 + 10


def test_where_novelty_is_sought_a_loss_is_tried_with_bonuses():
    outputs, batch, _ = tried(**{"novelty.coefficient": 0.5})
    assert outputs.bonus_value.shape == (5, 2)
    assert batch.bonus.reward.shape == batch.bonus.discount.shape == (4, 2)
    assert batch.bonus.discount.eq(1.0).all()
    assert batch.bonus.coefficient == 0.5


def test_a_loss_is_tried_with_the_masks_of_an_environment_that_has_some():
    outputs, batch, _ = tried(on=source(masked="obs"))
    assert outputs.distribution.log_prob(batch.action).isfinite().all()


def test_it_is_the_same_trial_each_time():
    """Without a seed a loss could pass today and fail tomorrow."""
    (_, first, _), (_, second, _) = tried(), tried()
    assert torch.equal(first.reward, second.reward)
    assert torch.equal(first.action, second.action)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_loss_that_averages_advantages_is_tried_with_an_average(decay):
    given: list[Any] = []

    def averages(outputs: Any, batch: Any, *, advantage_ema: Any = None) -> Any:
        given.append(advantage_ema)
        return outputs.value.sum(), {}, advantage_ema

    tried(averages, **{"learner.advantage_decay": decay})
    assert [isinstance(each, AdvantageEMA) for each in given] == [decay > 0]
    if decay:
        assert given[0].decay == 0.9


def test_a_scheduled_argument_has_its_value_at_the_beginning():
    given: list[float] = []

    def scheduled(outputs: Any, batch: Any, *, entropy_coefficient: float) -> Any:
        given.append(entropy_coefficient)
        return outputs.value.sum(), {}

    tried(scheduled, **{"loss.entropy_coefficient": 0.5, "loss.entropy_anneal_steps": 100})
    assert given == [0.5]


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no way back")


def value_of(outputs: Any) -> torch.Tensor:
    total: torch.Tensor = outputs.value.sum()
    return total


WRONG = {
    "no way back": (
        lambda outputs, batch: (Broken.apply(value_of(outputs)), {}),
        "its gradient raised Zero",
    ),
    "four things": (lambda outputs, batch: (value_of(outputs), {}, None, None), "it gave a tuple"),
    "one thing": (lambda outputs, batch: (value_of(outputs),), "it gave a tuple"),
    "an int": (lambda outputs, batch: 3, "it gave an int"),
    "rows": (lambda outputs, batch: (outputs.value, {}), "it gave a tensor of shape (5, 2)"),
    "no gradient": (lambda outputs, batch: (torch.zeros(()), {}), "it gave a tensor without a gradient"),
    "metrics": (
        lambda outputs, batch: (value_of(outputs), [1.0]),
        "its metrics must be a dict of scalar tensors; it",
    ),
    "a text": (lambda outputs, batch: (value_of(outputs), {"a": 1.0, "b": "x"}), "metrics['b'] is a str"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_that_does_not_do_what_it_must_is_refused(name):
    loss, says = WRONG[name]
    with pytest.raises(UsageError) as error:
        tried(loss)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


RIGHT = {
    "a list": lambda outputs, batch: [value_of(outputs), {}],
    "a third thing": lambda outputs, batch: (value_of(outputs), {}, None),
    "one number in a row": lambda outputs, batch: (value_of(outputs)[None], {"a": torch.ones(1), "b": 2}),
    "part of the outputs": lambda outputs, batch: (outputs.distribution.entropy().sum(), {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_loss_that_does_what_it_must_in_its_own_way_passes(name):
    tried(RIGHT[name])


class Plain:
    def __init__(self, weights: torch.Tensor):
        self.given = [weights.clone()]
        seen.append(self)

    def step(self, weights: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
        self.given += [weights, gradient, learning_rate]

    def state(self) -> Any:
        return {"count": torch.zeros(())}


seen: list[Plain] = []


def test_an_optimizer_is_tried_with_a_step_of_the_learning_rate():
    seen.clear()
    settings = {"learner.optimizer": OPTIMIZERS.named(Plain), "learner.learning_rate": 0.25}
    try_callables(resolve("x", settings=settings, tuned=False), source(), CPU)
    first, weights, gradient, rate = seen[0].given
    assert torch.equal(first, torch.zeros(8))
    assert torch.equal(weights, torch.zeros(8))
    assert torch.equal(gradient, torch.ones(8))
    assert rate == 0.25


def test_an_optimizer_whose_state_cannot_be_saved_is_refused_with_what_it_holds():
    class Own(Plain):
        def state(self) -> Any:
            return {"a": 1, "b": torch.zeros(2), "c": 0.5}

    settings = {"learner.optimizer": OPTIMIZERS.named(Own), "learner.average_decay": 0.0}
    with pytest.raises(UsageError) as error:
        try_callables(resolve("x", settings=settings, tuned=False), source(), CPU)
    holds = "{'a': 'an int', 'b': 'a tensor of shape (2,)', 'c': 'a float'}"
    assert str(error.value).endswith(f": its state() must be a dict of tensors; it gave {holds}")


def test_what_the_settings_of_an_optimizer_say_is_not_said_again():
    """A name in its state that a checkpoint has for something else."""

    class Own(Plain):
        def state(self) -> Any:
            return {"average": torch.zeros(2)}

    settings = {"learner.optimizer": OPTIMIZERS.named(Own)}
    with pytest.raises(UsageError, match=r"^optimizer: its state has the name 'average', which is taken"):
        try_callables(resolve("x", settings=settings, tuned=False), source(), CPU)
