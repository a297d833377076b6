"""GA3C's controller on a machine whose speed is a function of the numbers, and whose clock is ours."""

import math
import re
import types

import pytest

from troupe.config import Adjust
from troupe.runtime.execution import controller
from troupe.runtime.execution.controller import Controller
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.worker_counts import WorkerCounts
from troupe.runtime.progress import Progress

START = {"actors": 8, "predictors": 1, "learners": 1}
MOST = {"actors": 32, "predictors": 4, "learners": 4}


class Machine:
    """Steps per second are `speed(numbers, second)`; `sleep` is what lets time pass."""

    def __init__(self, monkeypatch, speed, pauses=lambda second: False, end_seconds=3000.0):
        self.now, self.speed, self.pauses, self.end_seconds = 0.0, speed, pauses, end_seconds
        self.gate, self.progress = Gate(), Progress()
        self.numbers = WorkerCounts(self.gate, *START.values())
        self.seen: list[dict[str, int]] = []
        clock = types.SimpleNamespace(perf_counter=lambda: self.now, sleep=self.sleep, monotonic=lambda: self.now)
        monkeypatch.setattr(controller, "time", clock)
        monkeypatch.setattr(Gate, "is_paused", property(lambda gate: self.pauses(self.now)))

    def sleep(self, seconds: float) -> None:
        if not self.seen or self.seen[-1] != self.numbers.current:
            self.seen.append(dict(self.numbers.current))
        self.now += seconds
        if not self.pauses(self.now):
            self.progress.counts.steps += self.speed(self.numbers.current, self.now) * seconds
        if self.now > self.end_seconds:
            self.gate.stop()

    def control(self) -> dict[str, int]:
        """The numbers that the controller settles at first."""
        config = Adjust(
            every_seconds=2.0, most_actors=MOST["actors"], most_predictors=MOST["predictors"],
            most_learners=MOST["learners"],
        )  # fmt: skip
        settled = []

        class Notices(type(self.progress.news)):
            def append(inner, notice):
                super().append(notice)
                if "settled" in notice:
                    settled.append(dict(self.numbers.current))
                    self.gate.stop()

        self.progress.news = Notices()
        with pytest.raises(Closed):
            Controller(config, self.numbers, self.progress, self.gate).run()
        assert settled, "it never settled"
        return settled[0]


def hill(actors, predictors, learners, *, width=1.0):
    """A hill with its top there: twice as many or half as many of something cost the same."""
    top = {"actors": actors, "predictors": predictors, "learners": learners}

    def speed(numbers, second=0.0):
        return 10_000 * math.exp(-sum((math.log(numbers[kind] / top[kind]) / width) ** 2 for kind in top))

    return speed


def bottleneck(numbers, second=0.0):
    """The slowest stage says how fast all are; threads beyond what a stage needs cost a little.

    On the way, no two stages are equally slow: there, no single number would make a difference.
    """
    stages = 470 * numbers["actors"], 5300 * numbers["predictors"], 3000 * numbers["learners"]
    return min(*stages, 9000) * (1 - 0.002 * sum(numbers.values()))


def best(speed):
    return max(
        speed({"actors": a, "predictors": p, "learners": m})
        for a in range(1, MOST["actors"] + 1)
        for p in range(1, MOST["predictors"] + 1)
        for m in range(1, MOST["learners"] + 1)
    )


HILLS = {
    "where it starts": hill(8, 1, 1),
    "few": hill(2, 1, 1),
    "one": hill(1, 1, 1, width=0.5),
    "many": hill(32, 4, 4),
    "beyond the bounds": hill(100, 9, 9),
    "in between": hill(13, 2, 3),
    "wide": hill(24, 3, 1, width=2.0),
    "the slowest stage": bottleneck,
}


@pytest.mark.parametrize("name", HILLS)
def test_it_ends_within_a_tenth_of_the_best(monkeypatch, name):
    speed = HILLS[name]
    settled = Machine(monkeypatch, speed).control()
    assert speed(settled) >= 0.9 * best(speed)


@pytest.mark.parametrize("name", HILLS)
def test_no_trial_leaves_the_bounds(monkeypatch, name):
    machine = Machine(monkeypatch, HILLS[name])
    machine.control()
    assert all(1 <= numbers[kind] <= MOST[kind] for numbers in machine.seen for kind in MOST)


