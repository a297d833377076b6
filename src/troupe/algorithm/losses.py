"""The three losses: a3c, impala and appo, each (outputs, batch) -> (loss, metrics), and what they are made of.

All three are `policy term + value_coefficient * (target - V)^2 - entropy_coefficient * H`, averaged over
the valid rows. They differ in how the advantage is estimated and how far an update may go. Advantage and
target are constants: the policy term has no gradient through the value, nor the value term through
the policy. docs/algorithms.md derives each one, docs/extending.md shows how to write another.

Novelty bonuses are a second stream of rewards, with a value and an advantage of their own, estimated in the
same way; the policy follows the weighted sum of both advantages.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from troupe.algorithm import returns
from troupe.algorithm.distributions import Distribution
from troupe.algorithm.returns import AdvantageEMA, JoinedAdvantages, count_valid, masked_mean, normalize


class Outputs(NamedTuple):
    """The network's outputs for a rollout, with gradients."""

    distribution: Distribution  # over the T rows that have an action
    value: Float[Tensor, "T+1 B"]  # the last row is the bootstrap value
    bonus_value: Float[Tensor, "T+1 B"] | None = None  # of future novelty bonuses, in a run that has them


class Bonus(NamedTuple):
    """Novelty bonuses: rewards whose return continues across episodes (Burda et al. 2018, section 2.3).

    The reset row, from an episode's final observation to the first of the next, counts as a step: its reward
    is 0, and its discount is 1, because no time passes. So the value at an episode's end is the value of the
    next one's beginning.
    """

    reward: Float[Tensor, "T B"]  # for what follows action[t]; 0 on a reset row
    discount: Float[Tensor, "T B"]
    coefficient: float  # weight of its advantage

    def columns(self, chosen: Int64[Tensor, " C"]) -> "Bonus":
        return Bonus(self.reward[:, chosen], self.discount[:, chosen], self.coefficient)


class Batch(NamedTuple):
    """The part of a rollout that a loss needs; `returns` explains discount and trace."""

    action: Shaped[Tensor, "T B *action"]
    behaviour_log_prob: Float[Tensor, "T B"]
    reward: Float[Tensor, "T B"]
    discount: Float[Tensor, "T B"]
    trace: Float[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    bonus: Bonus | None = None


Metrics = dict[str, Tensor]  # means over the valid rows, without gradients


class LossOutput(NamedTuple):
    loss: Float[Tensor, ""]
    metrics: Metrics
    advantage_ema: AdvantageEMA | JoinedAdvantages | None = None  # for the next minibatch, if the loss was given one


def a3c(
    outputs: Outputs,
    batch: Batch,
    *,
    lam: float = 1.0,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
    probability_floor: float = 0.0,
) -> LossOutput:
    """Advantage actor-critic (Mnih et al. 2016, section 4): -log pi(a|s) A with n-step advantages.

    `probability_floor` is the article's constant inside the logarithm, log(pi + 1e-10): it bounds the
    term where pi(a) underflows. Zero is the exact log-probability.
    """
    estimate = lambda_estimate(outputs, batch, lam)
    log_prob = outputs.distribution.log_prob(batch.action)
    count = count_valid(batch.valid)
    metrics = ratio_metrics((log_prob - batch.behaviour_log_prob).detach(), batch.valid, count=count)
    if probability_floor:
        log_prob = (log_prob.exp() + probability_floor).log()
    policy = -log_prob * estimate.advantage
    return actor_critic(outputs, batch, policy, estimate, value_coefficient, entropy_coefficient, metrics, count)


def impala(
    outputs: Outputs,
    batch: Batch,
    *,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
) -> LossOutput:
    """IMPALA (Espeholt et al. 2018, section 4.2): -min(rho_clip, pi/mu) log pi(a|s) A, V-trace targets."""
    log_prob = outputs.distribution.log_prob(batch.action)
    log_rho = _ratio_of_valid_rows(log_prob.detach(), batch)
    estimate = vtrace_estimate(outputs, batch, log_rho, lam, rho_clip, c_clip)
    rho = log_rho.exp()
    policy = -rho.clamp(max=rho_clip) * log_prob * estimate.advantage
    count = count_valid(batch.valid)
    metrics = ratio_metrics(log_rho, batch.valid, clipped=rho > rho_clip, count=count)
    return actor_critic(outputs, batch, policy, estimate, value_coefficient, entropy_coefficient, metrics, count)


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
    advantage_ema: AdvantageEMA | JoinedAdvantages | None = None,
) -> LossOutput:
    """Asynchronous PPO: the clipped ratio (Schulman et al. 2017, eq. 7) on V-trace advantages.

    The ratio is pi/mu with mu the policy that acted, so lag and repeated passes over the same
    batch are corrected by the same quantity. Advantages are estimated anew in every pass. They are normalised
    by `advantage_ema`, or else by the mean and standard deviation of this minibatch.
    """
    count, log_ratio = count_valid(batch.valid), policy_log_ratio(outputs, batch)
    estimate = vtrace_estimate(outputs, batch, log_ratio.detach(), lam, rho_clip, c_clip)
    advantage = estimate.advantage
    if normalize_advantage and advantage_ema:
        advantage, advantage_ema = advantage_ema.normalize(advantage, batch.valid)
    elif normalize_advantage:
        advantage = normalize(advantage, batch.valid, count)
    ratio = log_ratio.exp()
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    metrics = ratio_metrics(log_ratio.detach(), batch.valid, (ratio.detach() - 1).abs() > clip, count)
    done = actor_critic(outputs, batch, policy, estimate, value_coefficient, entropy_coefficient, metrics, count)
    return done._replace(advantage_ema=advantage_ema)


