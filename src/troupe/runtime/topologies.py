"""The topologies: the same parts, put together in different ways.

    serial   one actor and one learner take turns in one thread: deterministic
    queue    N actors, one queue, M learners on one network (the article)
    async    N actors, one queue, one learner; the loss corrects the lag (IMPALA, APPO)
    ga3c     as queue, with predictors that act for all actors, and numbers that are adjusted (GA3C)
    hogwild  N workers, each actor and learner in one, and no queue (A3C)

An actor sits in a thread, or in a process with a thread here that looks after it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from troupe.algorithm import losses
from troupe.algorithm.optimizers import Adam, Optimizer, RMSProp
from troupe.config import Learner as LearnerConfig
from troupe.config import Loss, TrainConfig, UsageError
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.batched import PredictionQueue, Predictor
from troupe.runtime.controller import Controller
from troupe.runtime.exploration import schedules
from troupe.runtime.gate import Gate
from troupe.runtime.journal import Journal, NoJournal, RecordedMaster
from troupe.runtime.learner import Learner, LossFunction
from troupe.runtime.moment import Moment
from troupe.runtime.numbers import Latch, Numbers
from troupe.runtime.plan import ActorPlan, Brain, LearnerPlan
from troupe.runtime.processes import RemoteActor, check_sendable, warm_up
from troupe.runtime.progress import Progress, lag_of
from troupe.runtime.queue import RolloutQueue
from troupe.runtime.rollout import Rollout, allocate, allocate_shared, stack
from troupe.runtime.seat import RemoteSeat, Table, ThreadSeat
from troupe.runtime.shared import Block, ByValue
from troupe.runtime.supervisor import Supervisor, idlest_core
from troupe.runtime.weights import HogwildMaster, Master, WeightStore

_AHEAD = 2  # rollouts an actor in a process has at a time: one on its way to the learner, one being filled


@dataclass
class Parts:
    """Everything that moves in a run."""

    actors: list[ThreadSeat] | list[RemoteSeat]
    learners: list[Learner]
    predictors: list[Predictor]
    queue: RolloutQueue
    predictions: PredictionQueue | None
    master: Master | HogwildMaster
    progress: Progress
    gate: Gate
    numbers: Numbers
    ready: Latch
    journal: NoJournal
    config: TrainConfig
    _settled: Moment | None = field(default=None, init=False)
    _restored: bool = field(default=False, init=False)

    def start(self, supervisor: Supervisor, after_batch: Callable[[], None]) -> None:
        """Starts the run's threads. `after_batch` is called, by one of them at a time, after each batch."""
        config = self.config
        if config.topology == "serial":
            self.settle()
            supervisor.start("serial", partial(_take_turns, self, after_batch, self._restored))
            return
        core = idlest_core() if config.threads == "one-core" else None
        for seat in self.actors:
            supervisor.start(f"actor-{seat.number}", partial(seat.run, self._deliver(seat, after_batch)), core)
        for number, predictor in enumerate(self.predictors):
            supervisor.start(f"predictor-{number}", partial(_predict, self, number, predictor), core)
        for number, learner in enumerate(self.learners):
            supervisor.start(f"learner-{number}", partial(_learn, self, number, learner, after_batch), core)
        if config.adjust.every_seconds:
            controller = Controller(config.adjust, self.numbers, self.progress, self.gate)
            supervisor.start("controller", controller.run)

    def look_after(self, supervisor: Supervisor, after_batch: Callable[[], None]) -> None:
        """Replaces actors in threads whose environments hang; those in processes have a thread that does."""
        for seat in self.actors:
            if isinstance(seat, ThreadSeat) and seat.hangs:
                successor = partial(seat.take_over, seat.abandon(), self._deliver(seat, after_batch))
                supervisor.start(f"actor-{seat.number}", successor)

    def _deliver(self, seat: ThreadSeat | RemoteSeat, after_batch: Callable[[], None]) -> Callable[[Rollout], None]:
        if self.config.topology == "hogwild":
            return partial(_learned, self, seat.queue, after_batch)
        return self.queue.put

    def moment(self) -> Moment:
        """What a checkpoint keeps: of a serial run the end of its last batch, however far the next one is;
        else now. For whoever holds the master's lock."""
        return self._settled or Moment.of(self.master, self.progress)

    def settle(self) -> None:
        """A serial run has come to the end of a batch."""
        actors, learners = [each.state() for each in self._seats], [each.state() for each in self.learners]
        shape = [self.config.actor.environments, self.config.actor.window_steps]
        streams = None if None in actors else {"shape": shape, "actors": actors, "learners": learners}
        self._settled = Moment.of(self.master, self.progress, streams)

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
            line for seat, state in zip(self._seats, streams["actors"], strict=True) for line in seat.restore(state)
        ]

    @property
    def _seats(self) -> list[ThreadSeat]:
        return [seat for seat in self.actors if isinstance(seat, ThreadSeat)]

    def close(self) -> None:
        for seat in self.actors:
            seat.close()

    def wake(self) -> None:
        """Ends every wait, once the gate is stopped."""
        self.queue.close()
        if self.predictions:
            self.predictions.close()


