"""What is counted, taken once and handed on, and where the time goes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from troupe.runtime import progress as progress_module
from troupe.runtime.progress import Counts, Delta, Episode, Lag, Progress, Stopwatch, preempted_seconds


def test_rewards_are_taken_with_the_steps_that_brought_them():
    progress = Progress()
    assert progress.take_reward() == (0.0, 0)
    progress.play(4, reward=2.5)
    progress.play(2, reward=-1.0)
    assert progress.take_reward() == (1.5, 6)
    assert progress.take_reward() == (0.0, 0)
    assert progress.counts.played == 6


def test_a_delta_is_what_was_counted_since_and_is_handed_over_once():
    there, before = Progress(Counts(steps=10, played=20, updates=3)), Counts(steps=10, played=20, updates=3)
    there.play(4, [Episode(7.0, 4)], reward=7.0)
    there.update(applied=True)
    there.update(applied=False)
    there.stale()
    there.notice_once({"mask": "masks are ignored"})
    there.metrics.add({"entropy": 0.5}, 4)
    delta = there.take_delta(before)
    counted = Counts(played=4, episodes=1, updates=1, skipped_updates=1, stale=1)
    metrics = {"entropy": [2.0, 4]}
    assert delta == Delta(counted, [Episode(7.0, 4)], Lag(), {"mask": "masks are ignored"}, 7.0, metrics)
    again = there.take_delta(there.counts)
    assert again == Delta(Counts(), [], Lag(), {"mask": "masks are ignored"}, 0.0, {})


def test_a_delta_that_is_added_counts_here_as_it_did_there():
    here = Progress(Counts(steps=1, played=2, episodes=3, updates=4, skipped_updates=5, stale=6, restarts=7))
    here.play(1, reward=0.5)
    counted = Counts(steps=10, played=20, episodes=30, updates=40, skipped_updates=50, stale=60, restarts=70)
    for _ in range(2):
        here.add(Delta(counted, [Episode(7.0, 4)], Lag(5, 15, 4), {"mask": "masks are ignored"}, 2.0))
    assert here.counts == Counts(21, 43, 63, 84, 105, 126, 147)
    assert here.recent_returns() == [7.0, 7.0]
    assert here.take_episodes() == [Episode(7.0, 4)] * 2
    assert here.take_lag() == (3.0, 4)
    assert here.take_reward() == (4.5, 41)
    assert list(here.notices) == ["masks are ignored"]


def test_a_notice_about_a_thing_is_shown_once():
    progress = Progress()
    progress.notice_once({})
    progress.notice_once({"a": "first"})
    progress.notice_once({"a": "second", "b": "other"})
    progress.notice_once({"b": "third"})
    assert list(progress.notices) == ["first", "other"]


def test_a_restart_is_shown_and_its_number_returned():
    progress = Progress(Counts(restarts=2))
    assert progress.restart("actor-1: it died") == 3
    assert list(progress.notices) == ["actor-1: it died"]


def test_a_state_is_a_copy_and_is_restored_with_the_last_hundred():
    progress = Progress(Counts(steps=5))
    progress.play(3, [Episode(1.0, 3)])
    counts, recent = progress.state()
    progress.play(3, [Episode(2.0, 3)])
    assert (counts, recent) == (Counts(steps=5, played=3, episodes=1), (Episode(1.0, 3),))
    progress.restore(counts, recent)
    progress.play(1, [Episode(3.0, 1)])
    assert counts == Counts(steps=5, played=3, episodes=1)
    assert progress.recent_returns() == [1.0, 3.0]
    for number in range(200):
        progress.play(1, [Episode(float(number), 1)])
    assert len(progress.recent) == 100


# Where the time goes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two clocks of the test: the time, and that in which other programs had the processor."""
    clock = SimpleNamespace(now=100.0, taken=7.0, looks=0)

    def preempted() -> float:
        clock.looks += 1
        return clock.taken

    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(progress_module, "preempted_seconds", preempted)
    return clock


def test_before_its_first_stage_a_stopwatch_counts_nothing(clock):
    watch = Stopwatch()
    clock.now += 5
    assert watch.seconds == {}
    assert watch.start("act") == 0.0
    assert watch.stage == "act"
    clock.now += 2
    assert watch.start("env") == 2.0
    assert watch.take() == {"act": 2.0}
    assert watch.stage == "env"


def test_short_stages_are_not_looked_into(clock):
    """A look takes longer than they do."""
    watch = Stopwatch()
    looks = clock.looks
    watch.start("act")
    for _ in range(100):
        clock.now += 0.0005
        watch.start("act")
    assert clock.looks == looks
    clock.now += 0.002
    watch.start("act")
    assert clock.looks == looks + 1


@pytest.mark.parametrize(("taken", "preempted"), [(-1.0, {}), (9.0, {"preempted": 3.0})])
def test_no_stage_is_preempted_for_less_than_nothing_or_longer_than_it_took(clock, taken, preempted):
    watch = Stopwatch()
    watch.start("act")
    clock.now += 3
    clock.taken += taken
    assert watch.start("env") == 3.0 - sum(preempted.values())
    assert watch.seconds == preempted | ({} if preempted else {"act": 3.0}) | {"env": 0.0}


def test_seconds_are_added_and_moved_between_stages(clock):
    watch = Stopwatch()
    watch.add({"env": 3.0, "act": 0.0})
    watch.add({"env": 1.0})
    watch.move(1.5, "env", "env_wait")
    assert watch.seconds == {"env": 2.5, "env_wait": 1.5}
    assert watch.take() == {"env": 2.5, "env_wait": 1.5}
    assert watch.take() == {}


@pytest.mark.parametrize(
    ("text", "seconds"), [("9000000000 2500000000 77\n", 2.5), (None, 0.0), ("", 0.0), ("9000000000\n", 0.0)]
)
def test_time_without_a_processor_is_the_second_number_of_the_schedule_in_nanoseconds(
    tmp_path, monkeypatch, text, seconds
):
    monkeypatch.setattr(progress_module, "_SCHEDULE", tmp_path / "schedstat")
    if text is not None:
        (tmp_path / "schedstat").write_text(text)
    assert preempted_seconds() == pytest.approx(seconds)


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="Linux counts it")
def test_the_systems_own_count_can_be_read():
    assert 0.0 <= preempted_seconds() < 1e6