def policy_log_ratio(outputs: Outputs, batch: Batch) -> Float[Tensor, "T B"]:
    """log pi(a|s) - log mu(a|s), with the gradient of pi; 0 on invalid rows."""
    return _ratio_of_valid_rows(outputs.distribution.log_prob(batch.action), batch)


def _ratio_of_valid_rows(log_prob: Float[Tensor, "T B"], batch: Batch) -> Float[Tensor, "T B"]:
    # An invalid row may hold anything: its ratio must not reach its neighbours.
    return (log_prob - batch.behaviour_log_prob).where(batch.valid, 0.0)


class Estimate(NamedTuple):
    """Advantages and value targets: constants with respect to the weights."""

    advantage: Float[Tensor, "T B"]  # of the rewards, plus the bonuses' times their coefficient
    target: Float[Tensor, "T B"]
    bonus_target: Float[Tensor, "T B"] | None


Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], returns.VTrace]  # of (reward, discount, trace, value)


def lambda_estimate(outputs: Outputs, batch: Batch, lam: float) -> Estimate:
    """By the lambda-return G: advantages G - V, targets G."""

    def estimate(reward: Tensor, discount: Tensor, trace: Tensor, value: Tensor) -> returns.VTrace:
        target = returns.lambda_return(reward, discount, trace, value, lam)
        return returns.VTrace(target, target - value[:-1])

    return _of_both_streams(outputs, batch, estimate)


def vtrace_estimate(
    outputs: Outputs, batch: Batch, log_rho: Float[Tensor, "T B"], lam: float, rho_clip: float, c_clip: float
) -> Estimate:
    """By V-trace; `log_rho` = log pi - log mu must carry no gradient."""
    estimator = partial(returns.vtrace, log_rho, lam=lam, rho_clip=rho_clip, c_clip=c_clip)
    return _of_both_streams(outputs, batch, estimator)


def _of_both_streams(outputs: Outputs, batch: Batch, estimator: Estimator) -> Estimate:
    target, advantage = estimator(batch.reward, batch.discount, batch.trace, outputs.value.detach())
    if batch.bonus is None or outputs.bonus_value is None:
        return Estimate(advantage, target, None)
    reward, discount, coefficient = batch.bonus
    trace = torch.ones_like(batch.trace)  # every row is followed by the next
    bonus = estimator(reward, discount, trace, outputs.bonus_value.detach())
    return Estimate(advantage + coefficient * bonus.advantage, target, bonus.target)


def actor_critic(
    outputs: Outputs,
    batch: Batch,
    policy: Float[Tensor, "T B"],
    estimate: Estimate,
    value_coefficient: float,
    entropy_coefficient: float,
    metrics: Mapping[str, Tensor],
    count: Tensor | None = None,
) -> LossOutput:
    """The loss with the given `policy` term, to which the terms of value, bonuses and entropy are added.

    `metrics` are those of the policy term; to them, the terms and the `value_moments` are added.
    """
    count = count_valid(batch.valid) if count is None else count
    error = estimate.target - outputs.value[:-1]
    policy_loss = masked_mean(policy, batch.valid, count)
    value_loss = masked_mean(error.square(), batch.valid, count)
    entropy = masked_mean(outputs.distribution.entropy(), batch.valid, count)
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    terms = {
        **metrics,
        "policy_loss": policy_loss.detach(),
        "value_loss": value_loss.detach(),
        "entropy": entropy.detach(),
        "value_moments": value_moments(estimate.target, error.detach(), batch.valid, count),
    }
    if estimate.bonus_target is None or batch.bonus is None or outputs.bonus_value is None:
        return LossOutput(loss, terms)
    # All rows: the final observation, on the reset row, has a value too, from which the row before it bootstraps.
    bonus_value_loss = (estimate.bonus_target - outputs.bonus_value[:-1]).square().mean()
    terms |= {
        "bonus": masked_mean(batch.bonus.reward, batch.valid, count),
        "bonus_value_loss": bonus_value_loss.detach(),
    }
    return LossOutput(loss + value_coefficient * bonus_value_loss, terms)


def ratio_metrics(
    log_ratio: Float[Tensor, "T B"],
    valid: Bool[Tensor, "T B"],
    clipped: Bool[Tensor, "T B"] | None = None,
    count: Tensor | None = None,
) -> Metrics:
    """How far the policy is from the one that acted: `approx_kl`, an estimate of KL(mu || pi) in nats, the mean of
    (r - 1) - log r with r = pi/mu (Schulman 2020, Approximating KL divergence, k3); and `clip_fraction`, the fraction
    of valid rows that are `clipped`."""
    count = count_valid(valid) if count is None else count
    metrics = {"approx_kl": masked_mean(log_ratio.expm1() - log_ratio, valid, count)}
    return metrics if clipped is None else metrics | {"clip_fraction": (clipped & valid).sum() / count}


def value_moments(
    target: Float[Tensor, "T B"],
    error: Float[Tensor, "T B"],
    valid: Bool[Tensor, "T B"],
    count: Tensor,
) -> Float[Tensor, "4"]:
    """Means over the valid rows of target, error = target - V, and the squares of both, in float64."""
    both = torch.stack((target, error)).where(valid, 0.0).double()
    return torch.cat((both, both.square())).sum((1, 2)) / count


def explained_variance(moments: Sequence[float]) -> float:
    """1 - Var(target - V) / Var(target), of `value_moments` averaged over any number of batches: 1 for a perfect value
    function, 0 for one that is no better than the mean. NaN where all targets are equal."""
    target, error, target_square, error_square = moments
    variance = target_square - target**2
    return 1 - (error_square - error**2) / variance if variance > 0 else float("nan")
