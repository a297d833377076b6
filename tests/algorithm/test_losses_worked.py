"""The losses in numbers that can be checked by hand, and what they average and normalise over."""

import math

import pytest
import torch
from torch import Tensor

from troupe.algorithm.distributions import Categorical
from troupe.algorithm.losses import Batch, Lately, Outputs, a3c, appo, impala, masked_mean, normalize


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
        _, metrics = a3c(outputs, single_step(reward=1.0), probability_floor=floor)
        assert metrics["policy_loss"].item() == pytest.approx(expected)


def test_importance_weights_are_those_of_the_mixture_that_acted():
    """pi = (0.9, 0.1) played with epsilon 0.5 is mu = (0.7, 0.3), so action 1 weighs 1/3."""
    pi = Categorical.from_logits(torch.tensor([[[math.log(9), 0.0]]]))
    log_mu = pi.with_epsilon(0.5).log_prob(torch.tensor([[1]])).item()
    _, metrics = impala(Outputs(pi, torch.zeros(2, 1)), single_step(reward=6.0, log_mu=log_mu))
    assert metrics["policy_loss"].item() == pytest.approx(-math.log(0.1) * 6 / 3)
    assert metrics["value_loss"].item() == pytest.approx((6 / 3) ** 2)


def test_impala_clips_its_weight_at_rho():
    """pi = 1/2, mu = 1/8: the ratio 4 is clipped to 3, in the policy term and in the target."""
    pi = Categorical.from_logits(torch.zeros(1, 1, 2))
    _, metrics = impala(Outputs(pi, torch.zeros(2, 1)), single_step(1.0, -math.log(8)), rho_clip=3.0)
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
    loss, metrics = appo(outputs, batch, clip=0.2, normalize_advantage=False, entropy_coefficient=0.0)
    loss.backward()
    assert logits.grad.any() == moves
    assert metrics["clip_fraction"] == float(abs(ratio - 1) > 0.2)


def test_the_clip_fraction_counts_valid_rows_only():
    """Ratios 1, 1.1, 1.3, 0.7 and, in a row that does not count, 9: two of four are clipped."""
    ratio = torch.tensor([[1.0], [1.1], [1.3], [0.7], [9.0]])
    row = torch.zeros(5, 1)
    batch = Batch(row.long(), (0.5 / ratio).log(), row, row, row, ratio < 2)
    _, metrics = appo(Outputs(Categorical.from_logits(torch.zeros(5, 1, 2)), torch.zeros(6, 1)), batch, clip=0.2)
    assert metrics["clip_fraction"] == 0.5


# Means and normalisation over the rows that count


def test_a_masked_mean_is_that_of_the_valid_rows_whatever_the_others_hold():
    x = torch.tensor([1.0, math.nan, 4.0, math.inf])
    assert masked_mean(x, torch.tensor([True, False, True, False])) == 2.5
    assert masked_mean(x, torch.zeros(4, dtype=torch.bool)) == 0


def test_normalised_advantages_have_mean_zero_and_deviation_one_over_valid_rows_only():
    valid = torch.tensor([True, True, False, True, True])
    actual = normalize(torch.tensor([1.0, 3.0, math.nan, 1.0, 3.0]), valid)
    torch.testing.assert_close(actual[valid], torch.tensor([-1.0, 1.0, -1.0, 1.0]))


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1000.1, 12345.678])
@pytest.mark.parametrize("rows", [1, 21, 3000])
def test_advantages_without_deviation_become_zero(constant: float, rows: int):
    """Also where the mean of equal numbers is not that number, for want of digits."""
    actual: Tensor = normalize(torch.full((rows,), constant), torch.ones(rows, dtype=torch.bool))
    assert actual.abs().max() < 1e-2


def test_advantages_lately_are_those_of_the_minibatches_before_as_well_each_counting_less():
    """Minibatches of 1, -1; of 3, 3 and one that does not count. By hand: means 0 and 3, mean squares 1 and 9,
    weights 1/4 and 1/2 of 3/4: mean 2, mean square 19/3, deviation sqrt(7/3)."""
    lately, all_valid = Lately(0.5), torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(lately.normalize(torch.tensor([1.0, -1.0]), all_valid), torch.tensor([1.0, -1.0]))
    valid = torch.tensor([True, True, False])
    second = lately.normalize(torch.tensor([3.0, 3.0, math.nan]), valid)[valid]
    torch.testing.assert_close(second, torch.full((2,), 1 / math.sqrt(7 / 3)))
    before = lately.state()
    lately.normalize(torch.tensor([5.0, 5.0]), ~all_valid)
    lately.normalize(torch.tensor([math.inf, 5.0]), all_valid)
    assert lately.state() == before
    again = Lately(0.5)
    again.restore(before)
    assert torch.equal(again.normalize(torch.ones(2), all_valid), lately.normalize(torch.ones(2), all_valid))


def test_without_decay_lately_is_now():
    advantage, valid = torch.tensor([0.5, 2.0, -7.0]), torch.tensor([True, True, False])
    lately = Lately(0.0)
    lately.normalize(torch.tensor([100.0, 3.0, 1.0]), valid)
    torch.testing.assert_close(lately.normalize(advantage, valid)[valid], normalize(advantage, valid)[valid])


def test_a_minibatch_in_which_nothing_happened_is_not_blown_up():
    """Noise of a thousandth beside minibatches with won and lost games."""
    lately, valid, noise = Lately(0.9), torch.ones(100, dtype=torch.bool), torch.linspace(-1e-3, 1e-3, 100)
    for _ in range(20):
        lately.normalize(torch.linspace(-1, 1, 100), valid)
    assert lately.normalize(noise, valid).abs().max() < 2e-3 * math.sqrt(3)
    assert normalize(noise, valid).abs().max() > 1
