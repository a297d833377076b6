"""The topologies: the same parts, put together in different ways.

    serial   one actor and one learner take turns in one thread: deterministic
    queue    N actors, one queue, M learners on one network (the article)
    async    N actors, one queue, one learner; the loss corrects the lag (IMPALA, APPO)
    ga3c     as queue, with predictors that act for all actors, and numbers that are adjusted (GA3C)
    hogwild  N workers, each actor and learner in one, and no queue (A3C)

An actor sits in a thread, or in a process with a thread here that looks after it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from troupe.algorithm.schedules import LinearSchedule
from troupe.config import TrainConfig
from troupe.runtime.acting.batched_inference import PredictionQueue, Predictor
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import Rollout, stack
from troupe.runtime.execution.controller import Controller
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.runner import ProcessRunner, ThreadRunner
from troupe.runtime.execution.supervisor import Supervisor, idlest_core
from troupe.runtime.execution.worker_counts import CountdownLatch, WorkerCounts
from troupe.runtime.journal import NoJournal
from troupe.runtime.learning.learner import Learner, learning_rate
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import PAUSE, WAIT, Progress, lag_of
from troupe.runtime.snapshot import Snapshot


@dataclass
class Parts:
    """Everything that moves in a run."""

    actors: list[ThreadRunner] | list[ProcessRunner]
    learners: list[Learner]
    predictors: list[Predictor]
    queue: RolloutQueue
    predictions: PredictionQueue | None
    master: Master | HogwildMaster
    progress: Progress
    gate: Gate
    workers: WorkerCounts
    ready: CountdownLatch
    journal: NoJournal
    config: TrainConfig
    annealing: LinearSchedule
    _settled: Snapshot | None = field(default=None, init=False)
    _restored: bool = field(default=False, init=False)

    def start(self, supervisor: Supervisor, after_batch: Callable[[], None]) -> None:
        """Starts the run's threads. `after_batch` is called, by one of them at a time, after each batch."""
        config = self.config
        if config.topology == "serial":
            self.settle()
            supervisor.start("serial", partial(_take_turns, self, after_batch, self._restored))
            return
        core = idlest_core() if config.threads == "one-core" else None
        for runner in self.actors:
            supervisor.start(f"actor-{runner.number}", partial(runner.run, self._deliver(runner, after_batch)), core)
        for number, predictor in enumerate(self.predictors):
            supervisor.start(f"predictor-{number}", partial(_predict, self, number, predictor), core)
        for number, learner in enumerate(self.learners):
            supervisor.start(f"learner-{number}", partial(_learn, self, number, learner, after_batch), core)
        if config.adjust.every_seconds:
            controller = Controller(config.adjust, self.workers, self.progress, self.gate)
            supervisor.start("controller", controller.run)

    def look_after(self, supervisor: Supervisor, after_batch: Callable[[], None]) -> None:
        """Replaces actors in threads whose environments hang; those in processes have a thread that does."""
        for runner in self.actors:
            if isinstance(runner, ThreadRunner) and runner.hangs:
                successor = partial(runner.take_over, runner.abandon(), self._deliver(runner, after_batch))
                supervisor.start(f"actor-{runner.number}", successor)

    def _deliver(
        self, runner: ThreadRunner | ProcessRunner, after_batch: Callable[[], None]
    ) -> Callable[[Rollout], None]:
        if self.config.topology == "hogwild":
            return partial(_learned, self, runner.queue, after_batch)
        return self.queue.put

    def snapshot(self) -> Snapshot:
        """What a checkpoint keeps: of a serial run the end of its last batch, however far the next one is;
        else now. For whoever holds the master's lock."""
        return self._settled or Snapshot.of(self.master, self.progress, novelty=self._novelty())

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return learning_rate(self.config.learner, self.annealing, self.progress.counts) * self.master.step_factor

    def settle(self) -> None:
        """A serial run has come to the end of a batch."""
        actors, learners = [each.state() for each in self._runners], [each.state() for each in self.learners]
        shape = [self.config.actor.environments, self.config.actor.window_steps]
        streams = None if None in actors else {"shape": shape, "actors": actors, "learners": learners}
        self._settled = Snapshot.of(self.master, self.progress, streams, self._novelty())

    def roll_back(self, weights: Tensor, step_factor: float) -> None:
        """Goes on from `weights` with smaller steps. For whoever holds the master's lock, between two batches."""
        self.master.roll_back(weights, step_factor)
        if self._settled:  # a serial run that is stopped now must not go on from before
            self.settle()

    def rewind(self) -> None:
        """Leaves a serial run that was stopped where it would be had it not begun its last batch."""
        if self._settled:
            self._settled.put_back(self.master, self.progress)

    def restore(self, streams: Mapping[str, Any]) -> list[str]:
        """Goes back to the `streams` of a moment; says what would not."""
        self._restored = True
        for learner, state in zip(self.learners, streams["learners"], strict=True):
            learner.restore(state)
        return [
            line
            for runner, state in zip(self._runners, streams["actors"], strict=True)
            for line in runner.restore(state)
        ]

    def _novelty(self) -> list[dict[str, Any]]:
        return [learner.curiosity.state() for learner in self.learners if learner.curiosity]

    def restore_novelty(self, states: Sequence[Mapping[str, Any]]) -> None:
        """What was new when a checkpoint was written: in every topology, wherever the streams go on."""
        for learner, state in zip(self.learners, states, strict=False):
            if learner.curiosity:
                learner.curiosity.restore(state)

    @property
    def _runners(self) -> list[ThreadRunner]:
        return [runner for runner in self.actors if isinstance(runner, ThreadRunner)]

    def close(self) -> None:
        for runner in self.actors:
            runner.actor.close()
        for learner in self.learners:
            learner.close()

    def wake(self) -> None:
        """Ends every wait, once the gate is stopped."""
        self.queue.close()
        if self.predictions:
            self.predictions.close()


