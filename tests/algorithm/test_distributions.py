"""The categorical policy: sampling, entropy, masks and the epsilon mixture."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from troupe.algorithm.distributions import Categorical

logits_lists = st.lists(st.floats(-20, 20), min_size=2, max_size=6)
epsilons = st.floats(0.01, 0.99)

LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0])
MASK = torch.tensor([True, False, True, True])
DRAWS = 40_000
CHI_SQUARE_LIMIT = 25.0  # exceeded by chance once in 10,000 for 4 degrees of freedom; the seed is fixed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def float64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def softmax(numbers: list[float]) -> list[float]:
    largest = max(numbers)
    weights = [math.exp(x - largest) for x in numbers]
    return [w / sum(weights) for w in weights]


def chi_square(samples: Tensor, probabilities: Tensor) -> float:
    """Pearson's statistic over the actions that can occur; infinite when one that cannot does."""
    counts, expected = (
        samples.flatten().bincount(minlength=len(probabilities)),
        probabilities * samples.numel(),
    )
    if counts[expected == 0].any():
        return math.inf
    return ((counts - expected).square() / expected)[expected > 0].sum().item()


# Sampling


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all allowed", "masked"])
def test_actions_are_sampled_as_often_as_their_probability_says(mask, epsilon):
    allowed = torch.ones(4, dtype=torch.bool) if mask is None else mask
    pi = torch.tensor(softmax(LOGITS.masked_fill(~allowed, -math.inf).tolist()))
    played = (1 - epsilon) * pi + epsilon * allowed / allowed.sum()
    batch_mask = None if mask is None else mask.expand(DRAWS, 4)
    policy = Categorical.from_logits(LOGITS.expand(DRAWS, 4), batch_mask).with_epsilon(epsilon)
    assert chi_square(policy.sample(seeded()), played) < CHI_SQUARE_LIMIT


def test_rows_of_a_batch_are_sampled_independently():
    policy = Categorical.from_logits(torch.zeros(DRAWS, 2, 2))
    first, second = policy.sample(seeded()).unbind(1)
    assert chi_square(2 * first + second, torch.full((4,), 0.25)) < CHI_SQUARE_LIMIT


def test_a_forbidden_action_is_never_sampled_and_never_the_mode():
    """However much the network prefers it, and though epsilon plays at random."""
    policy = Categorical.from_logits(torch.tensor([1e4, 0.0, 0.0]).expand(DRAWS, 3), torch.tensor([False, True, True]))
    assert (policy.sample(seeded()) != 0).all()
    assert (policy.with_epsilon(0.5).sample(seeded()) != 0).all()
    assert (policy.mode() != 0).all()


def test_the_only_allowed_action_is_certain():
    policy = Categorical.from_logits(LOGITS, torch.tensor([False, True, False, False]))
    for played in (policy, policy.with_epsilon(0.5)):
        assert played.sample(seeded()) == played.mode() == 1
        assert played.log_prob(torch.tensor(1)) == 0.0
        assert played.entropy() == 0.0