def _take_turns(parts: Parts, after_batch: Callable[[], None], restored: bool) -> None:
    (seat,), (learner,) = parts.actors, parts.learners
    assert isinstance(seat, ThreadSeat)

    def settle() -> None:
        parts.settle()
        after_batch()

    if restored:  # the stop may have come in the middle of what followed the last batch
        with parts.master.lock:
            after_batch()
    while True:
        for _ in range(parts.config.learner.rollouts):
            seat.collect(parts.queue.put)
        _consume(parts, learner, settle)


def _learn(parts: Parts, number: int, learner: Learner, after_batch: Callable[[], None]) -> None:
    while True:
        parts.numbers.wait("learners", number)
        _consume(parts, learner, after_batch)


def _predict(parts: Parts, number: int, predictor: Predictor) -> None:
    while True:
        parts.numbers.wait("predictors", number)
        predictor.predict()


def _consume(parts: Parts, learner: Learner, after_batch: Callable[[], None]) -> None:
    rollouts = parts.queue.get(parts.config.learner.rollouts, parts.config.learner.take_all)
    learner.watch.lap("wait")
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
    with parts.master.lock:
        after_batch()
    learner.watch.lap("other")


def _sift(parts: Parts, rollouts: list[Rollout]) -> list[Rollout]:
    """Counts the rollouts whose lag exceeds the bound; without them, where they are to be dropped."""
    bound = parts.config.learner.max_lag
    if not bound:
        return rollouts
    version, wanted = parts.master.version, []
    for rollout in rollouts:
        stale = lag_of(rollout, version).most > bound
        if stale:
            parts.progress.stale()
        if not stale or parts.config.learner.stale == "correct":
            wanted.append(rollout)
    return wanted


def _learned(parts: Parts, queue: RolloutQueue, after_batch: Callable[[], None], rollout: Rollout) -> None:
    """Hogwild: the worker has already learned from its rollout, and gets it back."""
    queue.release([rollout])
    with parts.master.lock:
        after_batch()


def assemble(
    config: TrainConfig,
    source: EnvironmentSource,
    network: ActorCritic,
    seeds: np.random.SeedSequence,
    progress: Progress,
    version: int = 0,
    journal: NoJournal | None = None,
) -> Parts:
    """Builds the parts of a run around `network`, which becomes the master's."""
    journal = journal or NoJournal()
    apart = place_of(config, source) == "process"
    if apart:
        warm_up()
    actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
    most = Most.of(config)
    gate = Gate(one_at_a_time=config.threads != "free", shared=apart)
    numbers = Numbers(gate, config.actor.count, config.inference.predictors, config.learner.count)
    ready = Latch(gate, config.actor.count if apart else 0)
    restarts = 0 if config.topology == "serial" else config.actor.restarts  # nobody plays on meanwhile
    table = Table(progress, gate, numbers, ready, restarts, config.actor.hang_seconds, journal)
    master = _master(config, network, version, journal, shared=apart)
    weights = master if isinstance(master, HogwildMaster) else master.store
    predictions = None
    if config.inference.kind == "batched":
        space = source.observation_space
        predictions = PredictionQueue(space, most.actors, config.actor.environments, shared=apart)
    local = ByValue(copy.deepcopy(network).cpu())
    plans = make_plans(
        config, source, actor_seeds, exploration_seed, most.actors,
        lambda number: predictions.client(number) if predictions else (local, weights),
    )  # fmt: skip
    queue, actors = _seats(config, source, plans, table, apart=apart)
    learners = []
    if isinstance(master, Master):
        learners = make_learners(config, network, master, learner_seeds.spawn(most.learners), progress, gate)
    predictors = [
        Predictor(predictions, copy.deepcopy(network), weights, _generator(seed, network), gate, most.actors)
        for seed in learner_seeds.spawn(most.predictors)
        if predictions
    ]
    return Parts(
        actors, learners, predictors, queue, predictions, master, progress, gate, numbers, ready, journal, config
    )


def make_plans(
    config: TrainConfig,
    source: EnvironmentSource,
    seeds: np.random.SeedSequence,
    exploration_seed: np.random.SeedSequence,
    number: int,
    brain: Callable[[int], Brain],
) -> list[ActorPlan]:
    """The plans of `number` actors, each with a seed and an epsilon of its own."""
    epsilons = schedules(config.exploration, number, np.random.default_rng(exploration_seed))
    loss = build_loss(config.loss)
    return [
        ActorPlan(
            number=each,
            source=ByValue(source),
            environment=config.env,
            environments=config.actor.environments,
            restorable=config.topology == "serial",
            epsilon=epsilon,
            seeds=seed,
            window=config.actor.window_steps,
            gamma=config.loss.gamma,
            brain=brain(each),
            learner=LearnerPlan(config.learner, loss, config.loss.reward_scale),
        )
        for each, (seed, epsilon) in enumerate(zip(seeds.spawn(number), epsilons, strict=True))
    ]


