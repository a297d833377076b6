"""Running moments against NumPy's of all numbers at once."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.algorithm.running import Running

law = settings(deadline=None, derandomize=True, max_examples=40)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8))
@law
def test_however_the_stream_is_cut_the_moments_are_those_of_all_its_numbers(seed, sizes):
    numbers = np.random.default_rng(seed).normal(1e3, [1.0, 1e-2], (sum(sizes) + 1, 2)).astype(np.float32)
    running = Running(2)
    for part in np.split(numbers, np.cumsum(sizes)):
        running.update(torch.from_numpy(part))
    assert running.count == len(numbers)
    np.testing.assert_allclose(running.mean, numbers.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(running.deviation, numbers.std(0, dtype=np.float64), rtol=1e-5, atol=1e-7)


def test_nothing_yet_has_mean_and_deviation_zero():
    assert (Running(1).mean.item(), Running(1).deviation.item()) == (0.0, 0.0)


def test_it_goes_on_from_its_state_bit_for_bit():
    first, second, rest = Running(3), Running(3), torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    first.update(rest[:20])
    second.restore(first.state())
    for running in (first, second):
        running.update(rest[20:])
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.deviation, second.deviation)