def _take_turns(parts: Parts, after_batch: Callable[[], None], restored: bool) -> None:
    (runner,), (learner,) = parts.actors, parts.learners
    assert isinstance(runner, ThreadRunner)

    def settle() -> None:
        parts.settle()
        runner.actor.watch.start(PAUSE)
        after_batch()
        runner.actor.watch.start(WAIT)

    if restored:  # the stop may have come in the middle of what followed the last batch
        with parts.master.lock:
            after_batch()
    while True:
        for _ in range(parts.config.learner.rollouts):
            runner.collect(parts.queue.put)
        _consume(parts, learner, settle)


def _learn(parts: Parts, number: int, learner: Learner, after_batch: Callable[[], None]) -> None:
    while True:
        parts.workers.wait("learners", number)
        _consume(parts, learner, after_batch)


def _predict(parts: Parts, number: int, predictor: Predictor) -> None:
    while True:
        parts.workers.wait("predictors", number)
        predictor.predict()


def _consume(parts: Parts, learner: Learner, after_batch: Callable[[], None]) -> None:
    learner.watch.start(WAIT)
    rollouts = parts.queue.get(parts.config.learner.rollouts, parts.config.learner.take_all)
    learner.watch.start("other")
    wanted = _sift(parts, rollouts)
    if wanted:
        parts.journal.batch(wanted)
        parts.progress.consume(wanted, parts.master.version)
        if len(wanted) > 1:
            batch = stack(wanted)
            parts.queue.release(rollouts)
            learner.learn(batch)
        else:  # learned from where it lies: a rollout of images is worth not copying
            learner.learn(wanted[0])
            parts.queue.release(rollouts)
    else:
        parts.queue.release(rollouts)
    learner.watch.start(PAUSE)
    with parts.master.lock:
        after_batch()
    learner.watch.start(WAIT)


def _sift(parts: Parts, rollouts: list[Rollout]) -> list[Rollout]:
    """Counts the rollouts whose lag exceeds the bound; without them, where they are to be dropped.

    Those from before a rollback always are. They were played by a policy that had collapsed: loss a3c would
    take them for the restored policy's own, and of the others' ratios to such a policy little is left.
    """
    bound, oldest = parts.config.learner.max_lag, parts.master.oldest
    if not (bound or oldest):
        return rollouts
    version, wanted = parts.master.version, []
    for rollout in rollouts:
        undone = rollout.oldest < oldest
        stale = undone or (bound > 0 and lag_of(rollout, version).most > bound)
        if stale:
            parts.progress.stale()
        if not stale or (not undone and parts.config.learner.stale == "correct"):
            wanted.append(rollout)
    return wanted


def _learned(parts: Parts, queue: RolloutQueue, after_batch: Callable[[], None], rollout: Rollout) -> None:
    """Hogwild: the worker has already learned from its rollout, and gets it back."""
    queue.release([rollout])
    with parts.master.lock:
        after_batch()
