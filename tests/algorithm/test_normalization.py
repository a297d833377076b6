"""Running statistics: exact whatever the order, and numbers in deviations from their mean."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from troupe.algorithm.normalization import LIMIT, Moments, Normalizer

law = settings(deadline=None, derandomize=True, max_examples=60)
tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e4, 1e4, width=32))


def moments_of(*tables: np.ndarray) -> Moments:
    moments = Moments(torch.zeros(3, 3, dtype=torch.float64))
    for table in tables:
        moments.add(torch.from_numpy(table))
    return moments


@given(st.lists(tables, min_size=1, max_size=5))
@law
def test_mean_and_deviation_are_those_of_all_rows_together(parts):
    every = np.concatenate(parts).astype(np.float64)
    moments = moments_of(*parts)
    np.testing.assert_allclose(moments.mean(), every.mean(0), rtol=1e-9, atol=1e-9)
    scale = np.abs(every).max() + 1
    np.testing.assert_allclose(moments.deviation(), every.std(0), rtol=1e-6, atol=1e-6 * scale)


@given(st.lists(tables, min_size=2, max_size=5), st.randoms(use_true_random=False))
@law
def test_who_counted_what_and_when_makes_no_difference(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    cut = random.randrange(len(parts))
    together = Moments(moments_of(*shuffled[:cut]).sums + moments_of(*shuffled[cut:]).sums)
    torch.testing.assert_close(together.sums, moments_of(*parts).sums, rtol=1e-12, atol=1e-6)


def test_nothing_counted_is_mean_0_and_deviation_1():
    assert moments_of().mean().tolist() == [0, 0, 0]
    assert moments_of().deviation().tolist() == [1, 1, 1]


def test_columns_can_be_counted_apart():
    moments = Moments(torch.zeros(3, 3, dtype=torch.float64))
    moments.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), slice(0, 2))
    moments.add(torch.tensor([[7.0]]), slice(2, None))
    assert moments.mean().tolist() == [2, 3, 7]
    assert moments.sums[0].tolist() == [2, 2, 1]


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
