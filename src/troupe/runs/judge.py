"""The judge: evaluates while training goes on, keeps the best weights, and says when the target is met."""

import copy
import time
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from troupe.config import Evaluation
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runs.evaluation import Evaluator, Scores
from troupe.runs.metrics import Row
from troupe.runtime.gate import Gate
from troupe.runtime.progress import Clock
from troupe.runtime.weights import HogwildMaster, Master

_SHARE = 9  # evaluations by the clock are followed by at least this many times their own duration of training


class Judge:
    """Plays the greedy policy in environments of its own; actors, learners and the clock stand still meanwhile.

    The best weights are those with the highest mean less two standard errors. The target counts as
    reached when `final_episodes` fresh episodes put even that lower bound at or above it.
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
    ):
        self._config, self._target = config, target
        self._network = copy.deepcopy(network).cpu()
        self._weights = FlatWeights(self._network)
        self._evaluator, self._seeds = evaluator, seeds
        self._gate, self._clock, self._tell = gate, clock, tell
        self._interrupted = interrupted
        self._next_steps, self._next_seconds = config.every_steps, config.every_seconds
        self._best = self._weights.vector.clone()
        self.best_score: float | None = None  # nothing has been judged yet
        self.best_steps = 0

    def after_batch(self, master: Master | HogwildMaster, steps: int) -> bool:
        """Evaluates when it is time to; true once the target has been confirmed."""
        if not self._due(steps):
            return False
        began = time.perf_counter()
        self._clock.stop()
        try:
            with self._gate.paused():
                return self._judge(master, steps)
        finally:
            if not self._gate.stopped:
                self._clock.start()
            spent = time.perf_counter() - began
            self._next_seconds = self._clock.seconds + max(self._config.every_seconds, _SHARE * spent)

    def best(self, newest: Tensor) -> dict[str, Tensor]:
        """The best weights by name; `newest` where nothing has been judged."""
        vector = newest if self.best_score is None else self._best
        return {name: part.cpu().clone() for name, part in self._weights.named(vector).items()}

    def last(self, newest: Tensor, steps: int) -> Scores | None:
        """The verdict on the best weights, in fresh episodes: the choice among many cannot flatter it."""
        self._weights.vector.copy_(newest if self.best_score is None else self._best)
        return self._evaluate("final", self._config.final_episodes, steps, self._interrupted)

    def restore(self, best: Mapping[str, Tensor], score: float | None, steps: int) -> None:
        """Takes up where a checkpoint left off."""
        self._network.load_state_dict(dict(best))
        self._best.copy_(self._weights.vector)
        self.best_score, self.best_steps = score, steps

    def _due(self, steps: int) -> bool:
        due = bool(self._config.every_steps and steps >= self._next_steps)
        due |= bool(self._config.every_seconds and self._clock.seconds >= self._next_seconds)
        if due:
            self._next_steps = steps + self._config.every_steps
        return due

    def _judge(self, master: Master | HogwildMaster, steps: int) -> bool:
        def stopped() -> bool:
            return self._gate.stopped

        self._weights.vector.copy_(master.vector)
        scores = self._evaluate("progress", self._config.episodes, steps, stopped)
        if scores is None:
            return False
        confirmed = False
        if self._target is not None and scores.mean >= self._target:
            verdict = self._evaluate("confirm", self._config.final_episodes, steps, stopped)
            if verdict is None:
                return False
            scores, confirmed = verdict, verdict.lower >= self._target
        if confirmed or self.best_score is None or scores.lower >= self.best_score:
            self._best.copy_(self._weights.vector)
            self.best_score, self.best_steps = scores.lower, steps
        return confirmed

    def _evaluate(self, purpose: str, episodes: int, steps: int, stopped: Callable[[], bool]) -> Scores | None:
        (seeds,) = self._seeds.spawn(1)
        scores = self._evaluator.run(self._network, episodes, seeds, stopped=stopped)
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
