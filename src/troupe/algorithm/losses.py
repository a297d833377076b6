"""The three losses: a3c, impala and appo, each (outputs, batch) -> (loss, metrics).

All three are `policy term + value_coefficient * (target - V)^2 - entropy_coefficient * H`, averaged over
the valid rows. They differ in how the advantage is estimated and how far an update may go. Advantage and
target are constants: the policy term has no gradient through the value, nor the value term through
the policy. docs/algorithms.md derives each one.

A bonus for what is new is a second stream of rewards, with a value and an advantage of its own, estimated
in the same way; the policy follows the sum of both advantages.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from troupe.algorithm import returns
from troupe.algorithm.distributions import Distribution


class Outputs(NamedTuple):
    """What the network says about a rollout, with gradients."""

    distribution: Distribution  # over the T rows that have an action
    value: Float[Tensor, "T+1 B"]  # the last row is the bootstrap value
    bonus_value: Float[Tensor, "T+1 B"] | None = None  # of bonuses to come, where there are any


class Bonus(NamedTuple):
    """A stream of rewards that never ends (Burda et al. 2018, section 2.3): an episode's end takes nothing new away.

    The reset row is a step of it as well, from an episode's final observation to the first of the next: it
    pays nothing, and its discount is 1, because no time goes by. So the value after an episode's end is
    that of the next one's beginning.
    """

    reward: Float[Tensor, "T B"]  # for what follows action[t]; 0 on a reset row
    discount: Float[Tensor, "T B"]
    coefficient: float  # of its advantage

    def columns(self, chosen: Int64[Tensor, " C"]) -> "Bonus":
        return Bonus(self.reward[:, chosen], self.discount[:, chosen], self.coefficient)


class Batch(NamedTuple):
    """What happened in a rollout, as far as a loss needs it; `returns` explains discount and trace."""

    action: Shaped[Tensor, "T B *action"]
    behaviour_log_prob: Float[Tensor, "T B"]
    reward: Float[Tensor, "T B"]
    discount: Float[Tensor, "T B"]
    trace: Float[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    bonus: Bonus | None = None
    lately: "Lately | None" = None  # what advantages are normalised by; None: by their own mean and deviation


Metrics = dict[str, Tensor]


def masked_mean(x: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the rows that count; no rows give 0. A NaN elsewhere changes no mean, but may a gradient."""
    return x.where(valid, 0.0).sum() / valid.sum().clamp(min=1)


