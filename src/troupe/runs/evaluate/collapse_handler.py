"""What a run does about a collapse: reports it, and may roll back to the best weights."""

import time
from collections.abc import Callable

import numpy as np

from troupe.config import TrainConfig
from troupe.runs.evaluate.collapse import CollapseWatch, Score
from troupe.runs.evaluate.judge import Verdict
from troupe.runs.evaluate.scores import Scores
from troupe.runs.store.metrics import Row
from troupe.runs.store.state import Rescue
from troupe.runtime.topologies import Topology
from troupe.text import format_return


class CollapseHandler:
    """Recognises a collapse in the verdicts of a run, and answers it as `collapse.answer` says."""

    def __init__(self, config: TrainConfig, topology: Topology, log: Callable[[Row], None]):
        self._config, self._topology, self._log = config.collapse, topology, log
        self._episodes = config.evaluation.episodes
        self._watch = CollapseWatch(config.collapse.loss, config.collapse.evaluations)
        self.collapses = self.rollbacks = 0

    def on_batch(self) -> None:
        """Takes the first training episodes as the level at which the run began: they cost nothing, and the first
        evaluation may be of a policy that has already learned."""
        progress = self._topology.progress
        if self._watch.first is None and len(progress.recent) >= self._episodes:
            self._watch.begin(Score.of(np.array(progress.recent_returns())))

    def on_evaluation(self, verdict: Verdict, seconds: float) -> None:
        """Answers a collapse, while the run is paused. `seconds`: of training so far."""
        scores, steps, best_steps = verdict.scores, verdict.steps, verdict.best_steps
        training = self._topology.progress.recent_returns()[-self._episodes :]
        recent = Score.of(np.array(training)) if len(training) == self._episodes else None
        if not self._watch.see(Score.of(scores.returns), recent):
            return
        self.collapses += 1
        answer = "report"
        if self._may_roll_back:
            answer = "rollback"
            self.rollbacks += 1
            self._topology.roll_back(verdict.best_weights, self._config.step_factor)
            self._watch.reset()
        self._topology.progress.notices.append(f"{self._what(scores, steps, recent)}; {self._done(answer, best_steps)}")
        self._log(
            {
                "kind": "collapse",
                "wall": time.time(),
                "seconds": seconds,
                "steps": steps,
                "mean": scores.mean,
                "answer": answer,
                "best_steps": best_steps,
                "step_factor": self._topology.master.step_factor,
            }
        )

    def summary(self) -> dict[str, int]:
        return {"collapses": self.collapses, "rollbacks": self.rollbacks}

    def state(self) -> Rescue:
        master = self._topology.master
        return Rescue(self.collapses, self.rollbacks, master.step_factor, master.oldest, self._watch.state())

    def restore(self, state: Rescue) -> None:
        master = self._topology.master
        self.collapses, self.rollbacks = state.collapses, state.rollbacks
        master.step_factor, master.oldest = state.step_factor, state.oldest
        self._watch.restore(state.watch)
        if self._may_roll_back:  # possibly only since it was resumed
            self._watch.report_again()

    @property
    def _may_roll_back(self) -> bool:
        return self._config.answer == "rollback" and self.rollbacks < self._config.rollbacks

    def _what(self, scores: Scores, steps: int, recent: Score | None) -> str:
        best, times = self._watch.best, self._config.evaluations
        assert best is not None
        confirmed = "the last evaluation" if times == 1 else f"the last {times} evaluations"
        return (
            f"collapse at step {steps:,}: evaluation return {format_return(scores.mean)}, best evaluation "
            f"{format_return(best.mean)}; confirmed by {confirmed}{' and by the training return' if recent else ''}"
        )

    def _done(self, answer: str, best_steps: int) -> str:
        if answer == "rollback":
            factor = self._topology.master.step_factor
            return f"back to the weights of step {best_steps:,}, with {factor:g} of the learning rate from here on"
        if self._config.answer == "rollback":
            return f"no further rollback: {self.rollbacks} is this run's collapse.rollbacks"
        return f"the weights of step {best_steps:,} are kept (--on-collapse rollback returns to them)"