def test_what_does_not_help_is_put_back(monkeypatch):
    """On the top of the hill everything is tried, and nothing kept."""
    machine = Machine(monkeypatch, hill(8, 2, 2))
    machine.numbers.set(predictors=2, learners=2)
    assert machine.control() == {"actors": 8, "predictors": 2, "learners": 2}
    tried = {tuple(numbers.values()) for numbers in machine.seen}
    alone = {(10, 2, 2), (6, 2, 2), (8, 3, 2), (8, 1, 2), (8, 2, 3), (8, 2, 1)}
    assert tried == {(8, 2, 2)} | alone | {(10, 3, 2), (10, 2, 3), (8, 3, 3), (10, 3, 3)}
    *trials, settled = machine.progress.news
    assert len(trials) == 10
    assert all(trial.endswith("back") for trial in trials)
    assert settled == "controller: settled at 8 actors, 2 predictors, 2 learners"


def test_a_gain_within_the_noise_is_none(monkeypatch):
    """Two per cent for every actor more: a quarter more of them must bring 3 % to be kept."""
    machine = Machine(monkeypatch, lambda numbers, second: 1000 + 10 * (numbers["actors"] - 8))
    assert machine.control() == START  # two more bring 2 %


def test_a_machine_that_becomes_faster_or_slower_by_itself_persuades_it_of_nothing(monkeypatch):
    """Old, new, new, old: a drift counts as much for the one as for the other."""
    for drift in (0.02, -0.02):
        with monkeypatch.context() as patch:
            machine = Machine(patch, lambda numbers, second, drift=drift: 1000 * (3 + drift * second))
            assert machine.control() == START


def test_time_in_which_the_run_is_paused_does_not_count(monkeypatch):
    """An evaluation of half a second in every 1.3: the speeds are those of training."""
    speed = hill(13, 2, 3)
    machine = Machine(monkeypatch, speed, pauses=lambda second: second % 1.3 < 0.5)
    assert speed(machine.control()) >= 0.9 * best(speed)
    kept = [notice for notice in machine.progress.news if notice.endswith("kept")]
    assert kept
    first = re.search(r": ([\d,]+) -> ([\d,]+) steps/s", machine.progress.news[0])
    measured = [float(each.replace(",", "")) for each in first.groups()]
    assert measured[0] == pytest.approx(speed(START), rel=0.06)
    assert measured[1] == pytest.approx(speed(START | {"actors": 10}), rel=0.06)


def test_it_tries_again_after_a_while(monkeypatch):
    """The best numbers are others in the second half of the run."""
    first, second = hill(8, 1, 1), hill(8, 4, 1)
    machine = Machine(monkeypatch, lambda numbers, now: (first if now < 60 else second)(numbers), end_seconds=400.0)
    with pytest.raises(Closed):
        Controller(Adjust(every_seconds=2.0), machine.numbers, machine.progress, machine.gate).run()
    assert second(machine.numbers.current) >= 0.9 * best(second)


def test_two_numbers_that_help_only_together_are_found(monkeypatch):
    """Predictors and learners hold it up equally: neither alone brings anything."""

    def speed(numbers, second=0.0):
        return min(500 * numbers["actors"], 2000 * numbers["predictors"], 2000 * numbers["learners"])

    assert speed(Machine(monkeypatch, speed).control()) >= 0.9 * best(speed)


def test_it_hears_the_end_of_the_run_within_one_look(monkeypatch):
    machine = Machine(monkeypatch, hill(8, 1, 1), end_seconds=3.01)
    with pytest.raises(Closed):
        Controller(Adjust(every_seconds=1000.0), machine.numbers, machine.progress, machine.gate).run()
    assert machine.now < 3.1


def test_a_trial_has_its_time_and_a_round_without_a_gain_is_followed_by_a_rest(monkeypatch):
    """Of every 2 s: it waits so long for a start, then makes trials of four times 1/8 and 1/2 s, and rests for 60 s."""
    machine, times = Machine(monkeypatch, hill(8, 2, 2), end_seconds=100.0), []

    class Timed(type(machine.progress.news)):
        def append(inner, notice):
            times.append(machine.now)

    machine.numbers.set(predictors=2, learners=2)
    machine.progress.news = Timed()
    with pytest.raises(Closed):
        Controller(Adjust(every_seconds=2.0), machine.numbers, machine.progress, machine.gate).run()
    first, *others = times[:11]
    assert first == pytest.approx(2.0 + 2.5, abs=0.3)
    assert others[-1] - first == pytest.approx(9 * 2.5, abs=2.0)
    assert times[11] - times[10] == pytest.approx(60.0 + 2.5, abs=1.0)


def test_what_it_tried_is_news_with_both_speeds(monkeypatch):
    machine = Machine(monkeypatch, lambda numbers, second: 1000 + 100 * numbers["predictors"])
    machine.control()
    assert "controller: 1 -> 2 predictors: 1,100 -> 1,200 steps/s, kept" in machine.progress.news
    assert "controller: 8 -> 10 actors: 1,100 -> 1,100 steps/s, back" in machine.progress.news
    assert machine.progress.news[-1] == "controller: settled at 8 actors, 4 predictors, 1 learners"
