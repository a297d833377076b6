"""The worker of hogwild: actor and learner in one (Mnih et al. 2016, algorithm S3)."""

from troupe.runtime.acting.actor import Actor
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.learning.learner import Learner
from troupe.runtime.learning.weights import HogwildMaster
from troupe.runtime.progress import Progress, Stopwatch


class Worker:
    """Collects a rollout with its copy of the shared weights, computes the gradient on that same copy, and
    applies it to whatever the shared weights are by then, without a lock."""

    def __init__(self, number: int, actor: Actor, learner: Learner, master: HogwildMaster, progress: Progress):
        self._number, self._actor, self._learner = number, actor, learner
        self._master, self._progress = master, progress

    def collect(self, rollout: Rollout) -> None:
        self._actor.collect(rollout)
        self.watch.start("learn")
        if self._master.statistics:
            self._learner.observe(rollout, self._number)
        gradient = self._learner.compute_gradient(rollout)
        if rollout.oldest < self._master.oldest:  # it was played before a rollback
            self._progress.stale()
        else:
            self._progress.consume([rollout], self._master.version)
            self._learner.apply_gradient(gradient)
            self._master.count(self._number)
        self.watch.start("other")

    @property
    def watch(self) -> Stopwatch:
        return self._actor.watch

    def retire(self) -> None:
        self._actor.retire()

    def close(self) -> None:
        self._learner.close()
        self._actor.close()
