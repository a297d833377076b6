"""What a policy can be: distributions over actions, with masks and the epsilon mixture.

`Categorical` for one discrete choice, `Gaussian` for real numbers, `Product` for several of these, independently;
`bounded` limits the parameters of one.
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Distribution(Protocol):
    """What actors and losses need of a policy, whatever its action space."""

    def __getitem__(self, rows: slice) -> "Distribution": ...

    def with_epsilon(self, epsilon: float | Float[Tensor, "*batch 1"]) -> "Distribution": ...

    def sample(self, generator: torch.Generator) -> Shaped[Tensor, "*shape"]: ...

    def mode(self) -> Shaped[Tensor, "*shape"]: ...

    def log_prob(self, action: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*batch"]: ...

    def entropy(self) -> Float[Tensor, "*batch"]: ...


@dataclass(frozen=True, slots=True)
class Categorical:
    """A distribution over A discrete actions, held as normalised log-probabilities in nats.

    `mask` is true where an action is allowed; None allows all. A forbidden action has log-probability
    -inf: it is never sampled, never the mode, and adds nothing to the entropy or to any gradient.
    """

    log_probs: Float[Tensor, "*batch A"]
    mask: Bool[Tensor, "*batch A"] | None = None

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*batch A"], mask: Bool[Tensor, "*batch A"] | None = None) -> Self:
        """At least one action must be allowed."""
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf)
        return cls(logits.log_softmax(-1), mask)

    def __getitem__(self, rows: slice) -> "Categorical":
        """The distributions of some rows of the first axis."""
        return Categorical(self.log_probs[rows], None if self.mask is None else self.mask[rows])

    def with_epsilon(self, epsilon: float | Float[Tensor, "*batch 1"]) -> "Categorical":
        """The mixture (1 - epsilon) pi + epsilon / |allowed actions|: what epsilon-greedy really plays."""
        if isinstance(epsilon, float) and epsilon == 0.0:
            return self
        exploiting = (1 - epsilon) * self.log_probs.exp()
        if self.mask is None:
            return Categorical((exploiting + epsilon / exploiting.shape[-1]).log())
        allowed = self.mask.sum(-1, keepdim=True, dtype=exploiting.dtype)
        mixture = (exploiting + epsilon / allowed).log()
        return Categorical(mixture.masked_fill(~self.mask, -math.inf), self.mask)

    def sample(self, generator: torch.Generator) -> Int[Tensor, "*batch"]:
        """Samples by an exponential race: argmin of Exp(1) / p, so that one call serves any batch."""
        race = torch.empty_like(self.log_probs).exponential_(generator=generator)
        return (self.log_probs - race.log()).argmax(-1)

    def mode(self) -> Int[Tensor, "*batch"]:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """H = - sum p log p >= 0, where the term of a forbidden action is 0 (and not 0 * -inf)."""
        finite = self.log_probs if self.mask is None else self.log_probs.masked_fill(~self.mask, 0.0)
        return -(self.log_probs.exp() * finite).sum(-1)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal distributions over D real numbers; log densities in nats, so the entropy may be negative."""

    mean: Float[Tensor, "*batch D"]
    log_std: Float[Tensor, "*batch D"]

    def __getitem__(self, rows: slice) -> "Gaussian":
        return Gaussian(self.mean[rows], self.log_std[rows])

    def with_epsilon(self, epsilon: float | Float[Tensor, "*batch 1"]) -> "Gaussian":
        """Unchanged: there is no uniform distribution over the real numbers to mix in. Its own width explores."""
        del epsilon
        return self

    def sample(self, generator: torch.Generator) -> Float[Tensor, "*batch D"]:
        return self.mean + self.log_std.exp() * torch.empty_like(self.mean).normal_(generator=generator)

    def mode(self) -> Float[Tensor, "*batch D"]:
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log of the product of exp(-z^2 / 2) / (std sqrt(2 pi)), z = (action - mean) / std."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - _HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """H = sum of log(std sqrt(2 pi e))."""
        return (self.log_std + 0.5 + _HALF_LOG_TAU).sum(-1)


_HALF_LOG_TAU = 0.5 * math.log(math.tau)


@dataclass(frozen=True, slots=True)
class Product:
    """Several independent distributions; an action is the row of all their actions, in order.

    A Categorical takes one column of the row, a Gaussian over D numbers takes D.
    """

    parts: tuple[Categorical | Gaussian, ...]

    def __getitem__(self, rows: slice) -> "Product":
        return Product(tuple(part[rows] for part in self.parts))

    def with_epsilon(self, epsilon: float | Float[Tensor, "*batch 1"]) -> "Product":
        """Each discrete choice is made at random with probability epsilon, independently of the others."""
        return Product(tuple(part.with_epsilon(epsilon) for part in self.parts))

    def sample(self, generator: torch.Generator) -> Shaped[Tensor, "*batch K"]:
        return self._joined([part.sample(generator) for part in self.parts])

    def mode(self) -> Shaped[Tensor, "*batch K"]:
        return self._joined([part.mode() for part in self.parts])

    def log_prob(self, action: Shaped[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
        widths = [part.mean.shape[-1] if isinstance(part, Gaussian) else 1 for part in self.parts]
        columns = action.split_with_sizes(widths, -1)
        return reduce(
            add,
            [
                part.log_prob(numbers if isinstance(part, Gaussian) else numbers.squeeze(-1).long())
                for part, numbers in zip(self.parts, columns, strict=True)
            ],
        )

    def entropy(self) -> Float[Tensor, "*batch"]:
        return reduce(add, [part.entropy() for part in self.parts])

    def _joined(self, actions: list[Tensor]) -> Shaped[Tensor, "*batch K"]:
        columns = zip(self.parts, actions, strict=True)
        return torch.cat([each if isinstance(part, Gaussian) else each.unsqueeze(-1) for part, each in columns], -1)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        result = x.clamp(low, high)
        ctx.save_for_backward(result - x)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (way_back,) = ctx.saved_tensors  # 0 between the bounds; descent goes against the gradient
        return gradient.masked_fill(gradient * way_back > 0, 0.0), None, None


def bounded(x: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """x.clamp(low, high), but beyond a bound the gradient is 0 only where descent would move x further out.

    clamp's own gradient is 0 everywhere beyond a bound: a parameter that has stepped over it never comes back.
    """
    result: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return result
