"""What a run does about a collapse: it says so, and may go back to its best weights."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from troupe.config import TrainConfig
from troupe.runs.evaluate.collapse import CollapseWatch, Score
from troupe.runs.evaluate.scores import Scores
from troupe.runs.store.metrics import Row
from troupe.runtime.topologies import Topology
from troupe.text import format_return


class Rescue:
    """Follows the judge's verdicts on a run, and answers a collapse as `collapse.answer` says."""

    def __init__(self, config: TrainConfig, topology: Topology, tell: Callable[[Row], None]):
        self._config, self._topology, self._tell = config.collapse, topology, tell
        self._episodes = config.evaluation.episodes
        self._watch = CollapseWatch(config.collapse.loss, config.collapse.evaluations)
        self.collapses = self.rollbacks = 0

    def look_at_the_start(self) -> None:
        """Takes the first training episodes for what the run began at: they cost nothing, and the first
        evaluation may find a policy that has already learned."""
        progress = self._topology.progress
        if self._watch.first is None and len(progress.recent) >= self._episodes:
            self._watch.begin(Score.of(np.array(progress.recent_returns())))

    def heed(self, scores: Scores, steps: int, seconds: float, best: Tensor, best_steps: int) -> None:
        """The judge has given `scores` to the weights as they are; actors and learners stand still."""
        training = self._topology.progress.recent_returns()[-self._episodes :]
        recent = Score.of(np.array(training)) if len(training) == self._episodes else None
        if not self._watch.see(Score.of(scores.returns), recent):
            return
        self.collapses += 1
        answer = "report"
        if self._may_roll_back:
            answer = "rollback"
            self.rollbacks += 1
            self._topology.roll_back(best, self._config.step_factor)
            self._watch.forgive()
        self._topology.progress.notices.append(f"{self._what(scores, steps)}; {self._done(answer, best_steps)}")
        self._tell(
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

    def state(self) -> dict[str, Any]:
        """Also what a rollback has done to the master that is no part of the weights."""
        master = self._topology.master
        said = {"step_factor": master.step_factor, "oldest": master.oldest}
        return {**self.summary(), **said, "watch": self._watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        master = self._topology.master
        self.collapses, self.rollbacks = state["collapses"], state["rollbacks"]
        master.step_factor, master.oldest = state["step_factor"], state["oldest"]
        self._watch.restore(state["watch"])
        if self._may_roll_back:  # which may have been said only now
            self._watch.reconsider()

    @property
    def _may_roll_back(self) -> bool:
        return self._config.answer == "rollback" and self.rollbacks < self._config.rollbacks

    def _what(self, scores: Scores, steps: int) -> str:
        first, best, times = self._watch.first, self._watch.best, self._config.evaluations
        assert first is not None
        assert best is not None
        evaluations = "the last evaluation" if times == 1 else f"the last {times} evaluations"
        return (
            f"collapse at step {steps:,}: the evaluation return is {format_return(scores.mean)} "
            f"where it was {format_return(best.mean)} (the run began at {format_return(first.mean)}), "
            f"and {evaluations} say so"
        )

    def _done(self, answer: str, best_steps: int) -> str:
        if answer == "rollback":
            factor = self._topology.master.step_factor
            return f"back to the weights of step {best_steps:,}, with {factor:g} of the step size from here on"
        if self._config.answer == "rollback":
            return f"no further rollback: {self.rollbacks} is this run's collapse.rollbacks"
        return f"the weights of step {best_steps:,} are kept (--on-collapse rollback goes on from there)"
