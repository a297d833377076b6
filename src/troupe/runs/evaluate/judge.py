"""The judge: evaluates during training, keeps the best weights, and decides when the target is reached."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from troupe.config import Stop, TrainConfig
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runs.evaluate.collapse import Score
from troupe.runs.evaluate.scores import Scores
from troupe.runs.evaluate.watched import GivenUp, WatchedEvaluator
from troupe.runs.store.metrics import Row
from troupe.runs.store.state import State
from troupe.runtime.execution.gate import Gate
from troupe.runtime.progress import Clock, Progress

_PURPOSES = ("progress", "confirm", "final")
_SHARE = 9  # evaluations wait until there was this many times as much training as evaluation,
_PROMISING_SHARE = 2  # or this many times as much as the last one took, if training returns reach the target
_FREE_SECONDS = 2.0  # of evaluations, before they wait for training: a run may be over by then
_LEAST_FINAL_SECONDS = 5.0  # for the evaluations after a run with a time limit

Condition = Callable[[], bool]


@dataclass(frozen=True)
class Verdict:
    """The result of evaluating the weights of step `steps`."""

    scores: Scores
    steps: int
    improved: bool  # they are the best so far
    confirmed: bool  # the target, in fresh episodes
    best_weights: Tensor
    best_steps: int


def target_of(config: Stop, source: EnvironmentSource) -> float | None:
    """The mean return at which the run is solved; None without a target."""
    if config.target == "auto":
        return source.reward_threshold
    return None if config.target == "none" else float(config.target)


@contextmanager
def standstill(
    clock: Clock, gate: Gate, lent: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[None]:
    """Actors, learners and the training clock are paused inside. `lent` is entered first: with it, an actor lends its
    environment to an evaluation that has none."""
    clock.stop()
    try:
        with lent(), gate.paused():
            yield
    finally:
        if not gate.stopped:
            clock.start()


class Judge:
    """Evaluates the policy in separate environments.

    The best weights are those with the highest mean less two standard errors. The target counts as
    reached when `final_episodes` fresh episodes put even that lower bound at or above it; these are played
    when an ordinary evaluation makes it likely.

    Evaluations take a tenth of the time; a third, once the latest training episodes would confirm the target, so that
    a run that has succeeded ends soon. In a run with a time limit, an evaluation that would exceed its share is
    abandoned. A serial run evaluates every so many steps whatever it costs. `log` takes a row for each evaluation.
    """

    def __init__(
        self,
        config: TrainConfig,
        target: float | None,
        network: ActorCritic,
        evaluator: WatchedEvaluator,
        seeds: np.random.SeedSequence,
        clock: Clock,
        progress: Progress,
        log: Callable[[Row], None],
    ):
        self._config, self._target, self._limit_seconds = config.evaluation, target, config.stop.seconds
        self._exact = config.traits.serial
        self._network = copy.deepcopy(network).cpu()
        self._weights = FlatWeights(self._network)
        self._evaluator, self._seeds = evaluator, seeds
        self._clock, self._progress, self._log = clock, progress, log
        self._next_steps, self._next_seconds = self._config.every_steps, self._config.every_seconds
        self._promising_from = 0.0  # the clock's time
        self._best = self._weights.vector.clone()
        self.best_score: float | None = None  # before the first evaluation
        self.best_steps = 0
        self._spent = 0.0  # seconds of all evaluations
        self._evaluated = -1  # the step of the last one

    def is_due(self, steps: int) -> bool:
        """Whether it is time for an evaluation."""
        config, seconds = self._config, self._clock.seconds
        by_steps = bool(config.every_steps) and steps >= self._next_steps
        if by_steps and self._exact:
            return True
        if not by_steps and not (config.every_seconds and seconds >= self._next_seconds):
            return False
        if seconds >= _SHARE * (self._spent - _FREE_SECONDS):
            return True
        return seconds >= self._promising_from and self._is_promising()

    def evaluate(self, weights: Tensor, steps: int, stopped: Condition) -> Verdict | None:
        """Evaluates `weights`, while the run is paused.

        None if the run was `stopped` first, and then the evaluation is still due; or if it was given up.
        """
        began = time.perf_counter()
        try:
            verdict = self._verdict(weights, steps, stopped, began)
        except GivenUp:
            verdict = None
        else:
            if verdict is None:
                return None
        spent = time.perf_counter() - began
        self._spent += spent
        self._next_steps = steps + self._config.every_steps
        self._next_seconds = self._clock.seconds + self._config.every_seconds
        self._promising_from = self._clock.seconds + _PROMISING_SHARE * spent
        return verdict

    def best(self, newest: Tensor) -> dict[str, Tensor]:
        """The best weights by name; `newest` before the first evaluation."""
        vector = newest if self.best_score is None else self._best
        return {name: part.cpu().clone() for name, part in self._weights.named(vector).items()}

    def final_deadline(self) -> float:
        """The time (time.monotonic) by which the evaluations after a run that ends now must be over: they share a ninth
        of the time limit, at least 5 s."""
        seconds = max(self._limit_seconds / _SHARE, _LEAST_FINAL_SECONDS)
        return time.monotonic() + seconds if self._limit_seconds else math.inf

    def evaluate_newest(self, newest: Tensor, steps: int, interrupted: Condition, deadline: float = math.inf) -> bool:
        """Evaluates the weights that a run ends with, unless that has been done; returns whether they are the best.

        Takes at most half of the time until the `deadline`.
        """
        if self.best_score is None or self._evaluated == steps:
            return False
        self._weights.vector.copy_(newest)
        half = (time.monotonic() + deadline) / 2
        scores = None
        with suppress(GivenUp):
            stopped = lambda: interrupted() or time.monotonic() > half  # noqa: E731
            scores = self._play("progress", self._config.episodes, steps, stopped)
        return scores is not None and self._keep_best(scores, steps)

    def final_evaluation(
        self, newest: Tensor, steps: int, interrupted: Condition, deadline: float = math.inf
    ) -> Scores | None:
        """Evaluates the best weights in fresh episodes: their earlier score is biased, as they were chosen by it.

        What was played until the `deadline` counts; None if the evaluation was interrupted or abandoned.
        """
        self._weights.vector.copy_(newest if self.best_score is None else self._best)
        of_step = steps if self.best_score is None else self.best_steps
        out_of_time = lambda: time.monotonic() > deadline  # noqa: E731
        with suppress(GivenUp):
            return self._play("final", self._config.final_episodes, steps, interrupted, out_of_time, of_step=of_step)
        return None

    def state(self) -> dict[str, Any]:
        """All but the best weights. An evaluation that was stopped has left no trace here: it is still due."""
        return {
            "best_score": self.best_score,
            "best_steps": self.best_steps,
            "next_steps": self._next_steps,
            "next_seconds": self._next_seconds,
            "evaluation_seconds": self._spent,
            "target": self._target,
        }

    def restore(self, best: Mapping[str, Tensor], state: State) -> None:
        """Continues from a checkpoint."""
        self._network.load_state_dict(dict(best))
        self._best.copy_(self._weights.vector)
        self.best_score, self.best_steps, self._spent = state.best_score, state.best_steps, state.evaluation_seconds
        self._next_steps = self._next_steps if state.next_steps is None else state.next_steps  # earlier versions had
        self._next_seconds = self._next_seconds if state.next_seconds is None else state.next_seconds  # neither

    def _is_promising(self) -> bool:
        if self._target is None:
            return False
        returns = np.array(self._progress.recent_returns()[-self._config.final_episodes :])
        return len(returns) == self._config.final_episodes and Score.of(returns).lower >= self._target

    def _verdict(self, weights: Tensor, steps: int, stopped: Condition, began: float) -> Verdict | None:
        """None if a stop came first. Raises GivenUp if an evaluation takes too long."""

        def play(purpose: str, episodes: int, share: float) -> Scores | None:
            latest = began - self._spent + self._limit_seconds / share + _FREE_SECONDS

            def ended() -> bool:
                return stopped() or (self._limit_seconds > 0 and time.perf_counter() > latest)

            scores = self._play(purpose, episodes, steps, ended)
            if scores is None and self._limit_seconds and not stopped():
                raise GivenUp
            return scores

        self._weights.vector.copy_(weights)
        share = _PROMISING_SHARE if self._is_promising() else _SHARE
        scores, confirmed = play("progress", self._config.episodes, share), False
        if scores is None:
            return None
        if self._target is not None and scores.lower_of(self._config.final_episodes) >= self._target:
            scores = play("confirm", self._config.final_episodes, _PROMISING_SHARE)
            if scores is None:
                return None
            confirmed = scores.lower >= self._target
        self._evaluated = steps
        improved = self._keep_best(scores, steps, always=confirmed)
        return Verdict(scores, steps, improved, confirmed, self._best, self.best_steps)

    def _keep_best(self, scores: Scores, steps: int, *, always: bool = False) -> bool:
        """Keeps the weights just evaluated if they are the best so far; returns whether they are."""
        better = always or self.best_score is None or scores.lower >= self.best_score
        if better:
            self._best.copy_(self._weights.vector)
            self.best_score, self.best_steps = scores.lower, steps
        return better

    def _play(
        self,
        purpose: str,
        episodes: int,
        steps: int,
        stopped: Condition,
        out_of_time: Condition = lambda: False,
        *,
        of_step: int | None = None,
    ) -> Scores | None:
        """`of_step`: the training step of the evaluated weights, if not `steps`."""
        # Seeded by purpose and step, not by the number of evaluations so far: the same again after a stop.
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
                "weights_steps": steps if of_step is None else of_step,
                "episodes": len(scores.returns),
                "cut_off": scores.cut_off,
                "unfinished": scores.unfinished,
                "mean": scores.mean,
                "std": scores.std,
                "min": float(scores.returns.min()),
                "max": float(scores.returns.max()),
                "mean_length": float(scores.lengths.mean()),
            }
            self._log(row)
        return scores
