"""Calls the user's loss and optimizer once on made-up numbers, before anything starts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from troupe.algorithm.losses import Batch, Bonus, Outputs
from troupe.algorithm.returns import AdvantageEMA
from troupe.config import Learner, TrainConfig, UsageError, one_line
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import PolicyHead
from troupe.runtime.learning.annealing import loss_schedules
from troupe.runtime.learning.learner import Objective
from troupe.runtime.learning.loss_and_optimizer import LOSSES, OPTIMIZERS, optimizer_maker
from troupe.runtime.metric_means import MetricMeans, means_of
from troupe.user_code.guard import user_code

_T, _B = 4, 2
_WEIGHTS = 8


def try_callables(config: TrainConfig, source: EnvironmentSource, device: torch.device) -> None:
    """Raises UsageError, in a line that names the callable, if the user's loss or optimizer does not do what it
    must."""
    with torch.random.fork_rng(devices=[]):
        if not LOSSES.is_builtin(config.loss.kind):
            _try_loss(config, source, device)
        if not OPTIMIZERS.is_builtin(config.learner.optimizer):
            _try_optimizer(config.learner, device)


def _try_loss(config: TrainConfig, source: EnvironmentSource, device: torch.device) -> None:
    name, objective = f"loss {LOSSES.shown(config.loss.kind)}", Objective.of(config.loss, loss_schedules(config))
    outputs, batch, learned = _made_up(config, source, device)
    keywords = objective.keywords(0)
    if config.learner.advantage_decay and objective.averages_advantages:
        keywords["advantage_ema"] = AdvantageEMA.start(config.learner.advantage_decay, device)
    try:
        with user_code():
            given = objective.loss(outputs, batch, **keywords)
    except Exception as error:
        raise UsageError(f"{name}: called with a batch of T = {_T}, B = {_B} it raised {one_line(error)}") from error
    expected = f"{name}: it must return (a scalar tensor with a gradient, metrics)"
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise UsageError(f"{expected}; it gave {_kind(given)}")
    loss, metrics, *_ = given
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UsageError(f"{expected}; it gave {_kind(loss)}")
    try:
        torch.autograd.grad(loss, learned, allow_unused=True)
    except Exception as error:
        raise UsageError(f"{name}: its gradient raised {one_line(error)}") from error
    if not isinstance(metrics, Mapping):
        raise UsageError(f"{name}: its metrics must be a dict of scalar tensors; it gave {_kind(metrics)}")
    for key, value in metrics.items():
        means = MetricMeans()
        try:
            means.add({key: value}, 1)
            means_of(means.take())
        except Exception:
            wrong = f"metrics[{key!r}] is {_kind(value)}"
            raise UsageError(f"{name}: its metrics must be a dict of scalar tensors; {wrong}") from None


def _made_up(
    config: TrainConfig, source: EnvironmentSource, device: torch.device
) -> tuple[Outputs, Batch, list[Tensor]]:
    """A rollout of random numbers, in which an episode ends and a reset row follows; and the tensors in it that have
    gradients."""
    random, head = torch.Generator().manual_seed(0), PolicyHead(source.actions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    parameters = normal(_T + 1, _B, head.parameters)
    mask = torch.ones(_T + 1, _B, source.actions.mask_size, dtype=torch.bool) if source.masked else None
    acted = head(parameters, mask)[:_T]
    action = acted.sample(random)
    trace, valid = torch.ones(_T, _B), torch.ones(_T, _B, dtype=torch.bool)
    trace[1, 0], valid[2, 0] = 0.0, False
    novel = config.novelty.coefficient > 0
    bonus = Bonus(normal(_T, _B).to(device), torch.ones(_T, _B, device=device), config.novelty.coefficient)
    batch = Batch(
        action=action.to(device),
        behaviour_log_prob=acted.log_prob(action).to(device),
        reward=normal(_T, _B).to(device),
        discount=(config.loss.gamma * trace).to(device),
        trace=trace.to(device),
        valid=valid.to(device),
        bonus=bonus if novel else None,
    )
    values = [normal(_T + 1, _B) for _ in range(1 + novel)]  # of rewards, and of bonuses
    learned = [each.to(device).requires_grad_() for each in (parameters, *values)]
    distribution = head(learned[0], None if mask is None else mask.to(device))[:_T]
    return Outputs(distribution, *learned[1:]), batch, learned


def _try_optimizer(config: Learner, device: torch.device) -> None:
    name = f"optimizer {OPTIMIZERS.shown(config.optimizer)}"
    weights, gradient = torch.zeros(_WEIGHTS, device=device), torch.ones(_WEIGHTS, device=device)
    try:
        with user_code():
            optimizer = optimizer_maker(config)(weights)
            optimizer.step(weights, gradient, config.learning_rate)
            state = optimizer.state()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: tried on {_WEIGHTS} weights it raised {one_line(error)}") from error
    if not all(isinstance(value, Tensor) for value in state.values()):
        wrong = {key: _kind(value) for key, value in state.items()}
        raise UsageError(f"{name}: its state() must be a dict of tensors; it gave {wrong}")


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        name = type(value).__name__
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    return "a scalar tensor" if value.requires_grad else "a tensor without a gradient"
