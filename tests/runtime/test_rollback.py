"""Back to better weights: what a rollback does to a master, and that nothing from before it is learned from."""

from functools import partial

import numpy as np
import pytest
import torch

from troupe.algorithm.optimizers import Adam
from troupe.config import Learner
from troupe.runtime.learning.loss_and_optimizer import optimizer_maker
from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics
from troupe.runtime.learning.weights import HogwildMaster, Master, WeightStore
from troupe.runtime.topologies import fresh

SMALL = {
    "network.hidden": (8,), "actor.count": 1, "actor.rollout_steps": 3, "actor.environments": 2,
    "actor.placement": "thread", "queue.capacity": 8, "learner.rollouts": 2, "learner.minibatches": 1,
    "learner.epochs": 1, "env.backend": "sync",
}  # fmt: skip
A3C = SMALL | {"topology": "hogwild", "loss.kind": "a3c", "learner.rollouts": 1}
BEST = torch.tensor([3.0, -1.0, 0.5])


def mean_value(outputs, batch):
    return outputs.value[:-1].mean(), {}


def plain() -> Master:
    vector = torch.zeros(3)
    return Master(vector, Adam, WeightStore(vector, 7))


def hogwild(*, shared: bool = False) -> HogwildMaster:
    make_optimizer = optimizer_maker(Learner(average_decay=0.5))
    return HogwildMaster(torch.zeros(3), make_optimizer, 2, 7, shared=shared)


@pytest.mark.parametrize("make", [plain, hogwild])
def test_a_rollback_publishes_the_best_weights_as_a_new_version(make):
    master, into = make(), torch.zeros(3)
    vector = master.vector
    master.apply(torch.ones(3), 0.1)
    master.roll_back(BEST, 0.5)
    assert torch.equal(vector, BEST)
    assert master.version == master.oldest == 8
    source = master if isinstance(master, HogwildMaster) else master.store
    assert source.pull(into, 7) == 8
    assert torch.equal(into, BEST)


@pytest.mark.parametrize("make", [plain, hogwild])
def test_steps_after_it_are_those_of_a_new_optimizer_and_smaller(make):
    """Adam's first step has the size of the step size, whatever was before: 0.1, then 0.05, then 0.025."""
    master = make()
    for _ in range(5):
        master.apply(torch.tensor([1e-3, 1.0, 1e3]), 0.1)
    for times in (1, 2):
        master.roll_back(BEST, 0.5)
        master.apply(torch.tensor([-1.0, 20.0, 1e-3]), 0.1)
        moved = (master.vector - BEST) * 2**times
        torch.testing.assert_close(moved, torch.tensor([0.1, -0.1, -0.1]), rtol=1e-4, atol=1e-5)
    assert master.step_factor == 0.25


@pytest.mark.parametrize("topology", ["async", "hogwild"])
def test_a_mean_of_the_weights_begins_again_with_the_best_ones(topology):
    config, vector = Learner(average_decay=0.9), torch.zeros(3)
    if topology == "hogwild":
        master = HogwildMaster(vector, optimizer_maker(config), 2)
    else:
        master = Master(vector, optimizer_maker(config), WeightStore(vector))
    master.apply(torch.ones(3), 0.1)
    torch.testing.assert_close(master.vector, torch.full((3,), -0.1))
    torch.testing.assert_close(master.eval_weights, torch.full((3,), -0.01))
    master.roll_back(BEST, 0.5)
    assert torch.equal(master.eval_weights, BEST)


@pytest.mark.parametrize("topology", ["async", "hogwild"])
def test_statistics_are_never_a_mean_of_statistics_nor_after_a_rollback(topology):
    """A weight, and the mean and the scale of one number: observations of 4998 and 5002 have mean 5000 and deviation 2;
    with 5008 and 5032 they have 5010 and sqrt((144 + 64 + 4 + 484) / 4) = sqrt(174)."""
    config, vector = Learner(average_decay=0.9), torch.tensor([0.0, 0.0, 1.0])
    statistics = NormalizerStatistics(1, (slice(1, 2), slice(2, 3)))
    make = optimizer_maker(config, [slice(1, 3)])
    if topology == "hogwild":
        master = HogwildMaster(vector, make, 1, statistics=statistics)
    else:
        master = Master(vector, make, WeightStore(vector), statistics)
    master.apply(torch.tensor([1.0, 0.0, 0.0]), 0.1)
    master.observe(torch.tensor([[4998.0], [5002.0]]), torch.zeros(0), 0)
    best = master.eval_weights.clone()
    torch.testing.assert_close(best, torch.tensor([-0.01, 5000.0, 0.5]))
    master.apply(torch.tensor([1.0, 0.0, 0.0]), 0.1)
    master.observe(torch.tensor([[5008.0], [5032.0]]), torch.zeros(0), 0)
    torch.testing.assert_close(master.eval_weights[1:], torch.tensor([5010.0, 174**-0.5]))
    master.roll_back(best, 0.5)
    assert torch.equal(master.eval_weights, best)
    master.observe(torch.tensor([[5000.0]]), torch.zeros(0), 0)  # of four of 5000 +- 2 before
    torch.testing.assert_close(master.eval_weights[1:], torch.tensor([5000.0, (16 / 5) ** -0.5]))


