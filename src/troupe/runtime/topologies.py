"""The three ways in which actors and learners work together.

    Serial   one actor and one learner take turns in one thread: deterministic
    Async    N actors, one queue, M learners on one network, which all actors have a copy of, or P predictors that act
             for all of them. The topologies `async` (IMPALA, APPO), `queue` (the article) and `ga3c` (GA3C).
    Hogwild  N workers, each actor and learner in one, and no queue (A3C)

An actor's runner (`execution/runner.py`) has a thread of its own here, wherever the actor is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from troupe.algorithm.schedules import Schedule
from troupe.config import TrainConfig
from troupe.runtime.acting.actor import Actor
from troupe.runtime.acting.inference import PredictionQueue, Predictor
from troupe.runtime.cluster.head import ClusterRunner
from troupe.runtime.data.rollout import Rollout, stack
from troupe.runtime.execution.controller import Controller
from troupe.runtime.execution.runner import ActorContext, ActorRunner, ThreadRunner
from troupe.runtime.execution.supervisor import Supervisor, idlest_core
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.learner import Learner, learning_rate
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import PAUSE, WAIT, Progress, Stopwatch, lag_of
from troupe.runtime.snapshot import Snapshot

AfterBatch = Callable[[], None]


class Topology(ABC):
    """The actors, predictors and learners of a run, and how they work together."""

    def __init__(
        self,
        config: TrainConfig,
        context: ActorContext,
        runners: Sequence[ActorRunner],
        master: Master | HogwildMaster,
        schedule: Schedule,
        learners: Sequence[Learner] = (),
        predictors: Sequence[Predictor] = (),
        predictions: PredictionQueue | None = None,
        group: Alone = Alone(),  # noqa: B008  # it has no state
    ):
        self.config, self.runners, self.master, self.schedule = config, runners, master, schedule
        self.queue, self.group = context.buffers.queue, group
        self.learners, self.predictors, self._predictions = learners, predictors, predictions
        self.progress, self.gate, self.journal = context.progress, context.gate, context.journal
        self.workers, self.ready = context.workers, context.ready

    def start(self, supervisor: Supervisor, after_batch: AfterBatch) -> None:
        """Starts the run's threads. `after_batch` is called by one of them at a time, after each batch, with the
        master's lock held."""
        core = idlest_core() if self.config.threads == "one-core" else None
        for name, run in self._threads(after_batch):
            supervisor.start(name, run, core)
        self.group.watch(supervisor, self.progress)

    @abstractmethod
    def _threads(self, after_batch: AfterBatch) -> list[tuple[str, Callable[[], None]]]:
        """The threads' names and work."""

    @abstractmethod
    def _deliver(self, runner: ActorRunner, after_batch: AfterBatch) -> Callable[[Rollout], None]:
        """Where a rollout goes that an actor has filled."""

    def _actor_threads(self, after_batch: AfterBatch) -> list[tuple[str, Callable[[], None]]]:
        named = [("cluster" if self.cluster else f"actor-{each.number}", each) for each in self.runners]
        return [(name, partial(each.run, self._ready(each, after_batch))) for name, each in named]

    def _ready(self, runner: ActorRunner, after_batch: AfterBatch) -> Callable[[Rollout], None]:
        """`_deliver`; an actor that has filled a rollout is ready, whether or not its runner has said so."""
        deliver = self._deliver(runner, after_batch)
        if self.ready.open:
            return deliver

        def deliver_ready(rollout: Rollout) -> None:
            self.ready.add(runner.number)
            deliver(rollout)

        return deliver_ready

    def look_after(self, supervisor: Supervisor, after_batch: AfterBatch) -> None:
        """Called repeatedly: replaces actors that hang."""
        for runner in self.runners:
            if successor := runner.successor():
                supervisor.start(f"actor-{runner.number}", partial(successor, self._ready(runner, after_batch)))

    def wake(self) -> None:
        """Ends every wait, once the gate is stopped."""
        self.group.wake()
        self.queue.close()
        if self._predictions:
            self._predictions.close()

    def close(self) -> None:
        for runner in self.runners:
            runner.close()
        for learner in self.learners:
            learner.close()

    def watches(self) -> dict[str, list[Stopwatch]]:
        """Of those actors, predictors and learners that are wanted now."""
        wanted = self.workers.current
        return {
            "actor": [each.watch for each in self.runners[: wanted["actors"]]],
            "predictor": [each.watch for each in self.predictors[: wanted["predictors"]]],
            "learner": [each.watch for each in self.learners[: wanted["learners"]]],
        }

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return learning_rate(self.config.learner, self.schedule, self.progress.counts) * self.master.step_factor

    @property
    def rollouts_in_batch(self) -> int:
        return self.config.learner.rollouts

    @property
    def cluster(self) -> ClusterRunner | None:
        """What runs the actors where they are on other hosts."""
        return next((each for each in self.runners if isinstance(each, ClusterRunner)), None)

    def describe(self, placed: str) -> str:
        """One line with the numbers of actors, predictors and learners; `placed` says where actors run."""
        actors = f"{self.workers.current['actors']} x {self.config.actor.environments} environments in {placed}"
        described = f"{self.config.topology}: {actors}, {self._learning()} on {self.master.vector.device.type}"
        return f"{described}, the same in each of {self.group.size} ranks" if self.group.size > 1 else described

    def _learning(self) -> str:
        kinds = ["predictors", "learners"] if self.predictors else ["learners"]
        numbers = [(self.workers.current[kind], kind) for kind in kinds]
        return ", ".join(f"{number} {kind if number > 1 else kind[:-1]}" for number, kind in numbers)

    def lender(self) -> ThreadRunner | None:
        """The only actor, if evaluations can borrow its only environment between two rollouts."""
        (runner, *others) = self.runners
        if others or self.config.actor.environments > 1 or not isinstance(runner, ThreadRunner):
            return None
        return runner if type(runner.actor) is Actor else None

    def snapshot(self) -> Snapshot:
        """What a checkpoint keeps. The caller holds the master's lock."""
        return Snapshot.of(self.master, self.progress, novelty=self._novelty())

    def rewind(self) -> None:  # noqa: B027
        """After a stop, undoes what the checkpoint will not contain."""

    def roll_back(self, weights: Tensor, step_factor: float) -> None:
        """Continues from `weights` with a smaller learning rate. Called between two batches, with the master's lock
        held."""
        self.master.roll_back(weights, step_factor)

    def _novelty(self) -> list[dict[str, Any]]:
        return [learner.curiosity.state() for learner in self.learners if learner.curiosity]

    def restore_novelty(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restores the learners' novelty predictors from a checkpoint."""
        for learner, state in zip(self.learners, states, strict=False):
            if learner.curiosity:
                learner.curiosity.restore(state)


class _Queued(Topology):
    """Learners that take batches from the queue."""

    def _deliver(self, runner: ActorRunner, after_batch: AfterBatch) -> Callable[[Rollout], None]:  # noqa: ARG002
        return self.queue.put

    def _learn_batch(self, learner: Learner, after_batch: AfterBatch) -> None:
        learner.watch.start(WAIT)
        self.group.follow(self.master)
        rollouts, wanted = self._take_batch(learner)
        while self.group.size > 1 and len(wanted) < len(rollouts):  # the batches of all learners have the same shape
            self.queue.release(rollouts)
            rollouts, wanted = self._take_batch(learner)
        if wanted:
            self.journal.batch(wanted)
            self.progress.consume(wanted, self.master.version)
        self.group.count(self.progress)
        if len(wanted) == 1:  # used in place: a rollout of images is expensive to copy
            learner.learn(wanted[0])
        batch = stack(wanted) if len(wanted) > 1 else None
        self.queue.release(rollouts)
        if batch:
            learner.learn(batch)
        learner.watch.start(PAUSE)
        with self.master.lock:
            after_batch()
        learner.watch.start(WAIT)

    def _take_batch(self, learner: Learner) -> tuple[list[Rollout], list[Rollout]]:
        """The rollouts taken from the queue, and those of them that are to be learned from."""
        config = self.config.learner
        learner.watch.start(WAIT)
        rollouts = self.queue.get(config.rollouts, config.take_all)
        learner.watch.start("other")
        wanted = fresh(rollouts, config.max_lag, self.master, self.progress, drop=config.stale == "drop")
        return rollouts, wanted


class Serial(_Queued):
    """One actor and one learner take turns in one thread.

    A checkpoint holds the state at the end of the last batch, with every random stream and the episodes under way,
    however far the next batch has come: a run resumed from it is the same as one that was never stopped.
    """

    _end_of_batch: Snapshot | None = None
    _restored = False

    def _threads(self, after_batch: AfterBatch) -> list[tuple[str, Callable[[], None]]]:
        self.end_batch()
        return [("serial", partial(self._take_turns, after_batch, self._restored))]

    def _take_turns(self, after_batch: AfterBatch, restored: bool) -> None:
        (runner,), (learner,) = self._thread_runners, self.learners

        def end_batch() -> None:
            self.end_batch()
            runner.watch.start(PAUSE)
            after_batch()
            runner.watch.start(WAIT)

        if restored:  # the stop may have interrupted what follows a batch
            with self.master.lock:
                after_batch()
        while True:
            for _ in range(self.config.learner.rollouts):
                runner.collect(self.queue.put)
            self._learn_batch(learner, end_batch)

    @property
    def _thread_runners(self) -> list[ThreadRunner]:
        return [runner for runner in self.runners if isinstance(runner, ThreadRunner)]

    def lender(self) -> None:
        return None

    def end_batch(self) -> None:
        """Takes the snapshot from which checkpoints are made until the next batch has ended."""
        actors, learners = [each.state() for each in self._thread_runners], [each.state() for each in self.learners]
        shape = [self.config.actor.environments, self.config.actor.window_steps]
        streams = None if None in actors else {"shape": shape, "actors": actors, "learners": learners}
        self._end_of_batch = Snapshot.of(self.master, self.progress, streams, self._novelty())

    def snapshot(self) -> Snapshot:
        return self._end_of_batch or super().snapshot()

    def rewind(self) -> None:
        """Back to the end of the last batch."""
        if self._end_of_batch:
            self._end_of_batch.restore(self.master, self.progress)

    def roll_back(self, weights: Tensor, step_factor: float) -> None:
        super().roll_back(weights, step_factor)
        if self._end_of_batch:  # a run that is stopped now must not resume from before
            self.end_batch()

    def restore(self, streams: Mapping[str, Any]) -> list[str]:
        """Continues from a snapshot's `streams`; one line for each thing that could not be restored."""
        self._restored = True
        for learner, state in zip(self.learners, streams["learners"], strict=True):
            learner.restore(state)
        pairs = zip(self._thread_runners, streams["actors"], strict=True)
        return [line for runner, state in pairs for line in runner.restore(state)]


class Async(_Queued):
    """N actors fill a queue that M learners empty; actors act for themselves, or P predictors act for them."""

    def _threads(self, after_batch: AfterBatch) -> list[tuple[str, Callable[[], None]]]:
        threads = self._actor_threads(after_batch)
        for number, predictor in enumerate(self.predictors):
            threads.append((f"predictor-{number}", partial(self._repeat, "predictors", number, predictor.predict)))
        for number, learner in enumerate(self.learners):
            work = partial(self._learn_batch, learner, after_batch)
            threads.append((f"learner-{number}", partial(self._repeat, "learners", number, work)))
        if self.config.adjust.every_seconds:
            controller = Controller(self.config.adjust, self.workers, self.progress, self.gate)
            threads.append(("controller", controller.run))
        return threads

    def _repeat(self, kind: str, number: int, work: Callable[[], None]) -> None:
        while True:
            self.workers.wait(kind, number)
            work()


class Hogwild(Topology):
    """N workers, each actor and learner in one; its rollout goes back to it."""

    def _threads(self, after_batch: AfterBatch) -> list[tuple[str, Callable[[], None]]]:
        return self._actor_threads(after_batch)

    def _deliver(self, runner: ActorRunner, after_batch: AfterBatch) -> Callable[[Rollout], None]:
        def give_back(rollout: Rollout) -> None:
            runner.queue.release([rollout])
            with self.master.lock:
                after_batch()

        return give_back

    @property
    def rollouts_in_batch(self) -> int:
        return 1

    def _learning(self) -> str:
        return "each learns"


def fresh(
    rollouts: list[Rollout], max_lag: int, master: Master | HogwildMaster, progress: Progress, *, drop: bool
) -> list[Rollout]:
    """Counts the rollouts whose lag exceeds `max_lag` (0: no bound), and leaves them out if they are to be dropped.

    Those from before a rollback are always left out. The policy that played them had collapsed: loss a3c would treat
    them as on-policy, and in the other losses their importance ratios would be close to 0.
    """
    if not (max_lag or master.oldest):
        return rollouts
    version, wanted = master.version, []
    for rollout in rollouts:
        before_rollback = rollout.oldest < master.oldest
        stale = before_rollback or (max_lag > 0 and lag_of(rollout, version).most > max_lag)
        if stale:
            progress.stale()
        if not stale or not (before_rollback or drop):
            wanted.append(rollout)
    return wanted
