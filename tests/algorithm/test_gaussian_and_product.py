"""Gaussian and composed policies against formulas written out, numerical integrals and counted samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.algorithm.distributions import Categorical, Gaussian, Product, bounded

numbers = st.floats(-3, 3)


def gaussian(mean: list[float], log_std: list[float]) -> Gaussian:
    return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(log_std, dtype=torch.float64))


@given(st.lists(st.tuples(numbers, st.floats(-2, 1), numbers), min_size=1, max_size=4))
def test_log_densities_are_the_textbooks(rows):
    mean, log_std, action = map(list, zip(*rows, strict=True))
    expected = sum(
        -((a - m) ** 2) / (2 * math.exp(s) ** 2) - math.log(math.exp(s) * math.sqrt(2 * math.pi)) for m, s, a in rows
    )
    policy = gaussian(mean, log_std)
    assert policy.log_prob(torch.tensor(action, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.7)])
def test_the_density_integrates_to_one_and_the_entropy_is_its_mean_surprise(mean, log_std):
    x = torch.linspace(mean - 40, mean + 40, 400_001, dtype=torch.float64)
    policy = gaussian([mean], [log_std])
    log_density = policy.log_prob(x[:, None])
    width = (x[1] - x[0]).item()
    density = log_density.exp()
    assert (density.sum() * width).item() == pytest.approx(1.0, abs=1e-9)
    assert policy.entropy().item() == pytest.approx((-(density * log_density).sum() * width).item(), abs=1e-6)


def test_samples_have_the_mean_and_the_deviation_and_the_mode_is_the_mean():
    policy = Gaussian(torch.tensor([1.0, -2.0]).expand(50_000, 2), torch.tensor([0.0, -1.0]).expand(50_000, 2))
    drawn = policy.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([1.0, math.exp(-1)]), atol=0.02, rtol=0)
    assert policy.mode()[0].tolist() == [1.0, -2.0]


@given(st.tuples(numbers, st.floats(-1, 1), numbers))
def test_gradients_of_the_log_density_are_finite_differences(row):
    def log_prob(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        return Gaussian(mean, log_std).log_prob(torch.tensor([row[2]], dtype=torch.float64))

    parameters = [torch.tensor([each], dtype=torch.float64, requires_grad=True) for each in row[:2]]
    assert torch.autograd.gradcheck(log_prob, parameters)


@given(st.floats(-4.9, 1.9))
def test_within_its_bounds_a_parameter_and_its_gradient_are_untouched(number):
    x = torch.tensor([number], dtype=torch.float64, requires_grad=True)
    assert bounded(x, -5, 2).item() == number
    assert torch.autograd.gradcheck(lambda each: bounded(each, -5, 2).exp(), x)


@given(st.floats(2, 9) | st.floats(-12, -5), st.floats(-10, 10).filter(bool))
def test_at_a_bound_or_beyond_it_a_gradient_moves_a_parameter_back_and_never_further_out(number, slope):
    x = torch.tensor([number], dtype=torch.float64, requires_grad=True)
    (slope * bounded(x, -5, 2)).sum().backward()
    assert bounded(x, -5, 2).item() == (2 if number > 0 else -5)
    outward = (number > 2 and slope < 0) or (number < -5 and slope > 0)
    assert x.grad.item() == (0 if outward else slope)


def test_epsilon_leaves_a_gaussian_as_it_is():
    policy = gaussian([0.0], [0.0])
    assert policy.with_epsilon(0.5) is policy


# Several


LOGITS = [torch.tensor([0.3, -1.0, 0.8]), torch.tensor([1.0, 0.0])]
MASKS = [torch.tensor([True, False, True]), torch.tensor([True, True])]


def product(masked: bool = False, rows: int = 1) -> Product:
    masks = MASKS if masked else [None, None]
    return Product(
        tuple(
            Categorical.from_logits(logits.expand(rows, -1), None if mask is None else mask.expand(rows, -1))
            for logits, mask in zip(LOGITS, masks, strict=True)
        )
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_probabilities_of_all_combinations_sum_to_one_and_give_the_entropy(masked, epsilon):
    policy = product(masked).with_epsilon(epsilon)
    every = torch.tensor(list(itertools.product(range(3), range(2))))
    log_probs = torch.cat([policy.log_prob(action[None]) for action in every])
    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    surprise = -(log_probs.exp() * log_probs.masked_fill(log_probs.isinf(), 0)).sum().item()
    assert policy.entropy().item() == pytest.approx(surprise, abs=1e-5)
    if masked:
        assert log_probs.reshape(3, 2)[1].isinf().all()


def test_combinations_are_drawn_as_often_as_their_probability_says():
    policy = product(masked=True, rows=40_000)
    drawn = policy.sample(torch.Generator().manual_seed(0))
    assert drawn.shape == (40_000, 2)
    counts = np.zeros((3, 2))
    np.add.at(counts, tuple(drawn.numpy().T), 1)
    for action in itertools.product(range(3), range(2)):
        expected = product(masked=True).log_prob(torch.tensor([action])).exp().item()
        assert abs(counts[action] / 40_000 - expected) <= 5 * math.sqrt(expected * (1 - expected) / 40_000)


def test_choices_and_numbers_stand_in_one_row():
    """log pi of the row is the sum of those of its parts, whatever type the row has."""
    box = Gaussian(torch.tensor([[0.5, -0.5]]), torch.tensor([[0.0, -0.7]]))
    choice = Categorical.from_logits(LOGITS[0][None])
    policy = Product((choice, box))
    row = torch.tensor([[2.0, 0.1, 0.2]])
    expected = choice.log_prob(torch.tensor([2])) + box.log_prob(torch.tensor([[0.1, 0.2]]))
    torch.testing.assert_close(policy.log_prob(row), expected)
    torch.testing.assert_close(policy.entropy(), choice.entropy() + box.entropy())
    assert policy.mode().tolist() == [[2.0, 0.5, -0.5]]
    drawn = policy.sample(torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float32
    assert drawn[0, 0] in (0, 1, 2)


def test_rows_of_the_first_axis_are_cut_from_all_parts():
    box = Gaussian(torch.arange(6.0).reshape(3, 2), torch.zeros(3, 2))
    policy = Product((product(rows=3).parts[0], box))[:2]
    assert policy.mode().shape == (2, 3)
    assert policy.parts[1].mean.tolist() == [[0, 1], [2, 3]]