def test_workers_in_processes_see_all_of_it(elsewhere):
    def look(master, gradient):
        import torch

        into = torch.zeros(3)
        version = master.pull(into, -1)
        master.apply(torch.tensor(gradient), 0.1)
        return version, into.tolist(), master.oldest, master.step_factor

    master = hogwild(shared=True)
    elsewhere(look, master, [1.0, 1.0, 1.0]).result()
    master.roll_back(BEST, 0.5)
    assert elsewhere(look, master, [1.0, -1.0, 1.0]).result() == (8, BEST.tolist(), 8, 0.5)
    torch.testing.assert_close(master.vector - BEST, torch.tensor([-0.05, 0.05, -0.05]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(master.eval_weights, (master.vector + BEST) / 2)


@pytest.mark.parametrize("topology", ["serial", "hogwild"])
def test_the_best_weights_keep_what_they_normalise_by_when_learning_goes_on(assembled, counting, run, topology):
    """The policy that collapsed has been elsewhere; a rollout from where the best one was changes little."""
    normalised = {"network.normalize": True, "loss.normalize_reward": True}
    parts = run(assembled(counting, (A3C if topology == "hogwild" else SMALL | {"topology": "serial"}) | normalised), 5)
    master = parts.master
    best, slices = master.vector.clone(), master.statistics._slices
    rewards = master.statistics.return_std
    master.observe(torch.full((1000, 2), 500.0), torch.zeros(0), 0)
    assert (master.vector[slices[0]] - best[slices[0]]).abs().max() > 400
    counted = master.statistics.state()["moments"][0].clone()
    parts.roll_back(best, 0.5)
    assert torch.equal(master.statistics.state()["moments"][0], counted)
    master.observe(torch.zeros(1, 2), torch.zeros(0), 0)
    for each in slices:
        torch.testing.assert_close(master.vector[each], best[each], rtol=0.01, atol=0)
    assert master.statistics.return_std == rewards


# What waits


@pytest.mark.parametrize("settings", [{}, {"learner.max_lag": 50}, {"learner.max_lag": 1, "learner.stale": "drop"}])
def test_rollouts_from_before_a_rollback_are_dropped_and_counted_whatever_the_bound_on_lag(
    assembled, counting, blank, settings
):
    """One whose rows are of several versions, as GA3C has them, goes by the oldest."""
    parts = assembled(counting, SMALL | settings, version=10)
    old, new = blank(3, 2, policy_version=10), blank(3, 2, policy_version=11)
    mixed = blank(3, 2, policy_version=[[11, 11], [11, 10], [11, 11]])
    learner = parts.config.learner
    sift = partial(
        fresh, max_lag=learner.max_lag, master=parts.master, progress=parts.progress, drop=learner.stale == "drop"
    )
    assert sift([old, mixed]) == [old, mixed]
    parts.roll_back(parts.master.vector.clone(), 0.5)
    assert parts.master.version == 11
    assert sift([old, new, mixed, old]) == [new]
    assert parts.progress.counts.stale == 3


def test_a_batch_in_the_middle_of_which_it_happens_is_given_up(learner_setup, blank):
    """A learner holds a gradient, and has epochs left to make, while another one's batch is judged."""
    best = torch.full((2,), 9.0)

    def loss(outputs, batch):
        if len(made.optimizer.gradients) == 1 and made.master.oldest == 0:
            made.master.roll_back(best, 0.5)
        return mean_value(outputs, batch)

    made = learner_setup(loss, epochs=3)
    made.learner.learn(blank(2, 2))
    assert len(made.optimizer.gradients) == 1
    assert made.learner.watch.stage == "other", "it does not learn any more"
    assert torch.equal(made.master.vector, best)
    assert made.master.version == made.master.oldest == 1
    made.learner.learn(blank(2, 2, policy_version=1))
    assert len(made.optimizer.gradients) == 4


def test_a_worker_of_hogwild_gives_up_the_rollout_in_which_it_happens(assembled, counting):
    best = []

    def meanwhile(episode, step):
        if not best and episode == 0 and step == 2:
            best.append(torch.rand_like(parts.master.vector))
            parts.roll_back(best[0], 0.5)

    parts = assembled(
        lambda: counting(before_step=meanwhile), A3C | {"actor.environments": 1, "actor.rollout_steps": 5}
    )
    (runner,) = parts.runners
    runner.collect(lambda rollout: runner.queue.release([rollout]))
    assert torch.equal(parts.master.vector, best[0])
    assert (parts.progress.counts.stale, parts.progress.counts.updates, parts.progress.counts.steps) == (1, 0, 0)
    runner.collect(lambda rollout: runner.queue.release([rollout]))
    assert not torch.equal(parts.master.vector, best[0])
    assert (parts.progress.counts.stale, parts.progress.counts.updates) == (1, 1)


def test_a_serial_run_rolled_back_is_at_rest_there(assembled, counting, run):
    """Stopped now, it is left where the rollback has put it and not where its last batch did."""
    parts = assembled(counting, SMALL | {"topology": "serial"})
    best = torch.rand_like(parts.master.vector)

    def once():
        if parts.progress.counts.updates == 3 and not parts.master.oldest:
            parts.roll_back(best, 0.5)

    run(parts, 3, once)
    parts.rewind()
    moment = parts.snapshot()
    assert torch.equal(parts.master.vector, best)
    assert torch.equal(moment.weights, best)
    assert moment.version == parts.master.oldest == 4
    assert torch.equal(moment.optimizer.pop("average"), best)
    assert not np.any([part.any() for part in moment.optimizer.values()])
