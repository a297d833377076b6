"""Builds the parts of a run from its configuration: who plays where, with which weights, through which queue."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from troupe.algorithm.schedules import LinearSchedule
from troupe.config import TrainConfig, UsageError
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor_plan import ActorPlan, LearnerPlan, PolicySource
from troupe.runtime.acting.batched_inference import PredictionQueue, Predictor
from troupe.runtime.acting.exploration import schedules
from troupe.runtime.acting.inference import generator
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import allocate, allocate_shared
from troupe.runtime.data.shared_memory import Block, ByValue
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.process_launch import NO_PROCESSES, may_have_processes, warm_up
from troupe.runtime.execution.processes import AHEAD, ActorProcess, check_sendable
from troupe.runtime.execution.runner import ActorContext, ProcessRunner, ThreadRunner
from troupe.runtime.execution.worker_counts import CountdownLatch, WorkerCounts
from troupe.runtime.journal import Journal, NoJournal, RecordedMaster
from troupe.runtime.learning.annealing import annealing
from troupe.runtime.learning.curiosity import Curiosity
from troupe.runtime.learning.learner import Learner
from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics
from troupe.runtime.learning.objective import Objective
from troupe.runtime.learning.optimizers import optimizer_maker
from troupe.runtime.learning.weights import HogwildMaster, Master, WeightStore
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Async, Hogwild, Serial, Topology


def assemble(
    config: TrainConfig,
    source: EnvironmentSource,
    network: ActorCritic,
    seeds: np.random.SeedSequence,
    progress: Progress,
    version: int = 0,
    journal: NoJournal | None = None,
    schedule: LinearSchedule | None = None,
) -> Topology:
    """Builds the parts of a run around `network`, which becomes the master's. `schedule` is the learning rate's, where
    it is not the one that the configuration begins with."""
    journal, schedule = journal or NoJournal(), schedule or annealing(config)
    processes = placement_of(config, source) == "process"
    if processes:
        warm_up()
    actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
    limits = WorkerLimits.of(config)
    gate = Gate(one_at_a_time=config.threads != "free", shared=processes)
    workers = WorkerCounts(gate, config.actor.count, config.inference.predictors, config.learner.count)
    ready = CountdownLatch(gate, config.actor.count if processes else 0)
    restarts = 0 if config.traits.serial else config.actor.restarts  # nobody plays on meanwhile
    context = ActorContext(progress, gate, workers, ready, restarts, config.actor.hang_seconds, journal)
    master = _master(config, network, version, journal, shared=processes)
    weights = master if isinstance(master, HogwildMaster) else master.store
    predictions = None
    if config.inference.kind == "batched":
        predictions = PredictionQueue(
            source.packing.space,
            limits.actors,
            config.actor.environments,
            source.actions,
            network.state_size,
            shared=processes,
        )
    local = ByValue(copy.deepcopy(network).cpu())
    device = master.vector.device
    plans = make_plans(
        config, source, actor_seeds, exploration_seed, limits.actors,
        lambda number: predictions.client(number) if predictions else (local, weights),
        "cpu" if processes else device.type, network.state_size, schedule,
    )  # fmt: skip
    queue, actors = _runners(config, source, plans, context, device.type, processes=processes)
    learners = []
    if isinstance(master, Master):
        each_seed = learner_seeds.spawn(limits.learners)
        learners = make_learners(config, source, network, master, each_seed, progress, gate, schedule)
    predictors = [
        Predictor(predictions, copy.deepcopy(network), weights, generator(seed, device), gate, limits.actors)
        for seed in learner_seeds.spawn(limits.predictors)
        if predictions
    ]
    kinds: dict[str, type[Topology]] = {"serial": Serial, "async": Async, "hogwild": Hogwild}
    return kinds[config.traits.path](
        config, context, queue, actors, master, schedule, learners, predictors, predictions
    )


def make_plans(
    config: TrainConfig,
    source: EnvironmentSource,
    seeds: np.random.SeedSequence,
    exploration_seed: np.random.SeedSequence,
    number: int,
    policy_source: Callable[[int], PolicySource],
    device: str = "cpu",
    state_size: int = 0,
    schedule: LinearSchedule | None = None,
) -> list[ActorPlan]:
    """The plans of `number` actors, each with a seed and an epsilon of its own."""
    epsilons = schedules(config.exploration, number, np.random.default_rng(exploration_seed))
    learner = LearnerPlan(config.learner, Objective.of(config.loss), schedule or annealing(config))
    return [
        ActorPlan(
            number=each,
            source=ByValue(source),
            environment=config.env,
            environments=config.actor.environments,
            parts=config.actor.parts,
            restorable=config.traits.serial,
            epsilon=epsilon,
            seeds=seed,
            device=device,
            window=config.actor.window_steps,
            policy_source=policy_source(each),
            learner=learner,
            state_size=state_size,
        )
        for each, (seed, epsilon) in enumerate(zip(seeds.spawn(number), epsilons, strict=True))
    ]


def make_learners(
    config: TrainConfig,
    source: EnvironmentSource,
    network: ActorCritic,
    master: Master,
    seeds: Sequence[np.random.SeedSequence],
    progress: Progress,
    gate: Gate,
    schedule: LinearSchedule | None = None,
) -> list[Learner]:
    return [
        Learner(
            copy.deepcopy(network), master, Objective.of(config.loss), config.learner, progress, gate,
            np.random.default_rng(seed), make_curiosity(config, source, master, seed), schedule or annealing(config),
        )
        for seed in seeds
    ]  # fmt: skip


def make_curiosity(
    config: TrainConfig, source: EnvironmentSource, master: Master, seed: np.random.SeedSequence
) -> Curiosity | None:
    if not config.novelty.coefficient:
        return None
    return Curiosity(source.packing, config.novelty, seed, master.vector.device)


def placement_of(config: TrainConfig, source: EnvironmentSource) -> str:
    """Where actors run: an environment that steps without Python shares a process, others get their own.

    Raises UsageError where a process was asked for and cannot be.
    """
    if config.traits.serial:
        if config.actor.place == "process":
            raise UsageError("actor.place = 'process': topology serial has one thread for everything")
        return "thread"
    if config.actor.place == "process" and not may_have_processes():
        raise UsageError(f"actor.place = 'process': {NO_PROCESSES}; set it to thread, or to auto")
    if config.actor.place != "auto":
        return config.actor.place
    threads = source.is_native(config.env) or source.unsendable or not may_have_processes()
    return "thread" if threads else "process"


@dataclass(frozen=True)
class WorkerLimits:
    """The most actors, predictors and learners there can be; the controller stays within these."""

    actors: int
    predictors: int
    learners: int

    @classmethod
    def of(cls, config: TrainConfig) -> "WorkerLimits":
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
    make_optimizer, workers = optimizer_maker(config.learner, flat.fixed), config.actor.count
    if not config.traits.learns_in_actors:
        store, statistics = WeightStore(flat.vector.cpu(), version, shared=shared), build_statistics(config, flat)
        if isinstance(journal, Journal):
            return RecordedMaster(flat.vector, make_optimizer, store, journal, statistics)
        return Master(flat.vector, make_optimizer, store, statistics)
    statistics = build_statistics(config, flat, workers, shared=shared)
    master = HogwildMaster(flat.vector.cpu(), make_optimizer, workers, version, statistics, shared=shared)
    flat.move_to(master.vector)
    return master


def _runners(
    config: TrainConfig,
    source: EnvironmentSource,
    plans: list[ActorPlan],
    context: ActorContext,
    device: str,
    *,
    processes: bool,
) -> tuple[RolloutQueue, list[ThreadRunner] | list[ProcessRunner]]:
    """The queue between actors and learners, and a runner for each actor.

    There is a rollout for every actor to fill, two where it is in a process, beside those that wait or are
    learned from; and those are at least a batch. A hogwild worker keeps its own.
    """
    hogwild, each = config.traits.learns_in_actors, AHEAD if processes else 1
    steps, environments = config.actor.rollout_shape
    waiting = 0 if hogwild else max(config.queue.capacity, config.learner.rollouts)
    number = waiting + each * len(plans)
    shape = source.packing.space, steps, environments
    state_size = plans[0].state_size
    if not processes:
        new_rollout = partial(allocate, *shape, source.actions, state_size, pinned=device == "cuda")
        shared = RolloutQueue([] if hogwild else [new_rollout() for _ in range(number)])
        runners = [
            ThreadRunner(plan, context, RolloutQueue([new_rollout()]) if hogwild else shared, new_rollout)
            for plan in plans
        ]
        return shared, runners
    check_sendable(plans[0])
    block, rollouts = allocate_shared(*shape, number, source.actions, state_size)
    shared = RolloutQueue([] if hogwild else rollouts)
    pulses = Block({"pulse": ((len(plans),), np.float64)}, shared=True)
    remote = []
    for plan in plans:
        own = RolloutQueue(rollouts[plan.number * each : (plan.number + 1) * each]) if hogwild else shared
        remote.append(ProcessRunner(ActorProcess(plan, block, number, context.gate, pulses), context, own))
    return shared, remote


def build_statistics(
    config: TrainConfig, flat: FlatWeights[ActorCritic], writers: int = 1, *, shared: bool = False
) -> NormalizerStatistics | None:
    """None where nothing is normalised."""
    if not config.loss.normalize_reward and flat.module.normalizer is None:
        return None
    return NormalizerStatistics.of(flat, writers, shared=shared)
