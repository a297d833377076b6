"""Lag: the versions of the weights between acting and learning, and what happens beyond the bound."""

import numpy as np
import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.progress import Counts, Lag, Progress, lag_of

SMALL = {
    "network.hidden": (8,), "actor.count": 1, "actor.rollout_steps": 3, "actor.environments": 2,
    "actor.placement": "thread", "queue.capacity": 8, "learner.rollouts": 2, "learner.minibatches": 1,
    "learner.epochs": 1, "env.backend": "sync",
}  # fmt: skip


def test_lag_is_counted_by_step(blank):
    """Rows may differ: with predictors, the weights change within a rollout. Reset rows have none."""
    rollout = blank(3, 2)
    rollout.policy_version[:] = [[10, 7], [9, 7], [10, 0]]
    rollout.valid[2, 1] = False
    assert lag_of(rollout, 10) == Lag(steps=5, total=0 + 3 + 1 + 3 + 0, most=3)
    rollout.valid[2, 1] = True
    assert lag_of(rollout, 12) == Lag(steps=6, total=2 + 5 + 3 + 5 + 2 + 12, most=12)
    rollout.valid[:] = False
    assert lag_of(rollout, 12) == Lag(0, 0, 0)


def test_reported_lag_is_the_mean_and_the_maximum_since_the_last_report(blank):
    progress = Progress()
    old, new = blank(4, 1, policy_version=5), blank(1, 2, policy_version=9)
    progress.consume([old, new], 9)
    progress.consume([new], 11)
    assert progress.take_lag() == ((4 * 4 + 2 * 0 + 2 * 2) / 8, 4)
    assert progress.take_lag() is None
    progress.consume([new], 10)
    assert progress.take_lag() == (1.0, 1)
    assert progress.counts.steps == 4 + 2 + 2 + 2


def test_what_processes_counted_adds_up_to_what_one_would_have(blank):
    """Workers of hogwild measure lag in their processes and send what is new with every rollout."""
    rng = np.random.default_rng(1)
    alone, parent, remotes = Progress(), Progress(), [Progress(), Progress()]
    for number in range(40):
        rollout = blank(3, 2, policy_version=rng.integers(0, 50, (3, 2)))
        alone.consume([rollout], 50 + number)
        remote = remotes[number % 2]
        before = Counts(steps=parent.counts.steps, played=parent.counts.played)
        remote.counts = Counts(steps=before.steps, played=before.played)
        remote.consume([rollout], 50 + number)
        parent.add(remote.take_delta(before))
    assert parent.counts == alone.counts
    assert parent.take_lag() == alone.take_lag()


def deliver(parts, lags, newest):
    """Puts rollouts into the queue, one for each of `lags`; a pair is the lags of the two environments."""
    for number, lag in enumerate(lags):
        rollout = parts.queue.acquire()
        rollout.policy_version[:] = newest - np.array(lag)
        rollout.behaviour_log_prob[:] = np.log(1 / 3)
        rollout.actor, rollout.index = 0, number
        parts.queue.put(rollout)


def learned(parts, batches):
    """The learner alone, on what is queued: called back after each of so many batches."""
    seen = []

    def after_batch():
        seen.append(parts.progress.counts.updates)
        if len(seen) == batches:
            supervisor.end()

    with Supervisor(parts.gate, lambda: None) as supervisor:
        parts.runners = []
        parts.start(supervisor, after_batch)
        assert supervisor.wait(PATIENCE_SECONDS)
        parts.wake()
    assert supervisor.failure is None
    return seen


@pytest.mark.parametrize("stale", ["drop", "correct"])
def test_a_rollout_beyond_the_bound_is_counted_and_dropped_or_corrected(assembled, counting, stale):
    """The bound itself is allowed, one step beyond it is not; the version rises with every batch that teaches."""
    settings = SMALL | {"learner.max_lag": 4, "learner.stale": stale}
    parts = assembled(counting, settings, version=10)
    deliver(parts, [4, 5, 0, (0, 5), 9, 9], newest=10)
    seen = learned(parts, 3)
    indices = [index for _, index, _, _ in parts.progress.consumed]
    # At versions 10, 11 and 12 (or 11, when everything has been dropped): 0 and 2 are within the bound.
    assert indices == ([0, 2] if stale == "drop" else [0, 1, 2, 3, 4, 5])
    assert parts.progress.counts.stale == 4
    assert parts.progress.counts.steps == 6 * len(indices)
    assert seen == ([1, 2, 2] if stale == "drop" else [1, 2, 3])
    assert parts.master.version == 10 + seen[-1]


@pytest.mark.parametrize("stale", ["drop", "correct"])
def test_dropped_or_not_every_rollout_goes_back_to_the_actors(assembled, counting, stale):
    parts = assembled(counting, SMALL | {"learner.max_lag": 1, "learner.stale": stale}, version=10)
    capacity = parts.queue.capacity
    deliver(parts, [0, 8, 8, 8], newest=10)
    supervisor = Supervisor(parts.gate, lambda: None)
    seen = []
    parts.runners = []
    parts.start(supervisor, lambda: seen.append(1))
    while len(seen) < 2:
        assert not supervisor.wait(1e-3)
    assert len([parts.queue.acquire() for _ in range(capacity)]) == capacity
    parts.wake()
    assert supervisor.stop(PATIENCE_SECONDS) == []


def test_without_a_bound_nothing_is_stale(assembled, counting):
    parts = assembled(counting, SMALL, version=1000)
    deliver(parts, [999, 0], newest=1000)
    learned(parts, 1)
    assert parts.progress.counts.stale == 0
    assert [index for _, index, _, _ in parts.progress.consumed] == [0, 1]
    assert parts.progress.take_lag() == (999 / 2, 999)


def test_in_a_run_nothing_older_than_the_bound_is_learned_from(assembled, counting, run):
    """Two actors outrun one learner that takes what has waited for long: what it uses is within the bound."""
    settings = SMALL | {"actor.count": 3, "learner.rollouts": 1, "learner.max_lag": 2, "learner.stale": "drop"}
    parts = run(assembled(counting, settings), 200)
    lags = [newest - version for _, _, version, newest in parts.progress.consumed]
    assert parts.progress.counts.stale + len(lags) == 200
    assert max(lags) <= 2
    assert parts.progress.take_lag()[1] == max(lags)


def test_nobody_gets_a_rollout_that_is_being_learned_from(assembled, counting):
    """A single one is learned from where it lies: what fills it meanwhile would be learned instead."""
    parts = assembled(counting, SMALL | {"learner.rollouts": 1}, version=10)
    (learner,) = parts.learners
    learn, seen = learner.learn, []

    def learn_while_others_take_what_is_free(batch):
        free = []
        while (rollout := parts.queue.acquire_within(0.0)) is not None:
            free.append(rollout)
        assert not any(np.shares_memory(batch.obs, each.obs) for each in free)
        parts.queue.release(free)
        seen.append(len(free))
        learn(batch)

    learner.learn = learn_while_others_take_what_is_free
    deliver(parts, [0] * 4, newest=10)
    learned(parts, 4)
    capacity = parts.queue.capacity
    assert seen == [capacity - 4, capacity - 3, capacity - 2, capacity - 1]
