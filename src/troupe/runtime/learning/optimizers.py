"""The optimizer that settings ask for."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.optimizers import Adam, Averaged, Optimizer, RMSProp
from troupe.config import Learner, UsageError

OPTIMIZERS: Mapping[str, Callable[[Tensor, Learner], Optimizer]] = {
    "adam": lambda weights, config: Adam(weights, epsilon=config.epsilon),
    "rmsprop": lambda weights, config: RMSProp(
        weights, decay=config.decay, epsilon=config.epsilon, initial_accumulator=config.initial_accumulator
    ),
}


def build_optimizer(config: Learner, weights: Float[Tensor, " P"], fixed: Sequence[slice] = ()) -> Optimizer:
    """`fixed` are the parts of `weights` that no gradient reaches. Raises UsageError for an unknown name."""
    if config.optimizer not in OPTIMIZERS:
        raise UsageError(
            f"learner.optimizer = '{config.optimizer}': no such optimizer (there are {', '.join(OPTIMIZERS)})"
        )
    optimizer = OPTIMIZERS[config.optimizer](weights, config)
    return Averaged(optimizer, weights, config.average_decay, fixed) if config.average_decay else optimizer
