"""Evaluations in a thread of their own: those that hang are given up, and so are those that do not stop in time."""

import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from helpers import PATIENCE_SECONDS
from troupe import UsageError
from troupe.config import resolve
from troupe.environments import find
from troupe.runs.evaluate import watched
from troupe.runs.evaluate.evaluation import BorrowingEvaluator
from troupe.runs.evaluate.scores import Scores
from troupe.runs.evaluate.watched import GivenUp, WatchedEvaluator, make_evaluator

SCORES = Scores(np.ones(2), np.ones(2))


class Blocks:
    """An evaluator that does what it is told: returns, or waits until the test lets it go, as in a step."""

    def __init__(self) -> None:
        self.let_go, self.asked, self.closed = threading.Event(), dict[str, Any](), False
        self.blocks = False

    def run(self, network: Any, episodes: int, seeds: Any, **how: Any) -> Scores:
        self.asked = {"network": network, "episodes": episodes, "seeds": seeds, **how}
        if self.blocks:
            how["pulse"][0] = 1.0  # has not answered since long ago
            assert self.let_go.wait(PATIENCE_SECONDS)
        return SCORES

    def close(self) -> None:
        self.closed = True


class Made:
    """Makes them; `broken` is what making one raises."""

    def __init__(self) -> None:
        self.evaluators: list[Blocks] = []
        self.broken: Exception | None = None

    def __call__(self) -> Any:
        if self.broken:
            raise self.broken
        self.evaluators.append(Blocks())
        return self.evaluators[-1]


@pytest.fixture
def made():
    made = Made()
    yield made
    for each in made.evaluators:
        each.let_go.set()


def never() -> bool:
    return False


def run(
    evaluator: WatchedEvaluator, stopped: Callable[[], bool] = never, out_of_time: Callable[[], bool] = never
) -> Any:
    network: Any = "a network"
    seeds = np.random.SeedSequence(3)
    return evaluator.run(network, 7, seeds, greedy=False, stopped=stopped, out_of_time=out_of_time)


def test_an_evaluation_has_what_it_was_asked_for_and_its_result_comes_back(made):
    evaluator = WatchedEvaluator(made, "X-v0", 60.0, pytest.fail)
    assert run(evaluator) is SCORES
    assert run(evaluator) is SCORES
    (one,) = made.evaluators  # the same environments again
    asked = one.asked
    assert (asked["network"], asked["episodes"], asked["greedy"]) == ("a network", 7, False)
    assert (asked["stopped"], asked["out_of_time"], asked["seeds"].entropy) == (never, never, 3)
    assert asked["pulse"].tolist() == [0.0]
    evaluator.close()
    assert one.closed


def test_one_that_hangs_is_given_up_and_the_next_makes_new_environments(made):
    noticed: list[str] = []
    evaluator = WatchedEvaluator(made, "X-v0", 1e-3, noticed.append)
    made.evaluators[0].blocks = True
    with pytest.raises(GivenUp):
        run(evaluator)
    (notice,) = noticed
    assert notice.startswith("an evaluation is given up, and the run continues: ")
    assert "X-v0" in notice
    evaluator.close()
    assert not made.evaluators[0].closed  # it is in the middle of a step
    assert run(evaluator) is SCORES
    assert len(made.evaluators) == 2
    evaluator.close()
    assert made.evaluators[1].closed


def test_where_no_others_can_be_made_there_are_no_further_evaluations_and_that_is_said_once(made):
    noticed: list[str] = []
    evaluator = WatchedEvaluator(made, "X-v0", 1e-3, noticed.append)
    made.evaluators[0].blocks = True
    with pytest.raises(GivenUp):
        run(evaluator)
    made.broken = OSError("in use")
    for _ in range(2):
        with pytest.raises(GivenUp):
            run(evaluator)
    assert noticed[1:] == ["there are no further evaluations: OSError: in use"]
    evaluator.close()


@pytest.mark.parametrize("why", ["stopped", "out_of_time"])
def test_one_that_does_not_answer_after_a_stop_is_abandoned(made, why, monkeypatch):
    noticed: list[str] = []
    for name in ("_STOP_SECONDS", "_TIME_SECONDS"):
        monkeypatch.setattr(watched, name, 0.1 if (name == "_STOP_SECONDS") == (why == "stopped") else 1e9)
    evaluator = WatchedEvaluator(made, "X-v0", 0.0, noticed.append)
    made.evaluators[0].blocks = True
    assert run(evaluator, **{why: lambda: True}) is None
    assert noticed == ["an evaluation is still in a step of X-v0, and is abandoned"]
    evaluator.close()
    assert not made.evaluators[0].closed
    assert run(evaluator) is SCORES


def test_what_an_evaluation_raises_is_raised(made):
    evaluator = WatchedEvaluator(made, "X-v0", 60.0, pytest.fail)
    made.evaluators[0].run = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        run(evaluator)


# What a run is evaluated by


class Lender:
    """An actor that lends its environment."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def lend(self) -> Any:
        self.events.append("lends")
        return "its environment"

    @contextmanager
    def lent(self):
        self.events.append("lent")
        yield


@pytest.mark.parametrize("only_once", [False, True])
def test_a_run_evaluates_in_environments_of_its_own_or_in_those_that_an_actor_lends(only_once, counting):
    made: list[int] = []

    def env() -> gym.Env[Any, Any]:
        made.append(1)
        if only_once and len(made) > 1:
            raise OSError("in use")
        return counting()

    settings = {"evaluation.episodes": 3, "evaluation.final_episodes": 5, "evaluation.max_steps": 9}
    config, lender = resolve("X-v0", settings=settings), Lender()
    source = find(env)
    made[:] = [1] if only_once else []
    if only_once:
        with pytest.raises(UsageError, match="made 5 times"):
            make_evaluator(config, source, None, pytest.fail)
    evaluator, lent = make_evaluator(config, source, lender, pytest.fail)  # type: ignore[arg-type]
    inner = evaluator._evaluator
    assert inner is not None
    assert inner._max_steps == 9
    if only_once:
        assert isinstance(inner, BorrowingEvaluator)
        assert inner._environment == "its environment"
        with lent():
            assert lender.events == ["lends", "lent"]
    else:
        assert lent is nullcontext
        assert inner._environment.count == 5
        assert lender.events == []
        evaluator.close()
