"""Returns of each step: n-step returns, the lambda-return (GAE) and V-trace, on [T, B].

One convention throughout. Row t holds the observation s_t, the action a_t and the reward r_t received
after it. Two factors say what follows row t:

    discount[t] = gamma * (1 - terminated[t])                  may the value of s_{t+1} be used?
    trace[t]    = 1 - (terminated[t] | truncated[t])           is row t+1 the same episode?

A time limit therefore keeps its discount (it bootstraps from the final observation, which stands at
t+1) and loses its trace. `value` has T+1 rows; its last one is the bootstrap value.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
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
    r_t + discount_t q_{t+1} - V_t with q between V and v by `lam`; it is *not* multiplied by rho, so a
    loss can weigh it as it sees fit. With pi = mu it is GAE(lam) and v is the lambda-return.
    """
    rho = log_rho.exp()
    c = lam * rho.clamp(max=c_clip)
    delta = rho.clamp(max=rho_clip) * (reward + discount * value[1:] - value[:-1])
    excess = reverse_scan(delta, discount * trace * c)  # v_t - V(s_t)
    following = torch.zeros_like(excess)
    following[:-1] = excess[1:]
    advantage = reward + discount * (value[1:] + lam * trace * following) - value[:-1]
    return VTrace(excess + value[:-1], advantage)
