"""The losses in numbers that can be checked by hand, and what they average and normalise over."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from troupe.algorithm.distributions import Categorical
from troupe.algorithm.losses import (
    Batch,
    Outputs,
    a3c,
    appo,
    explained_variance,
    impala,
    ratio_metrics,
    value_moments,
)
from troupe.algorithm.returns import AdvantageEMA, masked_mean, normalize


def single_step(reward: float, log_mu: float = 0.0, actions: int = 2) -> Batch:
    """One row that ends its episode; its action is the last one."""
    row = torch.ones(1, 1)
    return Batch(row.long() * (actions - 1), row * log_mu, row * reward, row * 0, row * 0, row.bool())


def test_the_articles_floor_bounds_the_term_where_the_probability_underflows():
    for gap, floor, expected in [
        (math.log(3), 1e-10, -math.log(0.25 + 1e-10)),
        (2e4, 1e-10, -math.log(1e-10)),
        (2e4, 0.0, 2e4),
    ]:
        outputs = Outputs(Categorical.from_logits(torch.tensor([[[gap, 0.0]]])), torch.zeros(2, 1))
        _, metrics, _ = a3c(outputs, single_step(reward=1.0), probability_floor=floor)
        assert metrics["policy_loss"].item() == pytest.approx(expected)


def test_importance_weights_are_those_of_the_mixture_that_acted():
    """pi = (0.9, 0.1) played with epsilon 0.5 is mu = (0.7, 0.3), so action 1 weighs 1/3."""
    pi = Categorical.from_logits(torch.tensor([[[math.log(9), 0.0]]]))
    log_mu = pi.with_epsilon(0.5).log_prob(torch.tensor([[1]])).item()
    _, metrics, _ = impala(Outputs(pi, torch.zeros(2, 1)), single_step(reward=6.0, log_mu=log_mu))
    assert metrics["policy_loss"].item() == pytest.approx(-math.log(0.1) * 6 / 3)
    assert metrics["value_loss"].item() == pytest.approx((6 / 3) ** 2)


def test_impala_clips_its_weight_at_rho():
    """pi = 1/2, mu = 1/8: the ratio 4 is clipped to 3, in the policy term and in the target."""
    pi = Categorical.from_logits(torch.zeros(1, 1, 2))
    _, metrics, _ = impala(Outputs(pi, torch.zeros(2, 1)), single_step(1.0, -math.log(8)), rho_clip=3.0)
    assert metrics["policy_loss"].item() == pytest.approx(3 * math.log(2))
    assert metrics["value_loss"].item() == pytest.approx(3.0**2)


@pytest.mark.parametrize(
    ("ratio", "reward", "moves"),
    [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False), (1.1, 1, True)],
)
def test_appo_stops_only_where_the_ratio_already_went_too_far_in_the_wanted_direction(ratio, reward, moves):
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    outputs = Outputs(Categorical.from_logits(logits), torch.zeros(2, 1))
    batch = single_step(reward, math.log(0.5 / ratio))
    loss, metrics, _ = appo(outputs, batch, clip=0.2, normalize_advantage=False, entropy_coefficient=0.0)
    loss.backward()
    assert logits.grad.any() == moves
    assert metrics["clip_fraction"] == float(abs(ratio - 1) > 0.2)


def test_the_clip_fraction_counts_valid_rows_only():
    """Ratios 1, 1.1, 1.3, 0.7 and, in a row that does not count, 9: two of four are clipped."""
    ratio = torch.tensor([[1.0], [1.1], [1.3], [0.7], [9.0]])
    row = torch.zeros(5, 1)
    batch = Batch(row.long(), (0.5 / ratio).log(), row, row, row, ratio < 2)
    _, metrics, _ = appo(Outputs(Categorical.from_logits(torch.zeros(5, 1, 2)), torch.zeros(6, 1)), batch, clip=0.2)
    assert metrics["clip_fraction"] == 0.5


# Means and normalisation over the rows that count


def test_a_masked_mean_is_that_of_the_valid_rows_whatever_the_others_hold():
    x = torch.tensor([1.0, math.nan, 4.0, math.inf])
    assert masked_mean(x, torch.tensor([True, False, True, False])) == 2.5
    assert masked_mean(x, torch.zeros(4, dtype=torch.bool)) == 0


def test_normalised_advantages_have_mean_zero_and_standard_deviation_one_over_valid_rows_only():
    valid = torch.tensor([True, True, False, True, True])
    actual = normalize(torch.tensor([1.0, 3.0, math.nan, 1.0, 3.0]), valid)
    torch.testing.assert_close(actual[valid], torch.tensor([-1.0, 1.0, -1.0, 1.0]))


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1000.1, 12345.678])
@pytest.mark.parametrize("rows", [1, 21, 3000])
def test_constant_advantages_become_zero(constant: float, rows: int):
    """Also where the mean of equal numbers is not that number, for want of digits."""
    actual: Tensor = normalize(torch.full((rows,), constant), torch.ones(rows, dtype=torch.bool))
    assert actual.abs().max() < 1e-2


def after(ema: AdvantageEMA, *minibatches: Tensor) -> AdvantageEMA:
    for advantage in minibatches:
        _, ema = ema.normalize(advantage, torch.ones(len(advantage), dtype=torch.bool))
    return ema


def test_averaged_advantages_count_earlier_minibatches_too_each_less_than_the_next():
    """Minibatches of 1, -1; of 3, 3 and one that does not count. By hand: means 0 and 3, mean squares 1 and 9,
    weights 1/4 and 1/2 of 3/4: mean 2, mean square 19/3, standard deviation sqrt(7/3)."""
    all_valid = torch.ones(2, dtype=torch.bool)
    first, ema = AdvantageEMA.start(0.5).normalize(torch.tensor([1.0, -1.0]), all_valid)
    torch.testing.assert_close(first, torch.tensor([1.0, -1.0]))
    valid = torch.tensor([True, True, False])
    second, ema = ema.normalize(torch.tensor([3.0, 3.0, math.nan]), valid)
    torch.testing.assert_close(second[valid], torch.full((2,), 1 / math.sqrt(7 / 3)))


def test_averages_stay_as_they_are_after_advantages_that_are_not_finite_or_do_not_count():
    ema, valid = after(AdvantageEMA.start(0.5), torch.tensor([1.0, -1.0])), torch.ones(2, dtype=torch.bool)
    assert ema.normalize(torch.tensor([5.0, 5.0]), ~valid)[1] == ema
    assert ema.normalize(torch.tensor([math.inf, 5.0]), valid)[1] == ema
    assert ema.normalize(torch.tensor([5.0, 5.0]), valid)[1] != ema


def test_normalising_changes_neither_the_averages_nor_the_advantages_it_is_given():
    ema, advantage = after(AdvantageEMA.start(0.9), torch.tensor([1.0, 2.0])), torch.tensor([4.0, 5.0])
    before = [float(each) for each in ema]
    first, second = (ema.normalize(advantage, torch.ones(2, dtype=torch.bool)) for _ in range(2))
    assert [float(each) for each in ema] == before
    assert advantage.tolist() == [4.0, 5.0]
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


def test_the_averages_are_those_of_python_floats_to_the_last_bit():
    """As runs were made before, which resume with the same numbers."""
    decay, generator = 0.9, torch.Generator().manual_seed(0)
    ema, valid = AdvantageEMA.start(decay), torch.ones(7, dtype=torch.bool)
    mean = square = weight = 0.0
    for _ in range(50):
        advantage = torch.randn(7, generator=generator)
        actual, ema = ema.normalize(advantage, valid)
        mean = decay * mean + (1 - decay) * float(masked_mean(advantage, valid))
        square = decay * square + (1 - decay) * float(masked_mean(advantage.square(), valid))
        weight = decay * weight + 1 - decay
        m, s = mean / weight, square / weight
        assert torch.equal(actual, (advantage - m) / (math.sqrt(max(0.0, s - m**2)) + 1e-8))
    assert [float(each) for each in ema[1:]] == [mean, square, weight]


def test_without_decay_only_this_minibatch_counts():
    advantage, valid = torch.tensor([0.5, 2.0, -7.0]), torch.tensor([True, True, False])
    ema = after(AdvantageEMA.start(0.0), torch.tensor([100.0, 3.0, 1.0]))
    torch.testing.assert_close(ema.normalize(advantage, valid)[0][valid], normalize(advantage, valid)[valid])


def test_a_minibatch_in_which_nothing_happened_is_not_blown_up():
    """Noise of a thousandth beside minibatches with won and lost games."""
    valid, noise = torch.ones(100, dtype=torch.bool), torch.linspace(-1e-3, 1e-3, 100)
    ema = after(AdvantageEMA.start(0.9), *[torch.linspace(-1, 1, 100)] * 20)
    assert ema.normalize(noise, valid)[0].abs().max() < 2e-3 * math.sqrt(3)
    assert normalize(noise, valid).abs().max() > 1


# Metrics


def played(ratios: list[float], valid: list[bool], value: list[float], reward: list[float]) -> tuple[Outputs, Batch]:
    """Rows that end their episodes, so that targets are rewards; pi = 1/2 and mu = 1/2 by the ratio."""
    rows = torch.zeros(len(ratios), 1)
    mu = (0.5 / torch.tensor(ratios)).log()[:, None]
    outputs = Outputs(Categorical.from_logits(torch.zeros(len(ratios), 1, 2)), torch.tensor([*value, 7.0])[:, None])
    return outputs, Batch(rows.long(), mu, torch.tensor(reward)[:, None], rows, rows, torch.tensor(valid)[:, None])


@pytest.mark.parametrize("loss", [a3c, impala, appo])
def test_the_approximate_kl_is_schulmans_third_estimator_written_out(loss):
    outputs, batch = played([0.5, 1.0, 1.3, 9.0], [True, True, True, False], [0.0] * 4, [0.0] * 4)
    expected = sum((ratio - 1) - math.log(ratio) for ratio in (0.5, 1.0, 1.3)) / 3
    assert loss(outputs, batch).metrics["approx_kl"].item() == pytest.approx(expected, rel=1e-5)


def test_the_approximate_kl_is_near_the_kl_of_many_samples_and_exact_to_the_last_small_one():
    """KL((0.5, 0.5) || (0.6, 0.4)) by 20,000 actions; and of ratios as near to 1 as float32 has them, x^2 / 2."""
    mu, pi = Categorical.from_logits(torch.zeros(2)), Categorical.from_logits(torch.tensor([0.6, 0.4]).log())
    action = torch.randint(2, (20_000,), generator=torch.Generator().manual_seed(0))
    valid = torch.ones(20_000, dtype=torch.bool)
    log_ratio = pi.log_probs[action] - mu.log_probs[action]
    expected = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    assert ratio_metrics(log_ratio, valid)["approx_kl"].item() == pytest.approx(expected, rel=0.02)
    near = torch.full((4,), 1e-3)
    assert ratio_metrics(near, valid[:4])["approx_kl"].item() == pytest.approx(5e-7, rel=1e-3)


def test_impala_counts_the_ratios_that_it_clips():
    outputs, batch = played([0.1, 1.4, 1.6, 9.0], [True, True, True, False], [0.0] * 4, [0.0] * 4)
    assert impala(outputs, batch, rho_clip=1.5).metrics["clip_fraction"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("loss", [a3c, impala, appo])
def test_the_explained_variance_is_one_less_the_errors_variance_by_the_targets(loss):
    value, reward = [1.0, 2.5, 2.0, -50.0], [1.0, 2.0, 4.0, 90.0]
    outputs, batch = played([1.0] * 4, [True, True, True, False], value, reward)
    errors = [target - guess for target, guess in zip(reward[:3], value[:3], strict=True)]
    expected = 1 - statistics.pvariance(errors) / statistics.pvariance(reward[:3])
    moments = loss(outputs, batch).metrics["value_moments"]
    assert explained_variance(moments.tolist()) == pytest.approx(expected)


def test_a_perfect_value_explains_all_a_constant_nothing_and_constant_targets_are_not_explained():
    for value, reward, expected in [([1.0, 3.0], [1.0, 3.0], 1.0), ([5.0, 5.0], [1.0, 3.0], 0.0)]:
        outputs, batch = played([1.0] * 2, [True] * 2, value, reward)
        moments = a3c(outputs, batch).metrics["value_moments"]
        assert explained_variance(moments.tolist()) == pytest.approx(expected)
    assert math.isnan(explained_variance([2.0, 0.0, 4.0, 0.0]))


def test_the_explained_variance_keeps_its_digits_where_values_are_large_and_alike():
    target = 10_000 + torch.tensor([[0.0], [0.25], [0.5], [0.75]])
    error = torch.tensor([[0.125], [-0.125], [0.125], [-0.125]])
    valid = torch.ones(4, 1, dtype=torch.bool)
    expected = 1 - statistics.pvariance(error[:, 0].tolist()) / statistics.pvariance([0.0, 0.25, 0.5, 0.75])
    moments = value_moments(target, error, valid, valid.sum())
    assert explained_variance(moments.tolist()) == pytest.approx(expected, rel=1e-6)
