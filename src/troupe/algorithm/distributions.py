"""What a policy can be: the distribution over actions, with masks and the epsilon mixture."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
        """Draws by exponential races: argmin of Exp(1) / p, so that one call serves any batch."""
        race = torch.empty_like(self.log_probs).exponential_(generator=generator)
        return (self.log_probs - race.log()).argmax(-1)

    def mode(self) -> Int[Tensor, "*batch"]:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """H = - sum p log p >= 0, where a forbidden action counts 0 (and not 0 * -inf)."""
        finite = self.log_probs if self.mask is None else self.log_probs.masked_fill(~self.mask, 0.0)
        return -(self.log_probs.exp() * finite).sum(-1)