def test_the_same_seed_gives_the_same_actions_and_another_seed_others():
    policy = Categorical.from_logits(torch.zeros(100, 4))
    first, again, other = policy.sample(seeded(1)), policy.sample(seeded(1)), policy.sample(seeded(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampling_uses_its_own_generator_and_not_the_global_one():
    before = torch.get_rng_state()
    generator = seeded()
    policy = Categorical.from_logits(torch.zeros(100, 4))
    assert not torch.equal(policy.sample(generator), policy.sample(generator))
    assert torch.equal(torch.get_rng_state(), before)


# Log-probability and entropy


@given(logits=logits_lists)
def test_log_prob_and_entropy_are_their_sums_written_out(logits):
    probabilities = softmax(logits)
    policy = Categorical.from_logits(float64(*logits))
    for action, p in enumerate(probabilities):
        assert policy.log_prob(torch.tensor(action)).item() == pytest.approx(math.log(p), abs=1e-9)
    assert policy.entropy().item() == pytest.approx(-sum(p * math.log(p) for p in probabilities), abs=1e-9)
    assert 0 <= policy.entropy().item() <= math.log(len(logits)) + 1e-9


def test_entropy_is_in_nats():
    assert Categorical.from_logits(torch.zeros(8)).entropy().item() == pytest.approx(math.log(8))
    assert Categorical.from_logits(float64(math.log(3), 0)).entropy().item() == pytest.approx(
        0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    )


def test_every_shape_of_batch_is_served():
    policy = Categorical.from_logits(torch.randn(5, 3, 4, generator=seeded()))
    action = policy.sample(seeded())
    assert action.shape == policy.log_prob(action).shape == policy.entropy().shape == (5, 3)
    assert policy.log_prob(action)[2, 1] == policy.log_probs[2, 1, action[2, 1]]
    assert torch.equal(policy[1:3].log_prob(action[1:3]), policy.log_prob(action)[1:3])


@given(logits=logits_lists)
def test_gradients_are_those_of_calculus(logits):
    """d log pi(a) / d x_i = 1[i = a] - pi_i and d H / d x_i = - pi_i (log pi_i + H)."""
    p = float64(*softmax(logits))
    x = float64(*logits).requires_grad_()
    (of_log_prob,) = torch.autograd.grad(Categorical.from_logits(x).log_prob(torch.tensor(1)), x)
    (of_entropy,) = torch.autograd.grad(Categorical.from_logits(x).entropy(), x)
    torch.testing.assert_close(of_log_prob, torch.eye(len(logits), dtype=torch.float64)[1] - p)
    torch.testing.assert_close(of_entropy, -p * (p.log() - (p * p.log()).sum()))


@pytest.mark.parametrize("mask", [None, torch.tensor([True, True, False])], ids=["all allowed", "masked"])
def test_logits_of_ten_thousand_stay_finite(mask):
    x = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    policy = Categorical.from_logits(x, mask)
    assert policy.log_prob(torch.tensor(1)).item() == -2e4
    assert policy.entropy().item() == 0.0
    (policy.log_prob(torch.tensor(1)) + policy.entropy()).backward()
    assert x.grad.isfinite().all()
    assert policy.sample(seeded()) == policy.mode() == 0


# Masks


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_masked_policy_is_the_policy_of_the_allowed_actions_alone(scale):
    """In its probabilities, its entropy, and the gradients of both, which are zero where forbidden."""

    def worth(policy: Categorical, action: int) -> Tensor:
        return scale * (policy.log_prob(torch.tensor(action)) + 2 * policy.entropy())

    whole, alone = LOGITS.clone().requires_grad_(), LOGITS[MASK].clone().requires_grad_()
    masked, reduced = worth(Categorical.from_logits(whole, MASK), 2), worth(Categorical.from_logits(alone), 1)
    masked.backward()
    reduced.backward()
    torch.testing.assert_close(masked, reduced)
    torch.testing.assert_close(whole.grad[MASK], alone.grad)
    assert whole.grad[~MASK].item() == 0.0


def test_a_forbidden_action_has_no_probability():
    policy = Categorical.from_logits(LOGITS, MASK)
    assert policy.log_prob(torch.tensor(1)).item() == -math.inf
    assert policy.with_epsilon(0.5).log_prob(torch.tensor(1)).item() == -math.inf
    assert policy.log_probs.exp().sum().item() == pytest.approx(1.0)


# The epsilon mixture


@given(logits=logits_lists, epsilon=epsilons)
def test_log_mu_is_that_of_the_mixture(logits, epsilon):
    policy = Categorical.from_logits(float64(*logits)).with_epsilon(epsilon)
    for action, p in enumerate(softmax(logits)):
        mixed = (1 - epsilon) * p + epsilon / len(logits)
        assert policy.log_prob(torch.tensor(action)).item() == pytest.approx(math.log(mixed), abs=1e-6)


def test_the_mixture_shares_epsilon_among_allowed_actions_only():
    pi = Categorical.from_logits(float64(0.0, 5.0, math.log(3)), torch.tensor([True, False, True]))
    mixed = pi.with_epsilon(0.2).log_probs.exp()
    torch.testing.assert_close(mixed, float64(0.8 * 0.25 + 0.1, 0.0, 0.8 * 0.75 + 0.1))


def test_an_epsilon_of_zero_changes_nothing_and_of_one_forgets_the_policy():
    policy = Categorical.from_logits(LOGITS, MASK)
    assert torch.equal(policy.with_epsilon(0.0).log_probs, policy.log_probs)
    torch.testing.assert_close(policy.with_epsilon(1.0).log_probs.exp(), MASK / 3)


def test_the_mixture_gives_every_allowed_action_a_chance_where_the_policy_underflows():
    mixed = Categorical.from_logits(torch.tensor([1e4, -1e4])).with_epsilon(0.1)
    assert mixed.log_prob(torch.tensor(1)).item() == pytest.approx(math.log(0.05))


def test_the_gradient_of_a_masked_mixture_is_finite():
    x = LOGITS.clone().requires_grad_()
    Categorical.from_logits(x, MASK).with_epsilon(0.5).log_prob(torch.tensor(2)).backward()
    p = softmax(LOGITS[MASK].tolist())[1]
    of_the_chosen = 0.5 * p * (1 - p) / (0.5 * p + 0.5 / 3)
    assert x.grad[2].item() == pytest.approx(of_the_chosen, rel=1e-5)
    assert x.grad[1].item() == 0.0
    assert x.grad.isfinite().all()