def normalize(advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """Advantages with mean 0 and deviation 1 over the valid rows; constant ones become 0, not NaN."""
    centred = advantage - masked_mean(advantage, valid)
    centred = centred - masked_mean(centred, valid)  # what rounding left of a large mean
    deviation = masked_mean(centred.square(), valid).sqrt()
    return centred / (deviation + 1e-8)


class Lately:
    """Mean and mean square of advantages, those of each minibatch counting `decay` times as much as the next one's.

    A small minibatch of a game that is seldom decided may hold nothing but noise. By its own deviation that noise would
    be as large as what was won or lost elsewhere.
    """

    def __init__(self, decay: float):
        self._decay, self._moments = decay, (0.0, 0.0)
        self._weight = 0.0  # of all that was seen: as in Adam, it takes out the zeros at the beginning

    def normalize(self, advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Adds these, and gives them in deviations from the mean."""
        if valid.any():
            new = masked_mean(advantage, valid), masked_mean(advantage.square(), valid)
            first, second = (
                self._decay * old + (1 - self._decay) * float(now) for old, now in zip(self._moments, new, strict=True)
            )
            if math.isfinite(second):
                self._moments, self._weight = (first, second), self._decay * self._weight + 1 - self._decay
        mean, square = (each / max(self._weight, 1e-8) for each in self._moments)
        return (advantage - mean) / (math.sqrt(max(0.0, square - mean**2)) + 1e-8)

    def state(self) -> list[float]:
        return [*self._moments, self._weight]

    def restore(self, state: Sequence[float]) -> None:
        first, second, self._weight = state
        self._moments = (first, second)


def a3c(
    outputs: Outputs,
    batch: Batch,
    *,
    lam: float = 1.0,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
    probability_floor: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """Advantage actor-critic (Mnih et al. 2016, section 4): -log pi(a|s) A with n-step advantages.

    `probability_floor` is the article's constant inside the logarithm, log(pi + 1e-10): it bounds the
    term where pi(a) underflows. Zero is the exact log-probability.
    """
    targets, advantage = _estimate(outputs, batch, partial(_lambda_return, lam=lam))
    log_prob = outputs.distribution.log_prob(batch.action)
    if probability_floor:
        log_prob = (log_prob.exp() + probability_floor).log()
    policy = -log_prob * advantage
    return _total(outputs, batch, policy, targets, value_coefficient, entropy_coefficient)


def impala(
    outputs: Outputs,
    batch: Batch,
    *,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
) -> tuple[Tensor, Metrics]:
    """IMPALA (Espeholt et al. 2018, section 4.2): -min(rho_clip, pi/mu) log pi(a|s) A, V-trace targets."""
    log_prob = outputs.distribution.log_prob(batch.action)
    # A row that does not count may hold anything: its ratio must not reach its neighbours.
    log_rho = (log_prob - batch.behaviour_log_prob).detach().where(batch.valid, 0.0)
    vtrace = partial(returns.vtrace, log_rho, lam=lam, rho_clip=rho_clip, c_clip=c_clip)
    targets, advantage = _estimate(outputs, batch, vtrace)
    policy = -log_rho.exp().clamp(max=rho_clip) * log_prob * advantage
    return _total(outputs, batch, policy, targets, value_coefficient, entropy_coefficient)


def appo(
    outputs: Outputs,
    batch: Batch,
    *,
    lam: float = 0.95,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    clip: float = 0.2,
    normalize_advantage: bool = True,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
) -> tuple[Tensor, Metrics]:
    """Asynchronous PPO: the clipped ratio (Schulman et al. 2017, eq. 7) on V-trace advantages.

    The ratio is pi/mu with mu the policy that really acted, so lag and repeated passes over the same
    batch are corrected by the same quantity. Advantages are estimated anew in every pass.
    """
    log_ratio = outputs.distribution.log_prob(batch.action) - batch.behaviour_log_prob
    log_ratio = log_ratio.where(batch.valid, 0.0)
    vtrace = partial(returns.vtrace, log_ratio.detach(), lam=lam, rho_clip=rho_clip, c_clip=c_clip)
    targets, advantage = _estimate(outputs, batch, vtrace)
    if normalize_advantage:
        advantage = (batch.lately.normalize if batch.lately else normalize)(advantage, batch.valid)
    ratio = log_ratio.exp()
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    loss, metrics = _total(outputs, batch, policy, targets, value_coefficient, entropy_coefficient)
    clipped = ((ratio.detach() - 1).abs() > clip).float()
    return loss, metrics | {"clip_fraction": masked_mean(clipped, batch.valid)}


class _Targets(NamedTuple):
    """What each value is to become."""

    value: Float[Tensor, "T B"]
    bonus_value: Float[Tensor, "T B"] | None


Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], returns.VTrace]  # of (reward, discount, trace, value)


def _lambda_return(reward: Tensor, discount: Tensor, trace: Tensor, value: Tensor, lam: float) -> returns.VTrace:
    target = returns.lambda_return(reward, discount, trace, value, lam)
    return returns.VTrace(target, target - value[:-1])


def _estimate(outputs: Outputs, batch: Batch, estimator: Estimator) -> tuple[_Targets, Float[Tensor, "T B"]]:
    """The targets, and the advantage that the policy is to follow."""
    target, advantage = estimator(batch.reward, batch.discount, batch.trace, outputs.value.detach())
    if batch.bonus is None or outputs.bonus_value is None:
        return _Targets(target, None), advantage
    reward, discount, coefficient = batch.bonus
    following = torch.ones_like(batch.trace)  # every row is followed by the next
    bonus = estimator(reward, discount, following, outputs.bonus_value.detach())
    return _Targets(target, bonus.target), advantage + coefficient * bonus.advantage


def _total(
    outputs: Outputs,
    batch: Batch,
    policy: Float[Tensor, "T B"],
    targets: _Targets,
    value_coefficient: float,
    entropy_coefficient: float,
) -> tuple[Tensor, Metrics]:
    policy_loss = masked_mean(policy, batch.valid)
    value_loss = masked_mean((targets.value - outputs.value[:-1]).square(), batch.valid)
    entropy = masked_mean(outputs.distribution.entropy(), batch.valid)
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    metrics = {
        "policy_loss": policy_loss.detach(),
        "value_loss": value_loss.detach(),
        "entropy": entropy.detach(),
    }
    if targets.bonus_value is None or batch.bonus is None or outputs.bonus_value is None:
        return loss, metrics
    # All rows: a final observation, on the reset row, has a value too, and the row before it goes by that.
    bonus_value_loss = (targets.bonus_value - outputs.bonus_value[:-1]).square().mean()
    metrics |= {"bonus": masked_mean(batch.bonus.reward, batch.valid), "bonus_value_loss": bonus_value_loss.detach()}
    return loss + value_coefficient * bonus_value_loss, metrics
