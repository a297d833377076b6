"""A loss of your own: PPO with a penalty on the KL divergence in place of the clipped ratio.

    troupe train CartPole-v1 --loss.kind examples/custom_loss.py:ppo_kl --loss.kwargs.beta 0.5

A loss maps (outputs, batch) to (loss, metrics). Arguments named as settings of the loss (lam, entropy_coefficient)
have the values of those settings; all others are settings in loss.kwargs, typed by their annotations or defaults.
"""

import troupe
from troupe.algorithm import losses
from troupe.algorithm.returns import masked_mean, normalize


def ppo_kl(outputs, batch, *, beta: float = 1.0, lam=0.95, value_coefficient=0.5, entropy_coefficient=0.01):
    """-r A + beta ((r - 1) - log r) with r = pi/mu (Schulman et al. 2017, eq. 8), on V-trace advantages."""
    log_ratio = losses.policy_log_ratio(outputs, batch)
    estimate = losses.vtrace_estimate(outputs, batch, log_ratio.detach(), lam, rho_clip=1.0, c_clip=1.0)
    penalty = log_ratio.expm1() - log_ratio
    policy = -log_ratio.exp() * normalize(estimate.advantage, batch.valid) + beta * penalty
    metrics = losses.ratio_metrics(log_ratio.detach(), batch.valid)
    metrics["penalty"] = beta * masked_mean(penalty.detach(), batch.valid)  # what it returns is logged
    return losses.actor_critic(outputs, batch, policy, estimate, value_coefficient, entropy_coefficient, metrics)


if __name__ == "__main__":
    settings = {"loss.kwargs.beta": 2.0, "loss.lam": 0.9}
    run = troupe.train("CartPole-v1", loss=ppo_kl, seed=1, steps=20_000, settings=settings)
    print(f"{run.outcome} after {run.steps:,} steps: mean return {run.scores.mean:.1f}")
    agent = troupe.load(run.path)  # playing needs no loss
    print("action for a pole that falls to the right:", agent.act([0.0, 0.0, 0.1, 1.0]))
