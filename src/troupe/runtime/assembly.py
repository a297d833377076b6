"""Builds the parts of a run from its configuration."""

import copy
from collections.abc import Callable, Sequence

import numpy as np

from troupe.algorithm.schedules import Schedule
from troupe.config import TrainConfig
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor_plan import ActorPlan, PolicySource, epsilon_schedules
from troupe.runtime.acting.inference import PredictionQueue, Predictor, generator
from troupe.runtime.data.buffers import RolloutBuffers
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.execution.process_launch import warm_up
from troupe.runtime.execution.runner import ActorContext
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts, worker_limits
from troupe.runtime.journal import Journal, NoJournal, RecordedMaster
from troupe.runtime.learning.annealing import annealing, loss_schedules
from troupe.runtime.learning.curiosity import Curiosity
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.learner import Learner, Objective
from troupe.runtime.learning.loss_and_optimizer import optimizer_maker
from troupe.runtime.learning.normalizer_statistics import Gather, NormalizerStatistics
from troupe.runtime.learning.trial import try_callables
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
    schedule: Schedule | None = None,
    group: Alone = Alone(),  # noqa: B008  # it has no state
) -> Topology:
    """Builds the parts of a run around `network`, which becomes the master's. `schedule` is the learning rate's, if it
    is not the one that the configuration gives."""
    try_callables(config, source, next(network.parameters()).device)
    journal, schedule = journal or NoJournal(), schedule or annealing(config)
    placement = placement_of(config, source)
    processes = placement.in_processes
    shared = processes and not placement.elsewhere
    if shared:
        warm_up()
    actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
    limits = worker_limits(config)
    gate = Gate(one_at_a_time=config.threads != "free", shared=shared)
    predicting = config.inference.predictors if config.inference.kind == "batched" else 0
    workers = WorkerCounts(gate, config.actor.count, predicting, config.learner.count)
    ready = ReadyLatch(gate, range(config.actor.count) if processes else ())
    restarts = 0 if config.traits.serial else config.actor.restarts  # serial has no other actor
    master = _master(config, network, version, journal, group, shared=shared)
    weights = master if isinstance(master, HogwildMaster) else master.store
    predictions = None
    spec = RolloutSpec(source.packing.space, *config.actor.rollout_shape, source.actions, network.state_size)
    if config.inference.kind == "batched":
        predictions = PredictionQueue(spec, limits["actors"], shared=shared)
    local = ByValue(copy.deepcopy(network).cpu())
    device = master.vector.device
    plans = make_plans(
        config, source, actor_seeds, exploration_seed, limits["actors"],
        lambda number: predictions.client(number) if predictions else (local, weights),
        "cpu" if processes else device.type, network.state_size, schedule,
    )  # fmt: skip
    buffers = RolloutBuffers.of(
        config, spec, limits["actors"], placement.rollouts_per_actor, shared=shared,
        pinned=not shared and device.type == "cuda",
    )  # fmt: skip
    context = ActorContext(progress, gate, workers, ready, restarts, config.actor.hang_seconds, journal, buffers)
    runners = placement.runners(plans, context)
    learners = []
    if isinstance(master, Master):
        each_seed = learner_seeds.spawn(limits["learners"])
        learners = make_learners(config, source, network, master, each_seed, progress, gate, schedule, group)
    predictors = [
        Predictor(predictions, copy.deepcopy(network), weights, generator(seed, device), gate, limits["actors"])
        for seed in learner_seeds.spawn(limits["predictors"])
        if predictions
    ]
    kinds: dict[str, type[Topology]] = {"serial": Serial, "async": Async, "hogwild": Hogwild}
    kind = kinds[config.traits.path]
    return kind(config, context, runners, master, schedule, learners, predictors, predictions, group)


def make_plans(
    config: TrainConfig,
    source: EnvironmentSource,
    seeds: np.random.SeedSequence,
    exploration_seed: np.random.SeedSequence,
    number: int,
    policy_source: Callable[[int], PolicySource],
    device: str = "cpu",
    state_size: int = 0,
    schedule: Schedule | None = None,
) -> list[ActorPlan]:
    """The plans of `number` actors, each with a seed and an epsilon of its own."""
    epsilons = epsilon_schedules(config.exploration, number, np.random.default_rng(exploration_seed))
    objective, schedule = Objective.of(config.loss, loss_schedules(config)), schedule or annealing(config)
    return [
        ActorPlan(
            each, ByValue(source), config, objective, schedule, epsilon, seed, device, policy_source(each), state_size
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
    schedule: Schedule | None = None,
    group: Alone = Alone(),  # noqa: B008  # it has no state
) -> list[Learner]:
    objective, schedule = Objective.of(config.loss, loss_schedules(config)), schedule or annealing(config)

    def curiosity(seed: np.random.SeedSequence) -> Curiosity | None:
        novel = config.novelty.coefficient > 0
        return Curiosity(source.packing, config.novelty, seed, master.vector.device) if novel else None

    return [
        Learner(
            copy.deepcopy(network), master, objective, config.learner, progress, gate, np.random.default_rng(seed),
            curiosity(seed), schedule, group,
        )
        for seed in seeds
    ]  # fmt: skip


def _master(
    config: TrainConfig, network: ActorCritic, version: int, journal: NoJournal, group: Alone, *, shared: bool
) -> Master | HogwildMaster:
    """The master, whose weights `network` then shares: its parameters are views of them."""
    flat = FlatWeights(network)
    make_optimizer, workers = optimizer_maker(config.learner, flat.fixed), config.actor.count
    if not config.traits.learns_in_actors:
        store = WeightStore(flat.vector.cpu(), version, shared=shared)
        statistics = build_statistics(config, flat, group.size, gather=group.gather)
        if isinstance(journal, Journal):
            return RecordedMaster(flat.vector, make_optimizer, store, journal, statistics)
        return Master(flat.vector, make_optimizer, store, statistics)
    statistics = build_statistics(config, flat, workers, shared=shared)
    master = HogwildMaster(flat.vector.cpu(), make_optimizer, workers, version, statistics, shared=shared)
    flat.move_to(master.vector)
    return master


def build_statistics(
    config: TrainConfig,
    flat: FlatWeights[ActorCritic],
    writers: int = 1,
    *,
    shared: bool = False,
    gather: Gather | None = None,
) -> NormalizerStatistics | None:
    """None if nothing is normalised."""
    if not config.loss.normalize_reward and flat.module.normalizer is None:
        return None
    return NormalizerStatistics.of(flat, writers, shared=shared, gather=gather)
