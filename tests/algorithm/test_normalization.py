"""Running statistics: exact whatever the order, and numbers in deviations from their mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from troupe.algorithm.normalization import LIMIT, Normalizer, RunningMoments, least_std

tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e4, 1e4, width=32))


def moments_of(*tables: np.ndarray) -> RunningMoments:
    moments = RunningMoments(torch.zeros(3, 3, dtype=torch.float64))
    for table in tables:
        moments.add(torch.from_numpy(table))
    return moments


@given(st.lists(tables, min_size=1, max_size=5))
def test_mean_and_deviation_are_those_of_all_rows_together(parts):
    every = np.concatenate(parts).astype(np.float64)
    moments = moments_of(*parts)
    np.testing.assert_allclose(moments.mean(), every.mean(0), rtol=1e-9, atol=1e-9)
    scale = np.abs(every).max() + 1
    np.testing.assert_allclose(moments.std(), every.std(0), rtol=1e-6, atol=1e-6 * scale)


@given(st.lists(tables, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_who_counted_what_and_when_makes_no_difference(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    cut = random.randrange(len(parts))
    together = RunningMoments.merged(
        torch.stack([moments_of(*half).parts for half in (shuffled[:cut], shuffled[cut:])])
    )
    torch.testing.assert_close(together.parts, moments_of(*parts).parts, rtol=1e-9, atol=1e-6)


def test_the_digits_of_large_numbers_that_differ_little_are_kept_whoever_counted_them():
    """1.7e9 + (0, 1, 2): mean 1.7e9 + 1, variance 2/3. A sum of squares of them has no digit left for that."""
    numbers = 1.7e9 + np.array([[0.0], [1.0], [2.0]] * 1000)
    halves = [RunningMoments.empty(1), RunningMoments.empty(1)]
    for i, batch in enumerate(np.split(numbers, 30)):
        halves[i % 2].add(torch.from_numpy(batch))
    both = RunningMoments.merged(torch.stack([each.parts for each in halves]))
    assert float(both.mean()[0]) == pytest.approx(1.7e9 + 1, abs=1e-5, rel=0)
    assert float(both.std()[0]) == pytest.approx((2 / 3) ** 0.5, rel=1e-6)


def test_one_writer_alone_has_its_own_moments_to_the_last_bit():
    moments = moments_of(np.random.default_rng(0).normal(7, 1e-3, (99, 3)))
    assert torch.equal(RunningMoments.merged(moments.parts[None]).parts, moments.parts)


def test_sums_of_an_earlier_version_are_read():
    """Of 1, 2, 6: mean 3, squared differences 4 + 1 + 9."""
    assert RunningMoments.of_sums(torch.tensor([[3.0], [9.0], [41.0]])).parts.tolist() == [[3], [3], [14]]


def test_an_exact_normaliser_tells_numbers_apart_that_are_one_number_in_float32():
    normalizer, mean = Normalizer(1, exact=True), 1.7e9 + 1
    normalizer.mean.fill_(mean)
    normalizer.mean_rest.fill_(mean - float(torch.tensor(mean).float()))
    shown = normalizer(torch.tensor([[1.7e9], [1.7e9 + 1], [1.7e9 + 2], [0.0]], dtype=torch.float64))
    assert shown.tolist() == [[-1], [0], [1], [-LIMIT]]
    assert shown.dtype == torch.float32


@pytest.mark.parametrize(("around", "precision", "least"), [
    (0.0, torch.float32, 1e-12), (0.0, torch.float64, 1e-12), (-1e6, torch.float32, 1e6 / 2**21),
    (1.7e9, torch.float64, 1.7e9 / 2**50),
])  # fmt: skip
def test_what_counts_as_constant_goes_by_the_size_of_the_numbers(around, precision, least):
    assert float(least_std(torch.tensor(around, dtype=torch.float64), precision)) == pytest.approx(least)


def test_nothing_counted_is_mean_0_and_deviation_1():
    assert moments_of().mean().tolist() == [0, 0, 0]
    assert moments_of().std().tolist() == [1, 1, 1]


def test_columns_can_be_counted_apart():
    moments = RunningMoments(torch.zeros(3, 3, dtype=torch.float64))
    moments.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), slice(0, 2))
    moments.add(torch.tensor([[7.0]]), slice(2, None))
    assert moments.mean().tolist() == [2, 3, 7]
    assert moments.parts[0].tolist() == [2, 2, 1]


def test_numbers_come_out_in_deviations_from_their_mean_and_never_beyond_the_limit():
    normalizer = Normalizer(2)
    normalizer.mean.copy_(torch.tensor([10.0, -1.0]))
    normalizer.scale.copy_(torch.tensor([0.5, 4.0]))
    assert normalizer(torch.tensor([[12.0, -1.0], [10.0, 99.0], [-1e6, -2.0]])).tolist() == [
        [1, 0], [0, LIMIT], [-LIMIT, -4],
    ]  # fmt: skip


def test_no_gradient_reaches_the_statistics():
    normalizer = Normalizer(2)
    x = torch.ones(1, 2, requires_grad=True)
    normalizer(x).sum().backward()
    assert normalizer.mean.grad is None
    assert x.grad.tolist() == [[1, 1]]
