"""Random rollouts with episode boundaries inside, and V-trace as the sum that its paper prints.

Fixtures that hand out functions, because test files cannot import one another.
"""

from collections.abc import Callable, Iterator
from math import exp
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)

GAMMA = 0.9


class Rollout(NamedTuple):
    """Section 4 of the design, in float64; `trajectories` and `value_after` say what it means."""

    logits: Tensor  # [T, B, A]
    value: Tensor  # [T+1, B]
    action: Tensor  # [T, B]
    behaviour_log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    @property
    def log_rho(self) -> Tensor:
        log_prob = self.logits.log_softmax(-1).gather(-1, self.action.unsqueeze(-1)).squeeze(-1)
        return log_prob - self.behaviour_log_prob

    @property
    def discount(self) -> Tensor:
        return GAMMA * (~self.terminated).double()

    @property
    def trace(self) -> Tensor:
        return (~(self.terminated | self.truncated)).double()

    def trajectories(self) -> Iterator[tuple[int, int, int]]:
        """Yields (column, first row, last row) of each stretch of valid rows of one episode."""
        for b in range(self.reward.shape[1]):
            start = None
            for t in range(len(self.reward)):
                if self.valid[t, b] and start is None:
                    start = t
                ends = bool(self.terminated[t, b] | self.truncated[t, b]) or t == len(self.reward) - 1
                if start is not None and ends:
                    yield b, start, t
                    start = None

    def value_after(self, t: int, b: int) -> Tensor:
        """V of the observation that follows row t: 0 where the episode truly ended."""
        return self.value[t + 1, b] * (not self.terminated[t, b])

    def with_garbage_in_reset_rows(self, garbage: float) -> "Rollout":
        """Spares the one number of a reset row that counts: V(final observation) of a truncated episode."""
        reset = ~self.valid
        spared = torch.zeros_like(reset)
        spared[1:] = (self.truncated & ~self.terminated)[:-1]
        value = self.value.clone()
        value[:-1][reset & ~spared] = garbage
        return self._replace(
            logits=self.logits.masked_fill(reset.unsqueeze(-1), garbage),
            value=value,
            action=self.action.masked_fill(reset, 0),
            behaviour_log_prob=self.behaviour_log_prob.masked_fill(reset, -abs(garbage)),
            reward=self.reward.masked_fill(reset, garbage),
        )


def make_rollout(seed: int, length: int, columns: int = 2, actions: int = 3) -> Rollout:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def chance(probability: float) -> bool:
        return torch.rand((), generator=generator).item() < probability

    flags = torch.zeros(3, length, columns, dtype=torch.bool)
    terminated, truncated, invalid = flags
    for b in range(columns):
        ended = chance(0.2)  # the row before this rollout may have been an episode's last
        for t in range(length):
            invalid[t, b] = ended
            terminated[t, b], truncated[t, b] = not ended and chance(0.15), not ended and chance(0.15)
            ended = bool(terminated[t, b] | truncated[t, b])
    return Rollout(
        logits=normal(length, columns, actions),
        value=normal(length + 1, columns),
        action=torch.randint(actions, (length, columns), generator=generator),
        behaviour_log_prob=normal(length, columns, actions).log_softmax(-1)[..., 0],
        reward=normal(length, columns) * ~invalid,
        terminated=terminated,
        truncated=truncated,
        valid=~invalid,
    )


def vtrace_sum(
    rollout: Rollout, lam: float, rho_clip: float, c_clip: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """Maps each valid (row, column) to its V-trace target and advantage, as in Espeholt et al. 2018, eq. 1.

    v_s = V(s) + sum_{k=s}^{e} gamma^{k-s} (prod_{i=s}^{k-1} c_i) rho_k (r_k + gamma V(k+1) - V(k)), to the
    end e of the trajectory; the advantage is r_s + gamma (V(s+1) + lam (v_{s+1} - V(s+1))) - V(s).
    """
    written = {}
    for b, start, end in rollout.trajectories():
        ratio = {t: exp(rollout.log_rho[t, b].item()) for t in range(start, end + 1)}
        value = {t: rollout.value[t, b].item() for t in range(start, end + 1)}
        value[end + 1] = rollout.value_after(end, b).item()
        target = {end + 1: value[end + 1]}
        for s in range(start, end + 1):
            target[s] = value[s]
            for k in range(s, end + 1):
                product = 1.0
                for i in range(s, k):
                    product *= lam * min(c_clip, ratio[i])
                delta = rollout.reward[k, b].item() + GAMMA * value[k + 1] - value[k]
                target[s] += GAMMA ** (k - s) * product * min(rho_clip, ratio[k]) * delta
        for s in range(start, end + 1):
            following = value[s + 1] + lam * (target[s + 1] - value[s + 1])
            written[s, b] = target[s], rollout.reward[s, b].item() + GAMMA * following - value[s]
    return written


@pytest.fixture(scope="session")
def rollout_of() -> Callable[..., Rollout]:
    return make_rollout


@pytest.fixture(scope="session")
def vtrace_written_out() -> Callable[..., dict[tuple[int, int], tuple[float, float]]]:
    return vtrace_sum


@pytest.fixture(scope="session")
def gamma() -> float:
    return GAMMA
