"""Returns and advantages of each step: n-step returns, the lambda-return (GAE), V-trace, normalisation; on [T, B].

One convention throughout: row t holds the observation s_t, the action a_t and the reward r_t received
after it. Two factors describe what follows row t:

    discount[t] = gamma * (1 - terminated[t])                  may the value of s_{t+1} be used?
    trace[t]    = 1 - (terminated[t] | truncated[t])           is row t+1 the same episode?

A time limit therefore keeps its discount (it bootstraps from the final observation, which is at
t+1) and loses its trace. `value` has T+1 rows; its last one is the bootstrap value.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class VTrace(NamedTuple):
    """Targets and advantages of V-trace, constants with respect to the weights."""

    target: Float[Tensor, "T B"]
    advantage: Float[Tensor, "T B"]


def reverse_scan(x: Float[Tensor, "T B"], decay: Float[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """Returns y_t = x_t + decay_t * y_{t+1} with y_T = 0.

    In ceil(log2 T) vector operations instead of T (Hillis & Steele 1986): the recursion behind every
    estimator here is linear, so spans of rows can be doubled. After a round, `weight[t]` is the product
    of `decay` over the span that y[t] already covers.
    """
    y, weight, span = x.clone(), decay, 1
    while span < len(y):
        y[:-span] += weight[: len(y) - span] * y[span:]
        weight = weight[:-span] * weight[span:]
        span *= 2
    return y


def lambda_return(
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    trace: Float[Tensor, "T B"],
    value: Float[Tensor, "T+1 B"],
    lam: float,
) -> Float[Tensor, "T B"]:
    """Returns G_t = r_t + discount_t ((1 - lam trace_t) V_{t+1} + lam trace_t G_{t+1}).

    The lambda-return (Sutton & Barto 2018, eq. 12.18 with boundaries). G - V is the generalised
    advantage estimate (Schulman et al. 2016, eq. 16), whose recursion is the one computed here. With lam = 1 it is
    the longest n-step return of each row, to its episode's end or the rollout's (Mnih et al. 2016, algorithm S3).
    """
    delta = reward + discount * value[1:] - value[:-1]
    return reverse_scan(delta, lam * discount * trace) + value[:-1]


def vtrace(
    log_rho: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    trace: Float[Tensor, "T B"],
    value: Float[Tensor, "T+1 B"],
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
) -> VTrace:
    """V-trace targets v_t and the advantages that go with them (Espeholt et al. 2018, eq. 1).

    `log_rho` = log pi(a|s) - log mu(a|s). rho decides what is estimated (the fixed point), c how far
    the correction travels; each has its own clip. The advantage is that of section 4.2,
    r_t + discount_t q_{t+1} - V_t with q between V and v by `lam`; it is *not* multiplied by rho: how to
    weight it is left to the loss. With pi = mu it is GAE(lam) and v is the lambda-return.
    """
    rho = log_rho.exp()
    c = lam * rho.clamp(max=c_clip)
    delta = rho.clamp(max=rho_clip) * (reward + discount * value[1:] - value[:-1])
    excess = reverse_scan(delta, discount * trace * c)  # v_t - V(s_t)
    following = torch.zeros_like(excess)
    following[:-1] = excess[1:]
    advantage = reward + discount * (value[1:] + lam * trace * following) - value[:-1]
    return VTrace(excess + value[:-1], advantage)


def count_valid(valid: Bool[Tensor, "T B"]) -> Tensor:
    """The number of valid rows, at least 1: the divisor of means over them."""
    return valid.sum().clamp(min=1)


def masked_mean(
    x: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"], count: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean over the valid rows, 0 if there are none. A NaN elsewhere does not change it, but may reach a gradient.

    `count` is `count_valid(valid)`, if that is known already.
    """
    return x.where(valid, 0.0).sum() / (count_valid(valid) if count is None else count)


def normalize(
    advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"], count: Tensor | None = None
) -> Float[Tensor, "T B"]:
    """Advantages with mean 0 and standard deviation 1 over the valid rows; constant ones become 0, not NaN."""
    count = count_valid(valid) if count is None else count
    centred = advantage - masked_mean(advantage, valid, count)
    centred = centred - masked_mean(centred, valid, count)  # removes the rounding error of a large mean
    std = masked_mean(centred.square(), valid, count).sqrt()
    return centred / (std + 1e-8)


class AdvantageEMA(NamedTuple):
    """Exponential moving averages, over minibatches, of an advantage's mean and mean square.

    Where rewards are rare, a small minibatch may hold nothing but noise. Divided by its own standard deviation, that
    noise would be as large as the advantages of a minibatch with rewards. `weight` corrects for the initial zeros, as
    in Adam. Immutable: `normalize` returns the next one. All are float64.
    """

    decay: float
    mean: Float[Tensor, ""]
    mean_square: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    @classmethod
    def start(cls, decay: float, device: torch.device | None = None) -> "AdvantageEMA":
        return cls(decay, *torch.zeros(3, dtype=torch.float64, device=device))

    def normalize(
        self, advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B"], "AdvantageEMA"]:
        """The advantages, normalised by averages that include them, and these averages. Advantages that are not finite
        and minibatches without a valid row leave the averages as they are."""
        new = self.updated(masked_mean(advantage, valid), masked_mean(advantage.square(), valid), valid.any())
        return new.applied(advantage), new

    def updated(
        self, mean: Float[Tensor, ""], mean_square: Float[Tensor, ""], usable: Bool[Tensor, ""]
    ) -> "AdvantageEMA":
        """The averages after a minibatch with this mean and mean square, unless it is not `usable`."""
        new = AdvantageEMA(
            self.decay,
            self._averaged(self.mean, mean),
            self._averaged(self.mean_square, mean_square),
            self.decay * self.weight + 1 - self.decay,
        )
        usable = usable & new.mean_square.isfinite()
        return AdvantageEMA(self.decay, *(now.where(usable, old) for now, old in zip(new[1:], self[1:], strict=True)))

    def applied(self, advantage: Float[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        weight = self.weight.clamp(min=1e-8)
        mean, square = self.mean / weight, self.mean_square / weight
        std = (square - mean.square()).clamp(min=0.0).sqrt() + 1e-8
        return (advantage - mean) / std

    def _averaged(self, old: Tensor, now: Tensor) -> Float[Tensor, ""]:
        return self.decay * old + (1 - self.decay) * now.double()


class JoinedAdvantages(NamedTuple):
    """An AdvantageEMA of the minibatches of several learners together. `total` sums numbers over all of them."""

    ema: AdvantageEMA
    total: Callable[[Float[Tensor, " N"]], Float[Tensor, " N"]]

    def normalize(
        self, advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B"], "JoinedAdvantages"]:
        """As that of AdvantageEMA. With a decay of 0 the averages are those of the joined minibatch alone."""
        rows = torch.stack((torch.ones_like(advantage), advantage, advantage.square())).where(valid, 0.0).double()
        count, *sums = self.total(rows.sum((1, 2)))
        mean, mean_square = (each / count.clamp(min=1) for each in sums)
        new = self.ema.updated(mean, mean_square, count > 0)
        return new.applied(advantage), self._replace(ema=new)
