"""Adam, RMSProp and the mean of weights against written-out references and torch's own; clipping by norm."""

import math

import pytest
import torch
from torch import Tensor

from troupe.algorithm.optimizers import (
    Adam,
    Averaged,
    RMSProp,
    clip_by_norm,
    eval_weights,
    load_state,
    share_state,
)


def gradients(steps: int, size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-4, 2, size, dtype=torch.float64)
    return [torch.randn(size, generator=generator, dtype=torch.float64) * scale for _ in range(steps)]


def rates(steps: int) -> list[float]:
    """A learning rate that decays to zero, as schedules do."""
    return [0.01 * (1 - k / steps) for k in range(steps)]


def follow(optimizer, steps: int = 200) -> Tensor:
    weights = torch.ones(5, dtype=torch.float64)
    for gradient, rate in zip(gradients(steps), rates(steps), strict=True):
        optimizer.step(weights, gradient, rate)
    return weights


def follow_torch(kind, steps: int = 200, **options) -> Tensor:
    weights = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer = kind([weights], **options)
    for gradient, rate in zip(gradients(steps), rates(steps), strict=True):
        weights.grad, optimizer.param_groups[0]["lr"] = gradient.clone(), rate
        optimizer.step()
    return weights.detach()


LIKE = torch.ones(5, dtype=torch.float64)
OPTIMIZERS = {"adam": Adam, "rmsprop": RMSProp, "averaged": lambda weights: Averaged(Adam(weights), weights, 0.9)}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


# Adam


@pytest.mark.parametrize(("betas", "epsilon"), [((0.9, 0.999), 1e-8), ((0.5, 0.8), 1e-3)])
def test_adam_equals_torchs_adam_over_many_steps(betas, epsilon):
    ours = follow(Adam(LIKE, beta1=betas[0], beta2=betas[1], epsilon=epsilon))
    torch.testing.assert_close(ours, follow_torch(torch.optim.Adam, betas=betas, eps=epsilon), rtol=1e-10, atol=1e-12)


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate_whatever_the_gradient():
    weights = torch.zeros(3, dtype=torch.float64)
    Adam(weights).step(weights, torch.tensor([1e-3, -1.0, 1e3], dtype=torch.float64), 0.5)
    torch.testing.assert_close(weights, torch.tensor([-0.5, 0.5, -0.5], dtype=torch.float64), rtol=1e-4, atol=0)


# RMSProp


@pytest.mark.parametrize(("decay", "epsilon", "initial"), [(0.99, 0.1, 0.0), (0.99, 0.1, 1.0), (0.9, 1e-5, 0.3)])
def test_rmsprop_is_equations_s2_and_s3_with_epsilon_inside_the_root(decay, epsilon, initial):
    expected = [1.0] * 5
    accumulator = [initial] * 5
    for gradient, rate in zip(gradients(200), rates(200), strict=True):
        for i, d in enumerate(gradient.tolist()):
            accumulator[i] = decay * accumulator[i] + (1 - decay) * d * d
            expected[i] -= rate * d / math.sqrt(accumulator[i] + epsilon)
    actual = follow(RMSProp(LIKE, decay=decay, epsilon=epsilon, initial_accumulator=initial))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_rmsprop_worked_example():
    """decay 0.75, gradient 2: g = 0.25 * 4 = 1 from zero, 1.75 from one; epsilon is 1.25 or 0.5."""
    for initial, epsilon, root in [(0.0, 1.25, 1.5), (1.0, 0.5, 1.5)]:
        weights = torch.tensor([10.0])
        RMSProp(weights, decay=0.75, epsilon=epsilon, initial_accumulator=initial).step(
            weights, torch.tensor([2.0]), 3.0
        )
        assert weights.item() == pytest.approx(10 - 3 * 2 / root)


def test_rmsprop_is_not_torchs_whose_epsilon_stands_outside_the_root():
    weights = torch.zeros(1, dtype=torch.float64)
    RMSProp(weights, decay=0.99, epsilon=0.1).step(weights, torch.ones(1, dtype=torch.float64), 1.0)
    theirs = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    theirs.grad = torch.ones(1, dtype=torch.float64)
    torch.optim.RMSprop([theirs], lr=1.0, alpha=0.99, eps=0.1).step()
    assert weights.item() == pytest.approx(-1 / math.sqrt(0.01 + 0.1))
    assert theirs.item() == pytest.approx(-1 / (math.sqrt(0.01) + 0.1))


def test_an_accumulator_that_starts_from_one_makes_the_first_steps_small_and_is_forgotten():
    gradient, moves = torch.tensor([0.01]), {}
    for initial in (0.0, 1.0):
        weights = torch.zeros(1)
        optimizer = RMSProp(weights, decay=0.99, epsilon=1e-6, initial_accumulator=initial)
        for step in range(2000):
            before = weights.item()
            optimizer.step(weights, gradient, 1e-3)
            moves[initial, step] = before - weights.item()
    assert moves[1.0, 0] < 0.01 * moves[0.0, 0]
    assert moves[1.0, 1999] == pytest.approx(moves[0.0, 1999], rel=1e-2)


# The mean of the weights


def test_the_average_counts_the_weights_after_each_step_and_those_of_the_beginning_for_the_rest():
    """With decay d, after n steps: d^n w_0 + (1 - d) sum over k of d^(n - k) w_k."""
    plain, averaged, weights = Adam(LIKE), Averaged(Adam(LIKE), LIKE, 0.8), LIKE.clone()
    seen, ours = [LIKE.clone()], LIKE.clone()
    for gradient, rate in zip(gradients(30), rates(30), strict=True):
        plain.step(weights, gradient, rate)
        averaged.step(ours, gradient, rate)
        seen.append(weights.clone())
    assert torch.equal(ours, weights), "learning goes on as if there were no mean"
    expected = 0.8**30 * seen[0] + 0.2 * sum(0.8 ** (30 - k) * seen[k] for k in range(1, 31))
    torch.testing.assert_close(averaged.average, expected, rtol=1e-12, atol=0)


