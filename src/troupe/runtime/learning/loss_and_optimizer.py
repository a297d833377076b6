"""The loss and the optimizer that settings choose."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

from jaxtyping import Float
from torch import Tensor

from troupe.algorithm import losses
from troupe.algorithm.losses import LossOutput
from troupe.algorithm.optimizers import Adam, Averaged, Optimizer, RMSProp
from troupe.config import Learner, Loss, UsageError
from troupe.user_code.choices import Choice

LossFunction = Callable[..., LossOutput]  # of Outputs and Batch
LOSSES = Choice(
    "loss",
    setting="loss.kind",
    if_changed="the run continues with another loss",
    kwargs="loss.kwargs",
    builtin={"a3c": losses.a3c, "impala": losses.impala, "appo": losses.appo},
    leading=2,  # outputs and batch
    shared=[each.name for each in fields(Loss) if each.name not in ("kind", "kwargs", "reduction")],
    passed=["advantage_ema"],
)
OPTIMIZERS = Choice(
    "optimizer",
    setting="learner.optimizer",
    if_changed="the run continues with another optimizer",
    kwargs="learner.optimizer_kwargs",
    builtin={"adam": Adam, "rmsprop": RMSProp},
    leading=1,  # the weights
    shared=["epsilon", "decay", "initial_accumulator"],
)
_TAKEN = {"average", "moments", "statistics"}  # names in a checkpoint that are not the optimizer's


def build_loss(config: Loss) -> LossFunction:
    """The loss with its settings. Raises UsageError where there is no such loss, or its arguments do not fit."""
    return LOSSES.bind(config.kind, config, config.kwargs)


def optimizer_maker(config: Learner, fixed: Sequence[slice] = ()) -> Callable[[Float[Tensor, " P"]], Optimizer]:
    """What makes an optimizer of the weights that it is to change, of which no gradient reaches the `fixed` parts.

    Raises UsageError where there is no such optimizer, or its arguments do not fit.
    """
    make = OPTIMIZERS.bind(config.optimizer, config, config.optimizer_kwargs)
    return partial(_make, make, config.average_decay, fixed)


def _make(
    make: Callable[..., Optimizer], decay: float, fixed: Sequence[slice], weights: Float[Tensor, " P"]
) -> Optimizer:
    optimizer = make(weights)
    if taken := _TAKEN & optimizer.state().keys():
        raise UsageError(f"optimizer: its state has the name '{min(taken)}', which is taken; give it another")
    return Averaged(optimizer, weights, decay, fixed) if decay else optimizer
