"""The second stream, of bonuses, in all three losses: it goes on over the ends of episodes, and off is off."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.algorithm.distributions import Categorical
from troupe.algorithm.losses import Batch, Bonus, Outputs, a3c, appo, impala

seeds, lengths = st.integers(0, 2**32), st.integers(1, 10)
LOSSES = {"a3c": (a3c, {}), "impala": (impala, {}), "appo": (appo, {"normalize_advantage": False})}
every_loss = pytest.mark.parametrize("name", LOSSES)
GAMMA = 0.9


def stream(seed: int, r, coefficient: float = 0.7) -> tuple[Bonus, torch.Tensor]:
    """Random bonuses for the rollout `r`, and values of them."""
    draw = torch.Generator().manual_seed(seed % 2**63)
    reward = torch.rand(r.reward.shape, generator=draw, dtype=r.reward.dtype).where(r.valid, 0.0)
    value = torch.randn(r.value.shape, generator=draw, dtype=r.value.dtype)
    return Bonus(reward, torch.where(r.valid, GAMMA, 1.0).to(r.reward.dtype), coefficient), value


def gradients(name, r, bonus, bonus_value, lam=1.0, **changed):
    """The loss, and its gradients with respect to logits, values and the values of bonuses; on policy."""
    loss_of, options = LOSSES[name]
    parts = [part.clone().requires_grad_() for part in (r.logits, r.value, bonus_value)]
    distribution = Categorical.from_logits(parts[0])
    mu = distribution.log_prob(r.action).detach()
    batch = Batch(r.action, mu, r.reward, r.discount, r.trace, r.valid, bonus)._replace(**changed)
    loss, metrics, _ = loss_of(
        Outputs(distribution, parts[1], parts[2]), batch, lam=lam, value_coefficient=0.5, **options
    )
    return loss, metrics, *torch.autograd.grad(loss, parts, materialize_grads=True)


def written_out(bonus: Bonus, valid, value, b: int) -> list[float]:
    """The discounted sum of all bonuses to come in column b: no time goes by on a reset row."""
    sums = []
    for start in range(len(valid)):
        total, weight = 0.0, 1.0
        for t in range(start, len(valid)):
            if valid[t, b]:
                total += weight * bonus.reward[t, b].item()
                weight *= GAMMA
        sums.append(total + weight * value[-1, b].item())
    return sums


@every_loss
@given(seed=seeds, length=lengths)
def test_with_lambda_one_the_target_is_the_sum_of_all_bonuses_to_come_over_the_ends_of_episodes(
    name, rollout_of, seed, length
):
    r = rollout_of(seed, length)
    bonus, value = stream(seed, r)
    *_, gradient = gradients(name, r, bonus, value)
    target = value[:-1] - gradient[:-1] * r.reward.numel()  # of 0.5 (target - V)^2, averaged over all rows
    for b in range(r.reward.shape[1]):
        torch.testing.assert_close(
            target[:, b], torch.tensor(written_out(bonus, r.valid, value, b), dtype=target.dtype), rtol=1e-5, atol=1e-5
        )
    assert not gradient[-1].any()  # the bootstrap is a constant


@every_loss
def test_with_lambda_zero_an_episodes_last_step_goes_by_the_final_observation_and_that_by_the_next_first_one(
    name, rollout_of
):
    ended, double = torch.tensor([[False], [True], [False]]), torch.float64
    valid = torch.tensor([[True], [True], [False]])
    r = rollout_of(0, 3, columns=1)._replace(terminated=ended, truncated=ended, valid=valid)
    value = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=double)
    bonus = Bonus(torch.tensor([[0.5], [0.25], [0.0]], dtype=double), torch.where(valid, GAMMA, 1.0).to(double), 1.0)
    *_, gradient = gradients(name, r, bonus, value, lam=0.0)
    target = value[:-1] - gradient[:-1] * 3
    expected = torch.tensor([[0.5 + GAMMA * 2], [0.25 + GAMMA * 3], [4.0]], dtype=double)
    torch.testing.assert_close(target, expected)


@every_loss
@given(seed=seeds, length=lengths)
def test_the_policy_follows_the_sum_of_both_advantages(name, rollout_of, seed, length):
    """So its gradient is linear in the coefficient, and at the coefficient 0 what it is without bonuses."""
    r = rollout_of(seed, length)
    bonus, value = stream(seed, r)
    _, _, without, *_ = gradients(name, r, None, value)
    zero, one, two = (gradients(name, r, bonus._replace(coefficient=c), value)[2] for c in (0.0, 1.0, 2.0))
    torch.testing.assert_close(zero, without)
    torch.testing.assert_close(two - one, one - zero, rtol=1e-4, atol=1e-6)
    # The bonus's share alone: nothing of the rewards, no values but its own, and no entropy that counts.
    quiet = r._replace(reward=torch.zeros_like(r.reward), value=torch.zeros_like(r.value))
    alone = gradients(name, quiet, bonus, value)[2] - gradients(name, quiet, None, value)[2]
    torch.testing.assert_close(alone, 0.7 * (one - zero), rtol=1e-4, atol=1e-6)


@every_loss
@given(seed=seeds, length=lengths)
def test_bonuses_do_not_reach_the_value_of_rewards_nor_rewards_that_of_bonuses(name, rollout_of, seed, length):
    r = rollout_of(seed, length)
    bonus, value = stream(seed, r)
    _, _, _, without, _ = gradients(name, r, None, value)
    _, _, _, of_rewards, of_bonuses = gradients(name, r, bonus, value)
    assert torch.equal(of_rewards, without)
    assert torch.equal(of_bonuses, gradients(name, r, bonus, value, reward=r.reward + 1)[4])


@every_loss
def test_without_bonuses_a_value_of_them_changes_nothing_and_learns_nothing(name, rollout_of):
    r = rollout_of(3, 6)
    loss, metrics, *_, gradient = gradients(name, r, None, r.value)
    assert not gradient.any()
    assert "bonus" not in metrics
    assert torch.equal(loss, gradients(name, r, None, r.value + 1)[0])