def test_the_mean_of_noisy_steps_is_nearer_to_what_is_learned():
    """Of an AR(1) process's variance, p its coefficient, (1 - d)(1 + d p) / ((1 + d)(1 - d p)) is left in the mean."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((10_000,), 3.0)
    descent = RMSProp(weights, decay=1.0, epsilon=1.0)  # its accumulator stays at zero: plain descent
    optimizer, p, d = Averaged(descent, weights, 0.99), 0.95, 0.99
    for _ in range(1000):  # the gradient of the square of the distance from 1, and noise
        optimizer.step(weights, weights - 1 + torch.randn(len(weights), generator=generator), 1 - p)
    left = (optimizer.average - 1).square().mean() / (weights - 1).square().mean()
    assert float(left) == pytest.approx((1 - d) * (1 + d * p) / ((1 + d) * (1 - d * p)), rel=0.05)


def test_what_no_gradient_reaches_is_kept_as_it_is_now_whenever_it_is_looked_at():
    """Decay 0.75: the mean of 8 and two steps of -4 is 8 - 4/4 = 7, then 7 - (7 - 0)/4 = 5.25. The fixed number in the
    middle is written by another: 0, 5000 after the first step, 5005 after the second."""
    weights, plain = (
        torch.tensor([8.0, 0.0, 8.0]),
        RMSProp(torch.zeros(3), decay=1.0, epsilon=1.0),
    )  # its accumulator stays 0
    optimizer, gradient = Averaged(plain, weights, 0.75, [slice(1, 2)]), torch.tensor([4.0, 0.0, 4.0])
    assert optimizer.eval_weights(weights).tolist() == [8, 0, 8]
    for written, mean in [(5000.0, 7.0), (5005.0, 5.25)]:
        optimizer.step(weights, gradient, 1.0)
        weights[1] = written
        assert optimizer.eval_weights(weights).tolist() == [mean, written, mean]
    assert eval_weights(optimizer, weights).tolist() == [mean, written, mean]
    assert eval_weights(Adam(weights), weights) is weights


# All


@every_optimizer
def test_a_restored_optimizer_goes_on_exactly_as_the_one_that_never_stopped(optimizer):
    whole, first = optimizer(LIKE), optimizer(LIKE)
    straight, resumed = LIKE.clone(), LIKE.clone()
    for gradient in gradients(20):
        whole.step(straight, gradient, 0.01)
    for gradient in gradients(20)[:10]:
        first.step(resumed, gradient, 0.01)
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    second = optimizer(LIKE)
    load_state(second, saved)
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    for gradient in gradients(20)[10:]:
        second.step(resumed, gradient, 0.01)
    assert torch.equal(straight, resumed)
    assert all(torch.equal(saved[name], kept[name]) for name in saved), "load must copy, not share"


@every_optimizer
def test_an_optimizer_given_the_state_of_a_new_one_is_as_new_also_in_memory_that_is_shared(optimizer):
    used, new = optimizer(LIKE), optimizer(LIKE)
    shared = {name: tensor.clone() for name, tensor in used.state().items()}
    share_state(used, shared)
    for gradient in gradients(5):
        used.step(LIKE.clone(), gradient, 0.01)
    load_state(used, optimizer(LIKE).state())
    ours, theirs = LIKE.clone(), LIKE.clone()
    for gradient in gradients(8)[5:]:
        used.step(ours, gradient, 0.01)
        new.step(theirs, gradient, 0.01)
    assert torch.equal(ours, theirs)
    assert all(torch.equal(shared[name], tensor) for name, tensor in new.state().items())


@every_optimizer
def test_a_step_changes_the_weights_in_place_and_leaves_the_gradient_alone(optimizer):
    weights, gradient = LIKE.clone(), gradients(1)[0]
    view, before = weights.view(-1), gradient.clone()
    optimizer(weights).step(weights, gradient, 0.01)
    assert torch.equal(gradient, before)
    assert torch.equal(view, weights)
    assert (weights != LIKE).all()


@every_optimizer
def test_one_flat_vector_is_updated_like_its_parts(optimizer):
    weights, (gradient, *_) = LIKE.clone(), gradients(1)
    head, tail = LIKE[:2].clone(), LIKE[2:].clone()
    optimizer(weights).step(weights, gradient, 0.01)
    optimizer(head).step(head, gradient[:2], 0.01)
    optimizer(tail).step(tail, gradient[2:], 0.01)
    assert torch.equal(weights, torch.cat([head, tail]))


# Clipping


def test_a_long_gradient_is_scaled_to_the_limit_and_the_norm_it_had_is_returned():
    gradient = torch.tensor([3.0, -4.0])
    assert clip_by_norm(gradient, 0.5) == pytest.approx(5.0)
    torch.testing.assert_close(gradient, torch.tensor([0.3, -0.4]))


@pytest.mark.parametrize("gradient", [torch.tensor([3.0, 4.0]), torch.zeros(2)], ids=["at the limit", "zero"])
def test_a_gradient_within_the_limit_is_left_exactly_as_it_is(gradient):
    before = gradient.clone()
    assert clip_by_norm(gradient, 5.0) == before.norm().item()
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_says_so_and_is_not_made_to_look_finite(bad):
    gradient = torch.tensor([3.0, bad, 4.0])
    before = gradient.clone()
    assert not math.isfinite(clip_by_norm(gradient, 0.5))
    torch.testing.assert_close(gradient, before, rtol=0, atol=0, equal_nan=True)
