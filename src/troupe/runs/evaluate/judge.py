"""The judge: evaluates while training goes on, keeps the best weights, and says when the target is met."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
from torch import Tensor

from troupe.config import Evaluation, Stop
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runs.evaluate.collapse import Score
from troupe.runs.evaluate.scores import Scores
from troupe.runs.evaluate.watched import GivenUp, WatchedEvaluator
from troupe.runs.store.metrics import Row
from troupe.runtime.execution.gate import Gate
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Clock

_PURPOSES = ("progress", "confirm", "final")
_SHARE = 9  # evaluations wait until there was this many times as much training as evaluation,
_PROMISING_SHARE = 2  # or only as the last one took, where training promises success
_FREE_SECONDS = 2.0  # of evaluations, before they wait for training: a run may be over by then
_LEAST_FINAL_SECONDS = 5.0  # for each evaluation after the run, where it had a limit on time


def target_of(config: Stop, source: EnvironmentSource) -> float | None:
    """The return at which the run has solved its environment; None where there is none."""
    if config.target == "auto":
        return source.reward_threshold
    return None if config.target == "none" else float(config.target)


class Judge:
    """Plays the policy in environments of its own; actors, learners and the clock stand still meanwhile.

    The best weights are those with the highest mean less two standard errors. The target counts as
    reached when `final_episodes` fresh episodes put even that lower bound at or above it; they are played
    where an evaluation lets expect that. `heed` hears each verdict while everything stands still.

    Evaluations have a tenth of the time; where as many training episodes (`recent` gives their returns) would confirm
    the target, they have a third, so that a run that has succeeded ends. Where the run has a limit on time
    (`limit_seconds`, 0 is none), one that would exceed these shares of it is given up. `exact` evaluates every so
    many steps whatever it costs. `lent` is entered around each evaluation while training, where the evaluator's
    environments are an actor's.
    """

    def __init__(
        self,
        config: Evaluation,
        target: float | None,
        network: ActorCritic,
        evaluator: WatchedEvaluator,
        seeds: np.random.SeedSequence,
        gate: Gate,
        clock: Clock,
        tell: Callable[[Row], None],
        interrupted: Callable[[], bool],
        heed: Callable[[Scores, int, Tensor], None] | None = None,
        recent: Callable[[], Sequence[float]] = tuple,
        *,
        limit_seconds: float = 0.0,
        exact: bool = False,
        lent: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self._config, self._target = config, target
        self._network = copy.deepcopy(network).cpu()
        self._weights = FlatWeights(self._network)
        self._evaluator, self._seeds = evaluator, seeds
        self._gate, self._clock, self._tell = gate, clock, tell
        self._interrupted, self._heed, self._recent = interrupted, heed, recent
        self._next_steps, self._next_seconds = config.every_steps, config.every_seconds
        self._limit_seconds, self._exact, self._lent = limit_seconds, exact, lent
        self._promising_from = 0.0  # the clock's time
        self._best = self._weights.vector.clone()
        self.best_score: float | None = None  # nothing has been judged yet
        self.best_steps = 0
        self._spent = 0.0  # seconds of all evaluations
        self._judged = -1  # the step of the last one

    def after_batch(self, master: Master | HogwildMaster, steps: int) -> bool:
        """Evaluates when it is time to; true once the target has been confirmed."""
        if not self._due(steps):
            return False
        began = time.perf_counter()
        self._clock.stop()
        try:
            with self._lent(), self._gate.paused():
                confirmed = self._judge(master, steps, began)
        except GivenUp:
            confirmed = False
        finally:
            if not self._gate.stopped:
                self._clock.start()
        if confirmed is None:
            return False
        spent = time.perf_counter() - began
        self._spent += spent
        self._next_steps = steps + self._config.every_steps
        self._next_seconds = self._clock.seconds + self._config.every_seconds
        self._promising_from = self._clock.seconds + _PROMISING_SHARE * spent
        return confirmed

    def best(self, newest: Tensor) -> dict[str, Tensor]:
        """The best weights by name; `newest` where nothing has been judged."""
        vector = newest if self.best_score is None else self._best
        return {name: part.cpu().clone() for name, part in self._weights.named(vector).items()}

    def look_again(self, newest: Tensor, steps: int) -> bool:
        """Whether the weights that a run ends with, which nobody may have looked at for long, are the best."""
        if self.best_score is None or self._judged == steps:
            return False
        self._weights.vector.copy_(newest)
        over = self._final_deadline()
        stopped = lambda: self._interrupted() or over()  # noqa: E731
        scores = None
        with suppress(GivenUp):
            scores = self._evaluate("progress", self._config.episodes, steps, stopped)
        return scores is not None and self._prefer(scores, steps)

    def last(self, newest: Tensor, steps: int) -> Scores | None:
        """The verdict on the best weights, in fresh episodes: the choice among many cannot flatter it.

        Where the run has a limit on time, the episodes that could be played in a tenth of it, or 5 s.
        """
        self._weights.vector.copy_(newest if self.best_score is None else self._best)
        with suppress(GivenUp):
            episodes = self._config.final_episodes
            return self._evaluate("final", episodes, steps, self._interrupted, self._final_deadline())
        return None

    def state(self) -> dict[str, Any]:
        """All but the best weights. An evaluation that was stopped has left no trace here: it is still due."""
        return {
            "best_score": self.best_score,
            "best_steps": self.best_steps,
            "next_steps": self._next_steps,
            "next_seconds": self._next_seconds,
            "evaluation_seconds": self._spent,
        }

    def restore(self, best: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Takes up where a checkpoint left off."""
        self._network.load_state_dict(dict(best))
        self._best.copy_(self._weights.vector)
        self.best_score, self.best_steps = state["best_score"], state["best_steps"]
        self._next_steps = state.get("next_steps", self._next_steps)
        self._next_seconds = state.get("next_seconds", self._next_seconds)
        self._spent = state.get("evaluation_seconds", 0.0)

    def _due(self, steps: int) -> bool:
        config, seconds = self._config, self._clock.seconds
        by_steps = bool(config.every_steps) and steps >= self._next_steps
        if by_steps and self._exact:
            return True
        if not by_steps and not (config.every_seconds and seconds >= self._next_seconds):
            return False
        if seconds >= _SHARE * (self._spent - _FREE_SECONDS):
            return True
        return seconds >= self._promising_from and self._is_promising()

    def _is_promising(self) -> bool:
        returns = np.array(self._recent()[-self._config.final_episodes :])
        if self._target is None or len(returns) < self._config.final_episodes:
            return False
        return Score.of(returns).lower >= self._target

    def _judge(self, master: Master | HogwildMaster, steps: int, began: float) -> bool | None:
        """Whether the target has been confirmed; None where a stop came first, and then nothing is decided.

        Raises GivenUp where an evaluation takes too long."""

        def stopped_with(share: float) -> Callable[[], bool]:
            if not self._limit_seconds:
                return lambda: self._gate.stopped
            most = began - self._spent + self._limit_seconds / share + _FREE_SECONDS
            return lambda: self._gate.stopped or time.perf_counter() > most

        self._weights.vector.copy_(master.eval_weights)
        stopped = stopped_with(_PROMISING_SHARE if self._is_promising() else _SHARE)
        scores = self._evaluate("progress", self._config.episodes, steps, stopped)
        if scores is None:
            self._check_time()
            return None
        confirmed = False
        if self._target is not None and scores.lower_of(self._config.final_episodes) >= self._target:
            stopped = stopped_with(_PROMISING_SHARE)
            verdict = self._evaluate("confirm", self._config.final_episodes, steps, stopped)
            if verdict is None:
                self._check_time()
                return None
            scores, confirmed = verdict, verdict.lower >= self._target
        self._judged = steps
        self._prefer(scores, steps, whatever=confirmed)
        if self._heed:
            self._heed(scores, steps, self._best)
        return confirmed

    def _check_time(self) -> None:
        """Of an evaluation that came to nothing: it was the limit on time, where nobody has stopped the run."""
        if self._limit_seconds and not self._gate.stopped:
            raise GivenUp

    def _prefer(self, scores: Scores, steps: int, *, whatever: bool = False) -> bool:
        """Whether the weights just judged are the best so far, and kept."""
        better = whatever or self.best_score is None or scores.lower >= self.best_score
        if better:
            self._best.copy_(self._weights.vector)
            self.best_score, self.best_steps = scores.lower, steps
        return better

    def _final_deadline(self) -> Callable[[], bool]:
        """Whether an evaluation that begins now, after the run's end, has had its time."""
        if not self._limit_seconds:
            return lambda: False
        end = time.monotonic() + max(self._limit_seconds / _SHARE, _LEAST_FINAL_SECONDS)
        return lambda: time.monotonic() > end

    def _evaluate(
        self,
        purpose: str,
        episodes: int,
        steps: int,
        stopped: Callable[[], bool],
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> Scores | None:
        # Of purpose and step, not of how often it has been judged: the same again after a stop.
        key = (*self._seeds.spawn_key, _PURPOSES.index(purpose), steps)
        seeds = np.random.SeedSequence(self._seeds.entropy, spawn_key=key)
        scores = self._evaluator.run(
            self._network, episodes, seeds, greedy=self._config.greedy, stopped=stopped, out_of_time=out_of_time
        )
        if scores is not None:
            row: Row = {
                "kind": "evaluation",
                "purpose": purpose,
                "wall": time.time(),
                "seconds": self._clock.seconds,
                "steps": steps,
                "episodes": len(scores.returns),
                "cut_off": scores.cut_off,
                "unfinished": scores.unfinished,
                "mean": scores.mean,
                "std": scores.std,
                "min": float(scores.returns.min()),
                "max": float(scores.returns.max()),
                "mean_length": float(scores.lengths.mean()),
            }
            self._tell(row)
        return scores
