"""Statistics that several write: who reads finds every batch whole."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics

PLACES = slice(0, 1), slice(1, 2)
ROWS, NONE = torch.full((5, 1), 3.0), torch.zeros(0)


class Killed(BaseException):
    pass


def broken_off(statistics: NormalizerStatistics, writer: int) -> None:
    """Writes a batch of ROWS up to the middle: they are counted, and their mean is not."""

    def half(rows: torch.Tensor, columns: slice) -> None:
        statistics._moments[writer, 0, columns] += len(rows)
        raise Killed

    whole, statistics._of_writers[writer] = statistics._of_writers[writer], SimpleNamespace(add=half)
    with pytest.raises(Killed):
        statistics.add(ROWS, NONE, writer)
    statistics._of_writers[writer] = whole


@pytest.mark.parametrize("shared", [False, True])
def test_who_reads_in_the_middle_of_a_batch_reads_again(shared: bool) -> None:
    """Counted alone, five times 3 have a mean of 0."""
    statistics, vector = NormalizerStatistics(1, PLACES, 2, shared=shared), torch.zeros(2)
    broken_off(statistics, 1)
    looks: list[int] = []

    class Ended:
        """The writer goes on when it has been looked at twice."""

        def copy(self) -> np.ndarray:
            looks.append(1)
            if len(looks) == 3:
                statistics._moments[1, 1, 0] = 3.0
                statistics._block["ended"][1] = 1
            copied: np.ndarray = statistics._block["ended"].copy()
            return copied

    statistics._ended = Ended()  # type: ignore[assignment]
    statistics.write_to(vector)
    assert vector.tolist() == [3.0, pytest.approx(2**21 / 3)]
    assert len(looks) == 3


def test_a_writer_killed_in_an_update_blocks_no_reader_and_its_successor_repairs_it() -> None:
    statistics, vector = NormalizerStatistics(1, PLACES, 2), torch.zeros(2)
    broken_off(statistics, 1)
    statistics.write_to(vector)
    statistics.add(ROWS, NONE, 1)
    assert statistics._begun.tolist() == statistics._ended.tolist() == [0, 2]


def test_what_another_process_gets_reads_and_writes_the_same_numbers() -> None:
    sent = NormalizerStatistics(1, PLACES, 2, shared=False)
    sent.add(ROWS, NONE, 0)
    received, vector = pickle.loads(pickle.dumps(sent)), torch.zeros(2)
    received.add(ROWS, NONE, 1)
    received.write_to(vector)
    assert vector[0] == 3.0  # of both alike
