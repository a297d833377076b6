"""The judge: when it evaluates, which weights it keeps, and when the target counts as reached."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers.checkpoints import state
from troupe.algorithm.optimizers import Adam, Averaged
from troupe.config import Environment, Evaluation, Stop, TrainConfig
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runs.evaluate.judge import Judge, standstill, target_of
from troupe.runs.evaluate.scores import Scores
from troupe.runtime.execution.gate import Gate
from troupe.runtime.learning.weights import Master, WeightStore


class HandClock:
    """A clock that a test moves, and that remembers whether it was running."""

    def __init__(self) -> None:
        self.seconds, self.running = 0.0, True

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False


class Scripted:
    """Gives prepared returns, one list for each evaluation, and remembers how it was called."""

    def __init__(self, *returns: Sequence[float] | None):
        self.left = list(returns)
        self.asked: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def run(
        self,
        network: ActorCritic,
        episodes: int,
        seeds: np.random.SeedSequence,
        *,
        greedy: bool,
        stopped: Any,
        out_of_time: Any,
    ) -> Scores | None:
        weight = next(network.parameters()).flatten()[0].item()
        about = {"episodes": episodes, "seeds": tuple(seeds.generate_state(4)), "greedy": greedy}
        self.asked.append(about | {"weight": weight})
        self.meanwhile()
        returns = self.left.pop(0)
        if returns is None or stopped():
            return None
        if out_of_time():
            returns = returns[:1]
        return Scores(np.array(returns, float), np.ones(len(returns), int))


class Court:
    """A judge and everything around it; `after(steps, weight)` is a batch that left such weights."""

    def __init__(
        self,
        *returns: Sequence[float] | None,
        target: float | None = None,
        decay: float | None = None,
        exact: bool = False,
        seconds: float = 0.0,
        **settings: Any,
    ):
        config = Evaluation(**{"every_steps": 100, "every_seconds": 0.0, "episodes": 4, "final_episodes": 9} | settings)
        actions = Actions(gym.spaces.Discrete(1))
        body = torch.nn.Linear(1, 1, bias=False)
        network = ActorCritic(body, Packing(gym.spaces.Box(-1, 1, (1,)), actions), actions)
        self.weights = FlatWeights(network)
        self.weights.vector.zero_()
        vector = self.weights.vector
        make = Adam if decay is None else lambda vector: Averaged(Adam(vector), vector, decay)
        self.master = Master(vector, make, WeightStore(vector))
        self.optimizer = self.master.optimizer
        self.evaluator, self.gate, self.clock = Scripted(*returns), Gate(), HandClock()
        self.rows: list[dict[str, Any]] = []
        self.interrupted = False
        self.recent: list[float] = []
        whole = TrainConfig(
            env=Environment(id="x"),
            topology="serial" if exact else "async",
            evaluation=config,
            stop=Stop(seconds=seconds),
        )
        self.judge = Judge(
            whole, target, network, self.evaluator, np.random.SeedSequence(1), self.clock, self, self.rows.append
        )

    def recent_returns(self) -> list[float]:
        return self.recent

    def after(self, steps: int, weight: float = 0.0) -> bool:
        self.master.vector.fill_(weight)
        return self.evaluated(steps)

    def evaluated(self, steps: int) -> bool:
        """As a run does after a batch: whether the target has been confirmed."""
        if not self.judge.is_due(steps):
            return False
        with standstill(self.clock, self.gate):
            verdict = self.judge.evaluate(self.master.eval_weights, steps, lambda: self.gate.stopped)
        return verdict is not None and verdict.confirmed

    def evaluate_newest(self, steps: int, deadline: float = math.inf) -> bool:
        return self.judge.evaluate_newest(self.master.vector, steps, lambda: self.interrupted, deadline)

    def final_evaluation(self, steps: int, deadline: float = math.inf) -> Scores | None:
        return self.judge.final_evaluation(self.master.vector, steps, lambda: self.interrupted, deadline)

    @property
    def best(self) -> float:
        (weight,) = self.judge.best(self.master.vector).values()
        return weight.item()


# When


def test_it_is_time_every_so_many_steps_counted_from_the_last_evaluation():
    court = Court(*[[1.0]] * 9)
    judged = []
    for steps in (60, 99, 100, 150, 260, 350, 360):
        before = len(court.evaluator.asked)
        court.after(steps)
        if len(court.evaluator.asked) > before:
            judged.append(steps)
    assert judged == [100, 260, 360]


def test_it_is_time_every_so_many_seconds_of_training():
    court = Court(*[[1.0]] * 9, every_steps=0, every_seconds=2.0)
    judged = []
    for seconds in (0.5, 1.9, 2.5, 4.4, 4.6, 9.0, 10.9, 11.0):
        court.clock.seconds = seconds
        before = len(court.evaluator.asked)
        court.after(10**9)
        if len(court.evaluator.asked) > before:
            judged.append(seconds)
    assert judged == [2.5, 4.6, 9.0, 11.0]


def test_a_run_whose_training_episodes_would_confirm_the_target_need_not_wait(monkeypatch):
    """An evaluation takes 100 s here; a tenth of the time would be 900 s more of training, a third is 200."""
    wall = iter(range(0, 10**6, 100))
    monkeypatch.setattr("troupe.runs.evaluate.judge.time.perf_counter", lambda: next(wall))
    court = Court(*[[1.0]] * 9, every_steps=0, every_seconds=2.0, target=5.0)
    judged = []
    for seconds, recent in (
        (2.5, []), (150.0, [9.0] * 9), (203.0, [9.0] * 8), (204.0, [9.0] * 8 + [4.0] * 9), (205.0, [0.0, *[9.0] * 9]),
        (300.0, [9.0] * 9), (405.5, [9.0] * 9), (700.0, [4.0] * 9),
    ):  # fmt: skip
        court.clock.seconds, court.recent = seconds, recent
        before = len(court.evaluator.asked)
        court.after(10**9)
        if len(court.evaluator.asked) > before:
            judged.append(seconds)
    assert judged == [2.5, 205.0, 405.5]


def test_evaluations_by_steps_have_a_tenth_of_the_time_as_well(monkeypatch):
    """Each takes 10 s here; two seconds are free. A third of the time where training promises success."""
    judged = {}
    for exact in (False, True):
        wall = iter(range(0, 10**6, 10))
        monkeypatch.setattr("troupe.runs.evaluate.judge.time.perf_counter", lambda wall=wall: next(wall))
        court, judged[exact] = Court(*[[1.0]] * 9, target=5.0, exact=exact), []
        for steps, seconds, recent in (
            (100, 1.0, []), (200, 71.0, []), (300, 73.0, []), (400, 90.0, [9.0] * 9), (500, 94.0, [9.0] * 9),
            (600, 251.0, []), (700, 253.0, []),
        ):  # fmt: skip
            court.clock.seconds, court.recent = seconds, recent
            before = len(court.evaluator.asked)
            court.after(steps)
            if len(court.evaluator.asked) > before:
                judged[exact].append(steps)
    assert judged == {False: [100, 300, 500, 700], True: [100, 200, 300, 400, 500, 600, 700]}


def test_never_is_never():
    court = Court(every_steps=0, every_seconds=0.0)
    court.clock.seconds = 1e9
    assert not court.after(10**9)
    assert court.evaluator.asked == []


# How


def test_the_row_of_an_evaluation_has_all_its_figures_and_the_step_of_its_weights():
    court = Court([5.0, 7.0, 0.0, 4.0], [1.0], greedy=False)
    court.clock.seconds = 2.5
    court.after(100)
    court.final_evaluation(150)
    walls = [row.pop("wall") for row in court.rows]
    assert walls == sorted(walls)
    assert walls[0] > 1.7e9
    assert court.rows[0] == {
        "kind": "evaluation", "purpose": "progress", "seconds": 2.5, "steps": 100, "weights_steps": 100, "episodes": 4,
        "cut_off": 0, "unfinished": 0, "mean": 4.0, "std": pytest.approx(6.5**0.5), "min": 0.0, "max": 7.0,
        "mean_length": 1.0,
    }  # fmt: skip
    final = {name: court.rows[1][name] for name in ("purpose", "steps", "weights_steps", "episodes", "mean")}
    assert final == {"purpose": "final", "steps": 150, "weights_steps": 100, "episodes": 1, "mean": 1.0}
    assert [each["greedy"] for each in court.evaluator.asked] == [False, False]
    assert [each["episodes"] for each in court.evaluator.asked] == [4, 9]


@pytest.mark.parametrize(
    ("target", "threshold", "expected"),
    [("auto", 475.0, 475.0), ("auto", None, None), ("none", 475.0, None), (-3.5, 475.0, -3.5), (0.0, None, 0.0)],
)
def test_the_target_is_the_environments_own_or_the_one_that_is_set(target, threshold, expected):
    source = SimpleNamespace(reward_threshold=threshold)
    assert target_of(Stop(target=target), source) == expected  # type: ignore[arg-type]


def test_actors_and_the_clock_stand_still_meanwhile_and_go_on_afterwards():
    court = Court([1.0], [1.0], target=5.0)
    seen = []
    court.evaluator.meanwhile = lambda: seen.append((court.clock.running, court.gate._open.is_set()))
    court.after(100)
    court.after(200)
    assert seen == [(False, False)] * 2
    assert (court.clock.running, court.gate._open.is_set()) == (True, True)


def test_they_go_on_even_if_the_evaluation_fails():
    court = Court()
    with pytest.raises(IndexError):
        court.after(100)
    assert (court.clock.running, court.gate._open.is_set()) == (True, True)


def test_the_weights_that_are_evaluated_are_the_masters_of_that_moment_and_stay_untouched():
    court = Court([1.0], [1.0])
    court.after(100, weight=3.0)
    court.after(200, weight=4.0)
    assert [each["weight"] for each in court.evaluator.asked] == [3.0, 4.0]
    assert court.master.vector.item() == 4.0


def test_where_a_mean_of_the_weights_is_kept_it_is_what_is_evaluated_and_best():
    court = Court([9.0], decay=0.75)
    court.optimizer.step(court.master.vector, torch.ones(1), 4.0)  # from 0 to -4
    court.evaluated(100)
    assert court.evaluator.asked[0]["weight"] == court.best == pytest.approx(-1.0)
    assert court.master.vector.item() == pytest.approx(-4.0)


def test_no_two_evaluations_play_the_same_episodes():
    court = Court([9.0], [1.0], [9.0], [9.0], [1.0], target=5.0)
    court.after(100)
    court.after(200)
    court.final_evaluation(300)
    seeds = [each["seeds"] for each in court.evaluator.asked]
    assert len(seeds) == len(set(seeds)) == 5


def test_every_evaluation_is_logged_with_its_purpose():
    court = Court([5.0, 7.0], [5.0, 7.0, 9.0], [1.0], target=5.0)
    court.clock.seconds = 2.5
    court.after(100)
    court.final_evaluation(150)
    assert [(row["purpose"], row["steps"], row["mean"]) for row in court.rows] == [
        ("progress", 100, 6.0), ("confirm", 100, 7.0), ("final", 150, 1.0),
    ]  # fmt: skip
    assert {"kind": "evaluation", "seconds": 2.5, "min": 5.0, "max": 7.0, "std": 1.0}.items() <= court.rows[0].items()


# Which weights


def test_the_best_weights_are_those_with_the_highest_lower_bound_and_not_the_highest_mean():
    """16 and 10 have the mean 13 and the lower bound 8.8: better than 5 and 5, worse than 10 and 10."""
    court = Court([5.0, 5.0], [16.0, 10.0], [10.0, 10.0], [16.0, 10.0], [10.0, 10.0])
    kept = []
    for number in range(1, 6):
        court.after(100 * number, weight=float(number))
        kept.append((court.best, court.judge.best_steps))
    assert kept == [(1.0, 100), (2.0, 200), (3.0, 300), (3.0, 300), (5.0, 500)]
    assert court.judge.best_score == 10.0


def test_before_anything_has_been_evaluated_the_newest_weights_are_the_best():
    court = Court([-5.0])
    court.master.vector.fill_(7.0)
    assert court.best == 7.0
    court.after(100, weight=1.0)
    court.master.vector.fill_(9.0)
    assert court.best == 1.0


@pytest.mark.parametrize(("found", "better"), [([12.0, 12.0], True), ([3.0, 3.0], False), (None, False)])
def test_weights_that_a_run_ends_with_have_a_look_of_their_own(found, better):
    court = Court([10.0, 10.0], found)
    court.after(100, weight=1.0)
    court.master.vector.fill_(7.0)
    assert court.evaluate_newest(170) == better
    assert (court.best, court.judge.best_steps) == ((7.0, 170) if better else (1.0, 100))
    assert court.evaluator.asked[-1]["episodes"] == 4


@pytest.mark.parametrize(
    ("seconds", "newest_takes", "best_takes", "counts", "best"),
    [
        (900.0, 49.0, 50.0, [6.0, 8.0], 7.0),  # a ninth is 100 s, of which the first may have half
        (900.0, 51.0, 48.0, [6.0, 8.0], 1.0),
        (900.0, 49.0, 52.0, [6.0], 7.0),
        (9.0, 2.4, 2.5, [6.0, 8.0], 7.0),  # at least 5 s
        (9.0, 2.6, 2.5, [6.0], 1.0),
        (0.0, 1e9, 1e9, [6.0, 8.0], 7.0),  # no limit
    ],
)
def test_the_evaluations_after_a_run_share_one_deadline(monkeypatch, seconds, newest_takes, best_takes, counts, best):
    now = [1000.0]
    monkeypatch.setattr("troupe.runs.evaluate.judge.time.monotonic", lambda: now[0])
    court = Court([10.0, 10.0], [12.0, 12.0], [6.0, 8.0], seconds=seconds)
    court.after(100, weight=1.0)
    court.master.vector.fill_(7.0)
    deadline, takes = court.judge.final_deadline(), [newest_takes, best_takes]

    def plays() -> None:
        now[0] += takes.pop(0)

    court.evaluator.meanwhile = plays
    court.evaluate_newest(170, deadline)
    assert court.best == best
    assert court.final_evaluation(170, deadline).returns.tolist() == counts


def test_weights_just_evaluated_and_runs_without_evaluations_have_none():
    court = Court([10.0, 10.0])
    assert not court.evaluate_newest(50)
    court.after(100)
    assert not court.evaluate_newest(100)
    assert len(court.evaluator.asked) == 1


def test_the_last_verdict_is_on_the_best_weights_in_fresh_episodes():
    court = Court([10.0], [2.0], [6.0])
    court.after(100, weight=1.0)
    court.after(200, weight=2.0)
    scores = court.final_evaluation(200)
    assert scores.mean == 6.0
    assert (court.evaluator.asked[-1]["weight"], court.evaluator.asked[-1]["episodes"]) == (1.0, 9)


def test_a_resumed_judge_knows_the_best_of_before():
    court = Court([8.0], [12.0])
    court.judge.restore({"body.weight": torch.full((1, 1), 5.0)}, state(best_score=10.0, best_steps=70))
    court.after(100, weight=1.0)
    assert (court.best, court.judge.best_steps) == (5.0, 70)
    court.after(200, weight=2.0)
    assert (court.best, court.judge.best_steps) == (2.0, 200)


def test_a_resumed_judge_keeps_its_schedule():
    before = Court([8.0])
    before.after(130)
    court = Court([8.0])
    court.judge.restore({"body.weight": torch.zeros(1, 1)}, state(**before.judge.state()))
    for steps in (170, 229, 230):
        assert court.evaluator.asked == []
        court.after(steps)
    assert len(court.evaluator.asked) == 1


# The target


def test_a_good_look_is_confirmed_in_as_many_fresh_episodes_as_the_final_evaluation_has():
    court = Court([6.0] * 4, [5.0] * 9, target=5.0)
    assert court.after(100)
    assert [each["episodes"] for each in court.evaluator.asked] == [4, 9]


@pytest.mark.parametrize(
    ("confirming", "reached"),
    [
        ([5.0] * 9, True),
        ([4.9] * 9, False),
        ([8.0, 2.0, 5.0], False),  # mean 5, and luck may have lifted it
        ([8.0, 6.0, 5.0], False),  # mean 6.33, standard error 0.72: one would do, two do not
        ([8.0, 6.0, 7.0], True),  # mean 7, standard error 0.47
    ],
)
def test_the_target_is_reached_only_if_even_two_standard_errors_below_the_mean_are(confirming, reached):
    court = Court([6.0], confirming, target=5.0)
    assert court.after(100, weight=1.0) == reached
    verdict = Scores(np.array(confirming), np.ones(1))
    assert court.judge.best_score == verdict.lower  # the longer look counts, not the one that raised hopes


@pytest.mark.parametrize(("look", "worth"), [([6.4, 7.0, 3.6], True), ([6.0, 8.0, 3.0], False)])
def test_a_look_that_does_not_promise_the_target_of_nine_episodes_is_not_worth_confirming(look, worth):
    """Both have the mean 5.67, and two standard errors of nine episodes are 0.98 and 1.37 (of three: 1.7 and 2.4)."""
    court = Court(look, [6.0] * 9, target=4.6)
    assert court.after(100) == worth
    assert len(court.evaluator.asked) == 1 + worth


def test_a_bad_look_is_not_confirmed():
    court = Court([4.9], target=5.0)
    assert not court.after(100)
    assert len(court.evaluator.asked) == 1


def test_confirmed_weights_are_the_best_even_if_a_short_look_once_promised_more():
    court = Court([9.0], [1.0, 9.0], [6.0], [5.5], target=5.0)
    court.judge.restore({"body.weight": torch.zeros(1, 1)}, state(best_score=8.0, best_steps=10))
    assert not court.after(100, weight=1.0)
    assert court.after(200, weight=2.0)
    assert (court.best, court.judge.best_score) == (2.0, 5.5)


def test_without_a_target_nothing_is_ever_reached():
    assert not Court([1e9]).after(100)


# A stop


@pytest.mark.parametrize("returns", [([None]), ([[9.0], None])], ids=["while judging", "while confirming"])
def test_a_stop_ends_the_evaluation_and_decides_nothing(returns):
    court = Court(*returns, target=5.0)
    assert not court.after(100, weight=1.0)
    assert court.judge.best_score is None
    assert (court.gate._open.is_set(), court.clock.running) == (True, True)


@pytest.mark.parametrize("returns", [([None]), ([[9.0], None])], ids=["while judging", "while confirming"])
def test_a_stopped_evaluation_is_still_due_and_plays_the_same_episodes(returns):
    court = Court(*returns, [9.0], [9.0], target=5.0)
    state = court.judge.state()
    court.after(100)
    assert court.judge.state() == state
    assert court.after(100)
    stopped, again = court.evaluator.asked[: len(returns)], court.evaluator.asked[len(returns) :]
    assert [each["seeds"] for each in stopped] == [each["seeds"] for each in again][: len(returns)]


def test_an_evaluation_hears_of_a_stop_of_the_run():
    court = Court([9.0], target=5.0)
    court.evaluator.meanwhile = court.gate.stop
    assert not court.after(100)
    assert court.rows == []


def test_the_last_verdict_hears_of_an_interruption_only():
    """The run has been stopped by then; Ctrl-C is another matter."""
    court = Court([3.0], [3.0])
    court.gate.stop()
    assert court.final_evaluation(1).mean == 3.0
    court.interrupted = True
    assert court.final_evaluation(1) is None
