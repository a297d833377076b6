"""What a step was worth: each estimator against its literal formula, and across episode boundaries."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from troupe.algorithm.returns import lambda_return, reverse_scan, vtrace

seeds, lengths, lams = st.integers(0, 2**32), st.integers(1, 14), st.sampled_from([0.0, 0.5, 0.95, 1.0])
clips = st.sampled_from([0.5, 1.0, 2.0, 1e9])


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# Every estimator, with a setting of its own, as (rollout parts) -> [T, B].
ESTIMATORS = {
    "n-step": lambda log_rho, *parts: lambda_return(*parts, 1.0),
    "lambda-return": lambda log_rho, *parts: lambda_return(*parts, 0.8),
    "v-trace target": lambda *parts: vtrace(*parts, lam=0.8, rho_clip=1.5, c_clip=0.7).target,
    "v-trace advantage": lambda *parts: vtrace(*parts, lam=0.8, rho_clip=1.5, c_clip=0.7).advantage,
}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())


# The scan


@given(length=st.integers(1, 70), seed=seeds)
def test_the_scan_by_doubling_equals_the_plain_loop(length, seed):
    generator = torch.Generator().manual_seed(seed)
    x, decay = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
    decay[torch.rand(decay.shape, generator=generator) < 0.2] = 0.0
    before = x.clone(), decay.clone()
    expected, following = torch.empty_like(x), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(length)):
        following = expected[t] = x[t] + decay[t] * following
    close(reverse_scan(x, decay), expected)
    assert torch.equal(x, before[0])
    assert torch.equal(decay, before[1])


# n-step and lambda-return


def n_step_sum(rollout, gamma: float, t: int, b: int, n: int) -> float:
    """R_t^(n) = sum_{k<n} gamma^k r_{t+k} + gamma^n V(s_{t+n})."""
    rewards = sum(gamma**k * rollout.reward[t + k, b].item() for k in range(n))
    return rewards + gamma**n * rollout.value_after(t + n - 1, b).item()


@given(seed=seeds, length=lengths)
def test_n_step_returns_are_the_sum_to_the_end_of_the_trajectory(rollout_of, gamma, seed, length):
    rollout = rollout_of(seed, length)
    actual = lambda_return(rollout.reward, rollout.discount, rollout.trace, rollout.value, 1.0)
    for b, start, end in rollout.trajectories():
        for t in range(start, end + 1):
            assert actual[t, b].item() == pytest.approx(n_step_sum(rollout, gamma, t, b, end - t + 1), abs=1e-9)


@given(seed=seeds, length=lengths, lam=lams)
def test_the_lambda_return_is_the_weighted_mean_of_all_n_step_returns(rollout_of, gamma, seed, length, lam):
    rollout = rollout_of(seed, length)
    actual = lambda_return(rollout.reward, rollout.discount, rollout.trace, rollout.value, lam)
    for b, start, end in rollout.trajectories():
        for t in range(start, end + 1):
            longest = end - t + 1
            expected = lam ** (longest - 1) * n_step_sum(rollout, gamma, t, b, longest)
            expected += sum((1 - lam) * lam ** (n - 1) * n_step_sum(rollout, gamma, t, b, n) for n in range(1, longest))
            assert actual[t, b].item() == pytest.approx(expected, abs=1e-9)


def test_three_unit_rewards_with_gamma_099_return_2_9701_and_1_99_and_1():
    returns = lambda_return(
        reward=column(1, 1, 1),
        discount=column(0.99, 0.99, 0),
        trace=column(1, 1, 0),
        value=column(5, 5, 5, 5),
        lam=1.0,
    )
    close(returns, column(2.9701, 1.99, 1.0))


def test_a_short_tail_before_a_boundary_inside_uses_its_true_horizon():
    returns = lambda_return(
        reward=column(1, 1, 1, 0, 7),
        discount=column(0.99, 0.99, 0, 0.99, 0.99),
        trace=column(1, 1, 0, 1, 1),
        value=column(5, 5, 5, 5, 5, 10),
        lam=1.0,
    )
    close(returns[[0, 1, 2, 4]], column(2.9701, 1.99, 1.0, 7 + 9.9))


@every_estimator
def test_truncation_bootstraps_from_the_final_observation_and_termination_from_nothing(estimator):
    def worth(terminated: float, final_value: float) -> float:
        parts = column(0), column(1), column(0.9 * (1 - terminated)), column(0), column(0, final_value)
        return estimator(*parts).item()

    assert worth(terminated=0, final_value=10) == pytest.approx(1 + 0.9 * 10)
    assert worth(terminated=1, final_value=10) == pytest.approx(1)


# V-trace


@given(seed=seeds, length=lengths, lam=lams, rho_clip=clips, c_clip=clips)
def test_v_trace_is_the_sum_of_equation_1(rollout_of, vtrace_written_out, seed, length, lam, rho_clip, c_clip):
    r = rollout_of(seed, length)
    actual = vtrace(r.log_rho, r.reward, r.discount, r.trace, r.value, lam, rho_clip, c_clip)
    for (t, b), (target, advantage) in vtrace_written_out(r, lam, rho_clip, c_clip).items():
        assert actual.target[t, b].item() == pytest.approx(target, rel=1e-9, abs=1e-9)
        assert actual.advantage[t, b].item() == pytest.approx(advantage, rel=1e-9, abs=1e-9)


@given(seed=seeds, length=lengths, lam=lams)
def test_v_trace_on_policy_is_the_lambda_return_and_its_advantage_gae(rollout_of, gamma, seed, length, lam):
    r = rollout_of(seed, length)
    target, advantage = vtrace(torch.zeros_like(r.reward), r.reward, r.discount, r.trace, r.value, lam)
    close(target, lambda_return(r.reward, r.discount, r.trace, r.value, lam))
    for b, start, end in r.trajectories():
        for t in range(start, end + 1):
            delta = {k: r.reward[k, b] + gamma * r.value_after(k, b) - r.value[k, b] for k in range(t, end + 1)}
            gae = sum((gamma * lam) ** (k - t) * d.item() for k, d in delta.items())
            assert advantage[t, b].item() == pytest.approx(gae, abs=1e-9)


# Two steps; both ratios are 4, gamma = 1/2, rewards 1 and 2, values 1, 2 and 4: both deltas are 1 and 2.
WORKED = (column(4, 4).log(), column(1, 2), column(0.5, 0.5), column(1, 1), column(1, 2, 4))


@pytest.mark.parametrize(
    ("rho_clip", "c_clip", "target", "advantage"),
    [
        (1, 1, (1 + 1 + 0.5 * 1 * 2, 2 + 2), (1 + 0.5 * 4 - 1, 2)),
        (2, 1, (1 + 2 * 1 + 0.5 * 1 * 2 * 2, 2 + 2 * 2), (1 + 0.5 * 6 - 1, 2)),
        (1, 3, (1 + 1 + 0.5 * 3 * 2, 2 + 2), (1 + 0.5 * 4 - 1, 2)),
        (9, 9, (1 + 4 * 1 + 0.5 * 4 * 4 * 2, 2 + 4 * 2), (1 + 0.5 * 10 - 1, 2)),
    ],
)
def test_rho_and_c_are_clipped_separately_worked_example(rho_clip, c_clip, target, advantage):
    actual = vtrace(*WORKED, rho_clip=rho_clip, c_clip=c_clip)
    close(actual.target, column(*target))
    close(actual.advantage, column(*advantage))


def test_ratios_below_the_clips_shrink_the_correction_and_are_not_raised_to_one():
    _, *parts = WORKED
    target, _ = vtrace(column(0.5, 0.25).log(), *parts)
    close(target, column(1 + 0.5 * 1 + 0.5 * 0.5 * 0.25 * 2, 2 + 0.25 * 2))


def test_the_bootstrap_is_the_given_value_and_its_target_is_not_corrected():
    """At the last row q = r + gamma V(s_T), whatever the ratios or lambda."""
    for log_rho in (-3.0, 0.0, 3.0):
        _, advantage = vtrace(column(log_rho), column(1), column(0.5), column(1), column(1, 4), lam=0.3)
        close(advantage, column(1 + 0.5 * 4 - 1))


@pytest.mark.parametrize("terminated", [True, False], ids=["terminated", "truncated"])
def test_the_trace_is_cut_at_both_boundaries(terminated):
    """What happens in the next episode says nothing about this one, however large its ratios."""
    log_rho, discount, trace = (
        column(0, 0, 0, 3),
        column(0.5, 0.5 * (not terminated), 0.5, 0.5),
        column(1, 0, 1, 1),
    )
    tame, wild = (
        vtrace(log_rho, column(1, 2, 0, reward), discount, trace, column(1, 2, 4, 1, 6), c_clip=9)
        for reward in (0, 1000)
    )
    close(tame.target[:2], wild.target[:2])
    close(tame.advantage[:2], wild.advantage[:2])
    last = 2 if terminated else 2 + 0.5 * 4
    close(tame.target[:2], column(1 + 0.5 * last, last))


# Laws that every estimator obeys


@every_estimator
@given(seed=seeds, length=lengths)
def test_a_boundary_inside_equals_separate_trajectories(estimator, rollout_of, gamma, seed, length):
    """Each trajectory alone knows no flags: only its bootstrap value says how it ended."""
    r = rollout_of(seed, length)
    whole = estimator(r.log_rho, r.reward, r.discount, r.trace, r.value)
    for b, start, end in r.trajectories():
        rows = slice(start, end + 1)
        ones = torch.ones(end + 1 - start, 1, dtype=torch.float64)
        value = torch.cat([r.value[rows, b], r.value_after(end, b).reshape(1)]).unsqueeze(1)
        alone = estimator(r.log_rho[rows, b, None], r.reward[rows, b, None], gamma * ones, ones, value)
        close(whole[rows, b], alone[:, 0])


@every_estimator
@given(seed=seeds, length=lengths, garbage=st.floats(-1e6, 1e6))
def test_what_a_reset_row_holds_reaches_no_other_row(estimator, rollout_of, seed, length, garbage):
    r = rollout_of(seed, length)
    clean, dirty = (
        estimator(x.log_rho, x.reward, x.discount, x.trace, x.value) for x in (r, r.with_garbage_in_reset_rows(garbage))
    )
    assert torch.equal(clean[r.valid], dirty[r.valid])


@every_estimator
def test_a_reward_is_credited_to_its_own_step_and_earlier_ones_only(estimator):
    zero = torch.zeros(4, 1, dtype=torch.float64)
    reward = column(0, 0, 1, 0)
    worth = estimator(zero, reward, zero + 0.5, zero + 1, torch.zeros(5, 1, dtype=torch.float64)).flatten()
    assert worth[2] == 1.0
    assert (worth[:2] > 0).all()
    assert worth[3] == 0.0


@every_estimator
def test_columns_do_not_mix(estimator, rollout_of):
    r = rollout_of(seed=5, length=9, columns=4)
    parts = r.log_rho, r.reward, r.discount, r.trace, r.value
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(estimator(*parts)[:, order], estimator(*(part[:, order] for part in parts)))
