"""Weights that are published here and pulled there: whole, and of the version that is returned with them."""

import copy
import threading

import numpy as np
import pytest
import torch

from helpers import PATIENCE_SECONDS
from troupe.algorithm.optimizers import RMSProp
from troupe.config import Learner
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.learning.loss_and_optimizer import optimizer_maker
from troupe.runtime.learning.weights import HogwildMaster, WeightStore


def uniform(value: float, size: int = 64) -> torch.Tensor:
    return torch.full((size,), float(value))


def test_who_pulls_gets_the_newest_weights_and_their_version():
    store, into = WeightStore(uniform(7), 7), uniform(0)
    assert store.pull(into, -1) == 7
    for version in range(8, 20):
        assert store.publish(uniform(version)) == version == store.version
        assert store.pull(into, version - 1) == version
        assert (into == version).all()


def test_who_has_the_newest_weights_is_not_given_them_again():
    store, into = WeightStore(uniform(7), 7), uniform(-1)
    assert store.pull(into, 7) == 7
    assert (into == -1).all()


def test_what_is_published_is_a_copy():
    store, into, learned = WeightStore(uniform(0)), uniform(-1), uniform(1)
    store.publish(learned)
    learned.fill_(99)
    assert store.pull(into, 0) == 1
    assert (into == 1).all()


def test_an_actor_may_pull_into_bfloat16():
    """Each weight becomes the bfloat16 next to it: eight bits, so within one part in 256 of what it was."""
    published = torch.randn(64, generator=torch.Generator().manual_seed(0))
    store, into = WeightStore(published, 3), torch.zeros(64, dtype=torch.bfloat16)
    assert store.pull(into, -1) == 3
    assert into.dtype == torch.bfloat16
    assert ((into.float() - published).abs() <= published.abs() / 256).all()
    assert torch.equal(into, published.to(torch.bfloat16))
    store.publish(-published)
    assert store.pull(into, 3) == 4
    assert torch.equal(into, -published.to(torch.bfloat16))
    exact = torch.zeros(64)
    store.pull(exact, -1)
    assert torch.equal(exact, -published)  # what is in the store is not rounded


class Interrupted:
    """Weights, or a buffer for them, that something happens to when half of them are copied."""

    def __init__(self, vector: torch.Tensor, happens):
        self.vector, self.happens = vector, happens

    def copy_(self, source: torch.Tensor) -> None:
        half = len(self.vector) // 2
        self.vector[:half] = source[:half]
        self.happens()
        self.vector[half:] = source[half:]


@pytest.mark.parametrize("times", range(13))
def test_a_reader_whom_the_writer_laps_reads_again(times):
    """However many versions are published while half the weights are read, what comes out is whole."""
    reader = WeightStore(uniform(5), 5)
    writer = copy.copy(reader)  # as another process has it: the same memory, locks of its own
    left = [times, 1, 0, 2, 0]  # what is published in the middle of the first reading, the second, ...

    def publish() -> None:
        for _ in range(left.pop(0) if left else 0):
            writer.publish(uniform(writer.version + 1))

    into = Interrupted(uniform(-1), publish)
    version = reader.pull(into, -1)
    assert (into.vector == version).all()
    assert 5 <= version <= writer.version


def test_a_version_is_announced_when_it_is_whole():
    """Whoever pulls in the middle of a publication gets the version before it."""
    reader = WeightStore(uniform(0))
    writer = copy.copy(reader)
    seen = []

    def pull() -> None:
        into = uniform(-1)
        seen.append((reader.pull(into, -1), into))

    writer._copies = [Interrupted(each, pull) for each in writer._copies]
    for version in range(1, 10):
        writer.publish(uniform(version))
    assert [version for version, _ in seen] == list(range(9))
    assert all((into == version).all() for version, into in seen)


