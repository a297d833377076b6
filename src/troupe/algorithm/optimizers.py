"""Adam and RMSProp on one flat vector of weights, and an exponential moving average of the weights.

Not the classes of torch.optim, for two measured reasons: creating any of them imports the compiler (1.1 s and
70 MB, as long as a whole CartPole run trains), and on small networks one flat vector is updated several times faster
than a list of tensors. And RMSProp comes in variants that must not be confused: the place of epsilon and the
initial value of the accumulator are stated here and tested.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Optimizer(Protocol):
    """What an optimizer must provide. It is constructed with the weights and keeps its state in tensors.

    Saving, loading and sharing between processes go through `state` (the functions below). docs/extending.md has an
    example.
    """

    def step(self, weights: Float[Tensor, " P"], gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        """Changes `weights`, and its own state, in place."""

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies, by name: all that `step` reads and changes besides the weights."""


def load_state(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Gives `optimizer` the values of `saved`, which may hold more than its state."""
    for name, tensor in optimizer.state().items():
        tensor.copy_(saved[name])


def share_state(optimizer: Optimizer, shared: Mapping[str, Tensor]) -> None:
    """Moves the state of `optimizer` into the memory of `shared`, whatever values that holds."""
    for name, tensor in optimizer.state().items():
        tensor.set_(shared[name])  # type: ignore[call-overload]


def eval_weights(optimizer: Optimizer, weights: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """The weights to evaluate and to save: `weights`, or their average if the optimizer keeps one."""
    return optimizer.eval_weights(weights) if isinstance(optimizer, Averaged) else weights


class Adam:
    """Kingma & Ba 2015, algorithm 1, with bias correction; epsilon outside the root."""

    def __init__(
        self, weights: Float[Tensor, " P"], *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ):
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros((), dtype=torch.int64)

    def step(self, weights: Float[Tensor, " P"], gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        self.steps += 1
        steps = self.steps.to(weights.device, torch.float32)
        # The kernel of torch.optim.Adam(fused=True): one pass over memory, three times as fast as the formula's seven
        # operations. torch's public function first groups tensors by device, which takes 50 us, two thirds of a step
        # of a small network.
        torch._fused_adam_(
            [weights], [gradient], [self.mean], [self.square], [], [steps], lr=learning_rate,
            beta1=self.beta1, beta2=self.beta2, weight_decay=0.0, eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "square": self.square, "steps": self.steps}


class RMSProp:
    """g <- decay g + (1 - decay) d^2; w <- w - rate d / sqrt(g + epsilon): epsilon *inside* the root.

    As in Mnih et al. 2016 (eq. S2, S3) and TensorFlow 1; torch.optim.RMSprop has it outside. The
    accumulator starts from `initial_accumulator`: 0 in the paper, 1 in TensorFlow 1 and therefore in the article, where
    it makes the first few hundred steps small.
    """

    def __init__(
        self,
        weights: Float[Tensor, " P"],
        *,
        decay: float = 0.99,
        epsilon: float = 0.1,
        initial_accumulator: float = 0.0,
    ):
        self.decay, self.epsilon = decay, epsilon
        self.square = torch.full_like(weights, initial_accumulator)

    def step(self, weights: Float[Tensor, " P"], gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        self.square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        weights.addcdiv_(gradient, (self.square + self.epsilon).sqrt_(), value=-learning_rate)

    def state(self) -> dict[str, Tensor]:
        return {"square": self.square}


class Averaged:
    """Another optimizer, with an exponential moving average of the weights.

    Large steps on noisy gradients scatter the newest weights around the optimum; the average is nearer to it. Learning
    continues from the newest weights as if there were no average.

    `fixed` are the slices of parameters that no gradient reaches, such as the normaliser's statistics: for these
    `eval_weights` returns the newest values, never the average.
    """

    def __init__(self, inner: Optimizer, weights: Float[Tensor, " P"], decay: float, fixed: Sequence[slice] = ()):
        self._inner, self._decay, self._fixed = inner, decay, fixed
        self.average = weights.clone()

    def eval_weights(self, weights: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        average = self.average.clone()
        for part in self._fixed:
            average[part] = weights[part]
        return average

    def step(self, weights: Float[Tensor, " P"], gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        self._inner.step(weights, gradient, learning_rate)
        self.average.lerp_(weights, 1 - self._decay)

    def state(self) -> dict[str, Tensor]:
        return self._inner.state() | {"average": self.average}


def clip_by_norm(gradient: Float[Tensor, " P"], limit: float) -> float:
    """Scales the gradient in place so that its Euclidean norm is at most `limit`; returns the norm it had.

    A norm that is not finite is returned as it is and nothing is scaled: the caller must not apply that gradient.
    """
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > limit and norm != float("inf"):
        gradient.mul_(limit / norm)
    return norm
