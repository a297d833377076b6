"""The judge: evaluates while training goes on, keeps the best weights, and says when the target is met."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from troupe.config import Evaluation
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runs.collapse import Score
from troupe.runs.evaluation import Evaluator, Scores
from troupe.runs.metrics import Row
from troupe.runtime.gate import Gate
from troupe.runtime.progress import Clock
from troupe.runtime.weights import HogwildMaster, Master

_PURPOSES = ("progress", "confirm", "final")
_SHARE = 9  # evaluations by the clock wait until there was this many times as much training as evaluation,
_PROMISING_SHARE = 2  # or only as the last one took, where training promises success


class Judge:
    """Plays the policy in environments of its own; actors, learners and the clock stand still meanwhile.

    The best weights are those with the highest mean less two standard errors. The target counts as
    reached when `final_episodes` fresh episodes put even that lower bound at or above it; they are played
    where an evaluation lets expect that. `heed` hears each verdict while everything stands still.

    Evaluations by the clock have a tenth of the time; where as many training episodes (`recent` gives their
    returns) would confirm the target, they have a third, so that a run that has succeeded ends.
    """

    def __init__(
        self,
        config: Evaluation,
        target: float | None,
        network: ActorCritic,
        evaluator: Evaluator,
        seeds: np.random.SeedSequence,
        gate: Gate,
        clock: Clock,
        tell: Callable[[Row], None],
        interrupted: Callable[[], bool],
        heed: Callable[[Scores, int, Tensor], None] | None = None,
        recent: Callable[[], Sequence[float]] = tuple,
    ):
        self._config, self._target = config, target
        self._network = copy.deepcopy(network).cpu()
        self._weights = FlatWeights(self._network)
        self._evaluator, self._seeds = evaluator, seeds
        self._gate, self._clock, self._tell = gate, clock, tell
        self._interrupted, self._heed, self._recent = interrupted, heed, recent
        self._next_steps, self._next_seconds = config.every_steps, config.every_seconds
        self._next_promising = config.every_seconds
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
            with self._gate.paused():
                confirmed = self._judge(master, steps)
        finally:
            if not self._gate.stopped:
                self._clock.start()
        if confirmed is None:
            return False
        self._next_steps = steps + self._config.every_steps
        spent = time.perf_counter() - began
        self._spent += spent
        self._next_promising = self._clock.seconds + max(self._config.every_seconds, _PROMISING_SHARE * spent)
        self._next_seconds = max(self._clock.seconds + self._config.every_seconds, _SHARE * self._spent)
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
        scores = self._evaluate("progress", self._config.episodes, steps, self._interrupted)
        return scores is not None and self._prefer(scores, steps)

    def last(self, newest: Tensor, steps: int) -> Scores | None:
        """The verdict on the best weights, in fresh episodes: the choice among many cannot flatter it."""
        self._weights.vector.copy_(newest if self.best_score is None else self._best)
        return self._evaluate("final", self._config.final_episodes, steps, self._interrupted)

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
        due = bool(self._config.every_steps and steps >= self._next_steps)
        if due or not self._config.every_seconds:
            return due
        seconds = self._clock.seconds
        return seconds >= self._next_seconds or (seconds >= self._next_promising and self._is_promising())

    def _is_promising(self) -> bool:
        returns = np.array(self._recent()[-self._config.final_episodes :])
        if self._target is None or len(returns) < self._config.final_episodes:
            return False
        return Score.of(returns).lower >= self._target

    def _judge(self, master: Master | HogwildMaster, steps: int) -> bool | None:
        """Whether the target has been confirmed; None where a stop came first, and then nothing is decided."""

        def stopped() -> bool:
            return self._gate.stopped

        self._weights.vector.copy_(master.kept)
        scores = self._evaluate("progress", self._config.episodes, steps, stopped)
        if scores is None:
            return None
        confirmed = False
        if self._target is not None and scores.lower_of(self._config.final_episodes) >= self._target:
            verdict = self._evaluate("confirm", self._config.final_episodes, steps, stopped)
            if verdict is None:
                return None
            scores, confirmed = verdict, verdict.lower >= self._target
        self._judged = steps
        self._prefer(scores, steps, whatever=confirmed)
        if self._heed:
            self._heed(scores, steps, self._best)
        return confirmed

    def _prefer(self, scores: Scores, steps: int, *, whatever: bool = False) -> bool:
        """Whether the weights just judged are the best so far, and kept."""
        better = whatever or self.best_score is None or scores.lower >= self.best_score
        if better:
            self._best.copy_(self._weights.vector)
            self.best_score, self.best_steps = scores.lower, steps
        return better

    def _evaluate(self, purpose: str, episodes: int, steps: int, stopped: Callable[[], bool]) -> Scores | None:
        # Of purpose and step, not of how often it has been judged: the same again after a stop.
        key = (*self._seeds.spawn_key, _PURPOSES.index(purpose), steps)
        seeds = np.random.SeedSequence(self._seeds.entropy, spawn_key=key)
        scores = self._evaluator.run(self._network, episodes, seeds, greedy=self._config.greedy, stopped=stopped)
        if scores is not None:
            row: Row = {
                "kind": "evaluation",
                "purpose": purpose,
                "wall": time.time(),
                "seconds": self._clock.seconds,
                "steps": steps,
                "episodes": episodes,
                "mean": scores.mean,
                "std": scores.std,
                "min": float(scores.returns.min()),
                "max": float(scores.returns.max()),
                "mean_length": float(scores.lengths.mean()),
            }
            self._tell(row)
        return scores