def make_learners(
    config: TrainConfig,
    network: ActorCritic,
    master: Master,
    seeds: Sequence[np.random.SeedSequence],
    progress: Progress,
    gate: Gate,
) -> list[Learner]:
    return [
        Learner(
            copy.deepcopy(network), master, build_loss(config.loss), config.learner, progress, gate,
            np.random.default_rng(seed), gamma=config.loss.gamma, reward_scale=config.loss.reward_scale,
        )
        for seed in seeds
    ]  # fmt: skip


def place_of(config: TrainConfig, source: EnvironmentSource) -> str:
    """Where actors run: an environment that steps without Python shares a process, others get their own.

    Raises UsageError where a process was asked for and cannot be.
    """
    if config.topology == "serial":
        if config.actor.place == "process":
            raise UsageError("actor.place = 'process': topology serial has one thread for everything")
        return "thread"
    if config.actor.place != "auto":
        return config.actor.place
    return "thread" if source.is_native(config.env) or source.unsendable else "process"


@dataclass(frozen=True)
class Most:
    """The most parts of each kind there can be; numbers are adjusted within these."""

    actors: int
    predictors: int
    learners: int

    @classmethod
    def of(cls, config: TrainConfig) -> "Most":
        actors, predictors, learners = config.actor.count, config.inference.predictors, config.learner.count
        if not config.adjust.every_seconds:
            return cls(actors, predictors, learners)
        bounds = config.adjust
        return cls(
            max(actors, bounds.most_actors),
            max(predictors, bounds.most_predictors),
            max(learners, bounds.most_learners),
        )


def _master(
    config: TrainConfig, network: ActorCritic, version: int, journal: NoJournal, *, shared: bool
) -> Master | HogwildMaster:
    """The weights being learned become those of `network`: what the master has, the network shows."""
    flat = FlatWeights(network)
    if config.topology != "hogwild":
        store = WeightStore(flat.vector.cpu(), version, shared=shared)
        optimizer = build_optimizer(config.learner, flat.vector)
        if isinstance(journal, Journal):
            return RecordedMaster(flat.vector, optimizer, store, journal)
        return Master(flat.vector, optimizer, store)
    make_optimizer = partial(build_optimizer, config.learner)
    master = HogwildMaster(flat.vector.cpu(), make_optimizer, config.actor.count, version, shared=shared)
    flat.move_to(master.vector)
    return master


def _seats(
    config: TrainConfig, source: EnvironmentSource, plans: list[ActorPlan], table: Table, *, apart: bool
) -> tuple[RolloutQueue, list[ThreadSeat] | list[RemoteSeat]]:
    """The queue between actors and learners, and a seat for each actor.

    There is a rollout for every actor to fill, two where it is in a process, and one for every learner to
    learn from, beside those that wait; and those are at least a batch. A hogwild worker keeps its own.
    """
    hogwild, each = config.topology == "hogwild", _AHEAD if apart else 1
    steps, environments = (
        (1, 1) if config.actor.window_steps else (config.actor.rollout_steps, config.actor.environments)
    )
    waiting = 0 if hogwild else max(config.queue.capacity, config.learner.rollouts) + config.learner.count
    number = waiting + each * len(plans)
    space = source.observation_space
    if not apart:
        new_rollout = partial(allocate, space, steps, environments)
        shared = RolloutQueue([] if hogwild else [new_rollout() for _ in range(number)])
        seats = [
            ThreadSeat(plan, table, RolloutQueue([new_rollout()]) if hogwild else shared, new_rollout) for plan in plans
        ]
        return shared, seats
    check_sendable(plans[0])
    block, rollouts = allocate_shared(space, steps, environments, number)
    shared = RolloutQueue([] if hogwild else rollouts)
    pulses = Block({"pulse": ((len(plans),), np.float64)}, shared=True)
    remote = []
    for plan in plans:
        own = RolloutQueue(rollouts[plan.number * each : (plan.number + 1) * each]) if hogwild else shared
        remote.append(RemoteSeat(RemoteActor(plan, block, number, table.gate, pulses), table, own))
    return shared, remote


def _generator(seed: np.random.SeedSequence, network: ActorCritic) -> torch.Generator:
    device = next(network.parameters()).device
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0]))


def build_loss(config: Loss) -> LossFunction:
    shared: dict[str, Any] = {
        "value_coefficient": config.value_coefficient,
        "entropy_coefficient": config.entropy_coefficient,
    }
    if config.kind == "a3c":
        return partial(losses.a3c, lam=config.lam, probability_floor=config.probability_floor, **shared)
    corrected = {"lam": config.lam, "rho_clip": config.rho_clip, "c_clip": config.c_clip, **shared}
    if config.kind == "impala":
        return partial(losses.impala, **corrected)
    return partial(losses.appo, clip=config.clip, normalize_advantage=config.normalize_advantage, **corrected)


def build_optimizer(config: LearnerConfig, vector: torch.Tensor) -> Optimizer:
    if config.optimizer == "adam":
        return Adam(vector, epsilon=config.epsilon)
    return RMSProp(vector, decay=config.decay, epsilon=config.epsilon, initial=config.initial_accumulator)