def test_weights_are_never_torn_in_threads_and_processes(elsewhere):
    """A writer fills whole vectors with the version's number; each of thousands of reads is uniform and is
    what its version says."""
    last, size = 3000, 40_000

    def read(store, last):
        import torch

        into, version, reads, torn = torch.empty(size), -1, 0, 0
        while version < last:
            found = store.pull(into, version)
            torn += bool((into != found).any() or found < version)
            version, reads = found, reads + 1
        return reads, torn

    store = WeightStore(uniform(0, size), shared=True)
    calls = [elsewhere(read, store, last) for _ in range(2)]
    in_a_thread: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: in_a_thread.append(read(store, last)))
    thread.start()
    for version in range(1, last + 1):
        store.publish(uniform(version, size))
    thread.join(PATIENCE_SECONDS)
    results = [call.result() for call in calls] + in_a_thread
    assert len(results) == 3
    assert [torn for _, torn in results] == [0, 0, 0]


# Hogwild


def hogwild(workers: int = 2, version: int = 0, *, shared: bool = False) -> HogwildMaster:
    config = Learner(optimizer="rmsprop", decay=0.9, epsilon=0.1, initial_accumulator=0.5)
    return HogwildMaster(torch.arange(4.0), optimizer_maker(config), workers, version, shared=shared)


def test_one_worker_updates_as_the_optimizer_does():
    master, vector = hogwild(), torch.arange(4.0)
    optimizer = RMSProp(vector, decay=0.9, epsilon=0.1, initial_accumulator=0.5)
    for number in range(5):
        gradient = torch.tensor([1.0, -2.0, 0.0, number])
        master.apply(gradient, 0.1)
        optimizer.step(vector, gradient, 0.1)
    assert torch.equal(master.vector, vector)
    assert torch.equal(master.optimizer.state()["square"], optimizer.square)


@pytest.mark.parametrize("first", [0, 1])
def test_workers_in_processes_share_weights_and_statistics(elsewhere, first):
    """One after the other, two processes and this one: all their gradients are in one squared average (eq. S2),
    and each step divides by what all have left there (eq. S3)."""

    def work(master, number, gradient):
        import torch

        master.apply(torch.tensor(gradient), 0.1)
        master.count(number)
        return master.version, master.optimizer.state()["square"].tolist()

    master = hogwild(shared=True)
    gradients = [[1.0, 0.0, -3.0, 0.5], [0.0, 2.0, 4.0, 0.5], [5.0, 5.0, 5.0, 5.0]]
    theta, g = np.arange(4.0), np.full(4, 0.5)
    for version, gradient in enumerate(gradients, 1):
        who = (first + version) % 2
        seen = elsewhere(work, master, who, gradient).result() if version < 3 else work(master, who, gradient)
        d = np.array(gradient)
        g = 0.9 * g + 0.1 * d**2
        theta = theta - 0.1 * d / np.sqrt(g + 0.1)
        assert seen[0] == version
        np.testing.assert_allclose(seen[1], g, rtol=1e-5)
        np.testing.assert_allclose(master.vector.numpy(), theta, rtol=1e-5)
        np.testing.assert_allclose(master.optimizer.state()["square"].numpy(), g, rtol=1e-5)
    assert master.version == 3


def test_no_update_is_missing_from_the_version_however_workers_interleave(elsewhere):
    workers, each = 3, 60_000

    def count(master, number, go, updates):
        go["there"][number] = True
        while not go["there"].all():
            pass
        for _ in range(updates):
            master.count(number)

    master = hogwild(workers, 70, shared=True)
    go = Block({"there": ((workers,), np.bool_)}, shared=True)
    calls = [elsewhere(count, master, number, go, each) for number in range(workers)]
    for call in calls:
        call.result()
    assert master.version == 70 + workers * each


def test_who_pulls_from_hogwild_always_gets_the_weights_as_they_are():
    """The version may be the same while an update is half done: there is no 'newest already'."""
    master, into = hogwild(version=3), torch.zeros(4)
    assert master.pull(into, -1) == 3
    master.apply(torch.ones(4), 0.1)
    assert master.pull(into, 3) == 3
    assert torch.equal(into, master.vector)
