"""What the parts share: weights and their versions, counters, clocks, and how much each explores."""

import threading

import numpy as np
import pytest
import torch

from troupe.config import Exploration, UsageError
from troupe.runtime import progress as progress_module
from troupe.runtime.acting.actor_plan import epsilon_schedules
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Clock, Episode, Progress, Stopwatch

# Weights


def test_a_version_counts_how_often_weights_were_published():
    store = WeightStore(torch.zeros(3), version=5)
    assert [store.publish(torch.full((3,), float(i))) for i in range(3)] == [6, 7, 8]
    pulled = torch.zeros(3)
    assert store.pull(pulled, 5) == 8
    assert pulled.tolist() == [2.0] * 3


def test_weights_are_copied_only_if_there_are_newer_ones():
    store = WeightStore(torch.ones(3))
    mine = torch.zeros(3)
    assert store.pull(mine, 0) == 0
    assert mine.tolist() == [0.0] * 3
    assert store.pull(mine, -1) == 0
    assert mine.tolist() == [1.0] * 3


def test_what_is_published_is_a_copy_both_ways():
    vector = torch.zeros(3)
    store = WeightStore(vector)
    store.publish(vector.fill_(1.0))
    vector.fill_(2.0)
    pulled = torch.empty(3)
    store.pull(pulled, 0)
    assert pulled.tolist() == [1.0] * 3
    pulled.fill_(3.0)
    again = torch.empty(3)
    store.pull(again, 0)
    assert again.tolist() == [1.0] * 3


def test_pulled_weights_are_never_of_two_versions():
    """Version k has the weights k everywhere; a copy begun in the middle of a publication would mix two."""
    store = WeightStore(torch.zeros(100_000))
    done = threading.Event()

    def publish() -> None:
        vector = torch.zeros(100_000)
        while not done.is_set():
            vector += 1
            store.publish(vector)

    publisher = threading.Thread(target=publish)
    publisher.start()
    pulled = torch.empty(100_000)
    try:
        for _ in range(300):
            version = store.pull(pulled, -1)
            assert pulled.min() == pulled.max() == version
    finally:
        done.set()
        publisher.join()


# Progress


def test_lag_is_counted_by_step_in_mean_and_maximum(blank):
    progress = Progress()
    progress.consume([blank(4, 2, policy_version=7), blank(2, 2, policy_version=9)], version=10)
    progress.consume([blank(3, 4, policy_version=10)], version=10)
    assert progress.counts.steps == 8 + 4 + 12
    assert progress.take_lag() == ((3 * 8 + 1 * 4 + 0 * 12) / 24, 3)
    assert progress.take_lag() is None


def test_reset_rows_are_no_steps_that_were_learned_from(blank):
    rollout = blank(4, 2)
    rollout.valid[1, 0] = rollout.valid[3, 1] = False
    progress = Progress()
    progress.consume([rollout], version=0)
    assert progress.counts.steps == 6


def test_episodes_are_taken_once_and_the_last_hundred_are_kept():
    progress = Progress()
    for number in range(150):
        progress.play(3, [Episode(float(number), 3)])
    assert [each.total for each in progress.take_episodes()] == list(range(150))
    assert progress.take_episodes() == []
    assert [each.total for each in progress.recent] == list(range(50, 150))
    assert (progress.counts.played, progress.counts.episodes) == (450, 150)


def test_counts_are_exact_among_many_threads(blank):
    progress, rollout = Progress(), blank(1, 3)

    def work() -> None:
        for _ in range(500):
            progress.play(2, [Episode(1.0, 2)])
            progress.consume([rollout], 1)
            progress.update(applied=True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = progress.counts
    assert (counts.played, counts.episodes, counts.steps, counts.updates) == (4000, 2000, 6000, 2000)
    assert progress.take_lag() == (1.0, 1)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    return now


def test_a_stopped_clock_does_not_advance(now):
    clock = Clock(5.0)
    now[0] += 1
    assert clock.seconds == 5.0
    clock.start()
    now[0] += 2
    clock.start()  # again changes nothing
    assert clock.seconds == 7.0
    clock.stop()
    now[0] += 50
    clock.stop()
    clock.start()
    now[0] += 1
    assert clock.seconds == 8.0


@pytest.mark.usefixtures("never_preempted")
def test_a_stopwatch_gives_every_second_to_one_stage(now):
    watch = Stopwatch()
    now[0] += 9  # before the first
    for stage, seconds in [("act", 1), ("env", 2), ("act", 4)]:
        watch.start(stage)
        now[0] += seconds
    assert watch.seconds == {"act": 5.0, "env": 2.0}  # with the one under way
    watch.move(1.5, "env", "env_wait")
    assert watch.take() == {"act": 5.0, "env": 0.5, "env_wait": 1.5}
    now[0] += 3
    assert watch.seconds == {"act": 3.0}


def test_what_other_programs_took_is_no_part_of_a_stage(now, monkeypatch):
    kept = [5.0]
    monkeypatch.setattr("troupe.runtime.progress.preempted_seconds", lambda: kept[0])
    watch = Stopwatch()
    watch.start("act")
    now[0] += 3
    kept[0] += 2
    assert watch.start("env") == 1.0
    assert watch.seconds == {"act": 1.0, "preempted": 2.0, "env": 0.0}


def test_what_was_spent_elsewhere_is_all_that_a_stopwatch_has_which_starts_nothing(now):
    watch = Stopwatch()
    now[0] += 9
    watch.add({"env": 2.0})
    assert watch.seconds == {"env": 2.0}


# Exploration


def test_epsilon_falls_linearly_and_then_stays():
    """The article's: from 0.40 to 0.15 over 75,000 steps."""
    article = Exploration(epsilon=(0.40,), epsilon_end=(0.15,), decay_steps=75_000)
    (schedule,) = epsilon_schedules(article, 1, np.random.default_rng(0))
    values = [schedule(played) for played in (0, 30_000, 75_000, 10**9)]
    assert values == pytest.approx([0.40, 0.30, 0.15, 0.15])


def test_listed_values_are_assigned_in_turn():
    made = epsilon_schedules(Exploration(epsilon=(0.1, 0.4), epsilon_end=(0.0,)), 3, np.random.default_rng(0))
    assert [(each.first, each.last) for each in made] == [(0.1, 0.0), (0.4, 0.0), (0.1, 0.0)]


def test_without_an_end_epsilon_is_constant():
    (made,) = epsilon_schedules(Exploration(epsilon=(0.3,)), 1, np.random.default_rng(0))
    assert made(0) == made(10**9) == 0.3


@pytest.mark.parametrize("distribution", ["uniform", "loguniform"])
def test_sampled_values_lie_between_the_first_and_the_last(distribution):
    config = Exploration(epsilon=(0.001, 0.9), distribution=distribution)
    starts = np.array([each.first for each in epsilon_schedules(config, 400, np.random.default_rng(0))])
    assert len(set(starts)) == 400
    assert 0.001 <= starts.min() < starts.max() <= 0.9
    middle = 0.9005 / 2 if distribution == "uniform" else (0.001 * 0.9) ** 0.5
    assert 0.4 < (starts < middle).mean() < 0.6


def test_a_loguniform_distribution_from_zero_is_refused():
    with pytest.raises(UsageError, match=r"exploration\.epsilon = 0, 0\.5: .* above 0"):
        epsilon_schedules(Exploration(epsilon=(0.0, 0.5), distribution="loguniform"), 2, np.random.default_rng(0))
