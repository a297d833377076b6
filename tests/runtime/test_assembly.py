"""How a run is put together: every part has what the settings give it."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from troupe.algorithm.schedules import LinearSchedule
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime import assembly
from troupe.runtime.assembly import assemble, build_statistics, make_plans
from troupe.runtime.journal import Journal, NoJournal, RecordedMaster
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.learner import learning_rate
from troupe.runtime.progress import Counts, Progress
from troupe.runtime.topologies import Async, Hogwild, Serial, Topology

SMALL = {
    "topology": "async", "network.hidden": (4,), "actor.count": 3, "actor.environments": 2, "actor.rollout_steps": 5,
    "actor.placement": "thread", "env.backend": "sync", "queue.capacity": 4, "learner.rollouts": 1,
    "learner.minibatches": 1, "learner.epochs": 1,
}  # fmt: skip
HOGWILD = SMALL | {"topology": "hogwild", "loss.kind": "a3c"}
GA3C = SMALL | {"topology": "ga3c", "inference.kind": "batched", "inference.predictors": 2, "learner.count": 2}


def assembled(env: Any, settings: dict[str, Any], **more: Any) -> Topology:
    source = find(env)
    config = resolve("x", settings=settings, tuned=False)
    network = build(source.observation_space, source.action_space, config.network)
    parts = assemble(config, source, network, np.random.SeedSequence(1), Progress(), **more)
    parts.close()
    return parts


@pytest.mark.parametrize(
    ("settings", "kind"),
    [(SMALL, Async), (SMALL | {"topology": "serial", "actor.count": 1}, Serial), (HOGWILD, Hogwild), (GA3C, Async)],
)
def test_a_topology_is_made_with_all_that_it_is_given(counting, settings, kind):
    schedule, journal = LinearSchedule(0, 100, 1.0, 0.5), NoJournal()
    parts = assembled(counting, settings, schedule=schedule, journal=journal, version=7)
    assert type(parts) is kind
    assert parts.master.version == 7
    assert parts.schedule is schedule
    assert parts.journal is journal
    assert [runner.number for runner in parts.runners] == list(range(settings["actor.count"]))


def test_the_schedule_is_that_of_the_settings_where_none_is_given(counting):
    parts = assembled(counting, SMALL | {"learner.anneal_steps": 200})
    assert parts.schedule == LinearSchedule(0, 200, 1.0, 0.0)


@pytest.mark.parametrize("settings", [SMALL, HOGWILD])
def test_whoever_learns_does_so_by_the_schedule_of_the_run(counting, settings):
    """One that a resumed run has, and the settings do not give."""
    schedule = LinearSchedule(0, 100, 1.0, 0.5)
    parts = assembled(counting, settings, schedule=schedule)
    learners = parts.learners or [runner.actor._learner for runner in parts.runners]
    assert all(each._annealing is schedule for each in learners)
    assert learning_rate(parts.config.learner, schedule, Counts(steps=50)) == 0.75 * parts.config.learner.learning_rate


def test_the_networks_weights_are_the_masters_from_then_on(counting):
    for settings in (SMALL, HOGWILD):
        source, config = find(counting), resolve("x", settings=settings, tuned=False)
        network = build(source.observation_space, source.action_space, config.network)
        parts = assemble(config, source, network, np.random.SeedSequence(1), Progress())
        parts.master.vector.fill_(0.25)
        assert all((parameter == 0.25).all() for parameter in network.parameters() if parameter.requires_grad)
        parts.close()


def test_learners_have_copies_of_the_network_and_streams_of_their_own(counting):
    first, second = assembled(counting, GA3C).learners
    vectors = [first.weights.vector, second.weights.vector]
    assert torch.equal(*vectors)
    assert vectors[0].data_ptr() != vectors[1].data_ptr()
    assert first._rng.random() != second._rng.random()
    assert first.curiosity is second.curiosity is None


def test_where_novelty_is_sought_every_learner_has_a_predictor_of_its_own(counting):
    first, second = assembled(counting, GA3C | {"novelty.coefficient": 0.5}).learners
    weights = [each.curiosity._predictor.vector for each in (first, second)]
    assert not torch.equal(*weights)


def test_as_many_workers_are_made_as_the_controller_may_want(counting):
    most = {
        "adjust.every_seconds": 1.0,
        "adjust.most_actors": 5,
        "adjust.most_predictors": 3,
        "adjust.most_learners": 4,
    }
    parts = assembled(counting, GA3C | most)
    assert [len(each) for each in (parts.runners, parts.predictors, parts.learners)] == [5, 3, 4]
    assert parts.workers.current == {"actors": 3, "predictors": 2, "learners": 2}
    assert all(each._most == 5 for each in parts.predictors)
    assert len({each._generator.initial_seed() for each in parts.predictors}) == 3


def test_without_predictors_none_are_counted(counting):
    parts = assembled(counting, SMALL)
    assert parts.predictors == []
    assert parts.workers.current == {"actors": 3, "predictors": 0, "learners": 1}


@pytest.mark.parametrize(
    ("settings", "rollouts"),
    [
        (SMALL, 3 + 4),  # one in the hands of each actor, and those that wait
        (SMALL | {"learner.rollouts": 6}, 3 + 6),  # at least a batch
        (SMALL | {"topology": "serial", "actor.count": 1}, 1 + 4),
    ],
)
def test_rollouts_circulate_in_one_queue(counting, settings, rollouts):
    parts = assembled(counting, settings)
    assert parts.queue.capacity == rollouts
    assert all(runner.queue is parts.queue for runner in parts.runners)
    rollout = parts.queue.acquire()
    assert rollout.reward.shape == (5, 2)
    assert parts.runners[0]._context.buffers.new().reward.shape == (5, 2)


def test_each_worker_of_hogwild_has_a_queue_with_its_own_rollout(counting):
    parts = assembled(counting, HOGWILD)
    assert parts.queue.capacity == 0
    assert [runner.queue.capacity for runner in parts.runners] == [1, 1, 1]
    rollouts = [runner.queue.acquire() for runner in parts.runners]
    assert all(one is not other for one, other in pairwise(rollouts))


@pytest.mark.parametrize(("settings", "in_the_hands_of_each"), [(SMALL, 2), (HOGWILD, 2)])
def test_actors_in_processes_have_two_rollouts_in_shared_memory(counting, settings, in_the_hands_of_each):
    parts = assembled(counting, settings | {"actor.placement": "process"})
    buffers = parts.runners[0]._context.buffers
    waiting = 0 if settings is HOGWILD else 4
    assert buffers.slots == waiting + 3 * in_the_hands_of_each
    queues = {id(queue): queue for queue in buffers.queues}.values()
    slots = [queue.acquire().slot for queue in queues for _ in range(queue.capacity)]
    assert sorted(slots) == list(range(buffers.slots))
    assert not parts.ready.open
    assert parts.ready.awaited() == {0, 1, 2}


def test_actors_are_replaced_as_often_as_the_settings_say_but_the_only_thread_never(counting):
    asked = SMALL | {"actor.restarts": 5, "actor.hang_seconds": 7.0}
    for settings, restarts in ((asked, 5), (asked | {"topology": "serial", "actor.count": 1}, 0)):
        context = assembled(counting, settings).runners[0]._context
        assert (context.most_restarts, context.hang_seconds) == (restarts, 7.0)


def test_a_recorded_run_has_a_master_that_records(counting):
    journal = Journal()
    parts = assembled(counting, SMALL, journal=journal)
    assert isinstance(parts.master, RecordedMaster)
    assert parts.master._journal is journal
    assert not isinstance(assembled(counting, SMALL).master, RecordedMaster)


@pytest.mark.parametrize(("settings", "writers"), [(SMALL, 1), (HOGWILD, 3)])
def test_statistics_have_as_many_writers_as_there_are_masters_of_their_own(counting, settings, writers):
    """Learners in threads share one block under a lock, workers of hogwild have one each."""
    parts = assembled(counting, settings | {"network.normalize": True, "loss.normalize_reward": True})
    assert parts.master.statistics._moments.shape == (writers, 3, 2 + 1)


@pytest.mark.parametrize(
    ("normalize", "reward", "columns"), [(True, True, 3), (True, False, 3), (False, True, 1), (False, False, None)]
)
def test_statistics_are_of_what_is_normalized(counting, normalize, reward, columns):
    settings = SMALL | {"network.normalize": normalize, "loss.normalize_reward": reward}
    source, config = find(counting), resolve("x", settings=settings, tuned=False)
    flat = FlatWeights(build(source.observation_space, source.action_space, config.network))
    statistics = build_statistics(config, flat, 2)
    assert (statistics and statistics._moments.shape) == (columns and (2, 3, columns))


class ThreeRanks(Alone):
    rank, size = 1, 3


def test_every_part_that_learns_has_the_group_of_the_run(counting):
    group = ThreeRanks()
    parts = assembled(counting, SMALL | {"network.normalize": True, "learner.advantage_decay": 0.0}, group=group)
    assert parts.group is group
    assert [each._group for each in parts.learners] == [group]
    assert parts.master.statistics._moments.shape[0] == 3
    assert parts.master.statistics._gather == group.gather
    assert assembled(counting, SMALL).group.size == 1


def test_what_is_drawn_for_exploration_is_the_same_wherever_the_actors_are(counting):
    """Each kind of part has a stream of its own, which the others do not disturb."""
    asked = {"exploration.distribution": "uniform", "exploration.epsilon": (0.1, 0.9)}
    drawn = [
        [runner._plan.epsilon(0) for runner in assembled(counting, settings | asked).runners]
        for settings in (SMALL, SMALL, HOGWILD, GA3C)
    ]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    assert len({*drawn[0]}) == 3


def plans(env: Any, number: int = 3, **settings: Any) -> Any:
    source, config = find(env), resolve("x", settings=SMALL | settings, tuned=False)
    seeds = np.random.SeedSequence(1).spawn(2)
    return make_plans(config, source, *seeds, number, lambda each: ("policy", each), "meta", 6)


def test_every_actor_has_a_plan_with_its_number_its_epsilon_and_its_part_of_the_policy(counting):
    made = plans(counting, **{"exploration.epsilon": (0.1, 0.4), "loss.gamma": 0.7, "learner.anneal_steps": 300})
    assert [plan.number for plan in made] == [0, 1, 2]
    assert [plan.epsilon(0) for plan in made] == [0.1, 0.4, 0.1]
    assert [plan.policy_source for plan in made] == [("policy", number) for number in range(3)]
    for plan in made:
        assert (plan.device, plan.state_size) == ("meta", 6)
        assert plan.objective.rewards.gamma == 0.7
        assert plan.annealing == LinearSchedule(0, 300, 1.0, 0.0)
        assert plan.source.value.observation_space == counting.observation_space
    assert len({tuple(plan.seeds.generate_state(4)) for plan in made}) == 3


def test_processes_are_warmed_up_only_where_there_will_be_some(counting, monkeypatch):
    warmed: list[bool] = []
    monkeypatch.setattr(assembly, "warm_up", lambda: warmed.append(True))
    assembled(counting, SMALL)
    assert warmed == []
    assembled(counting, SMALL | {"actor.placement": "process"})
    assert warmed == [True]


def test_the_users_callables_are_tried_before_anything_is_built(counting, monkeypatch):
    tried: list[Any] = []

    def refuse(config: Any, source: Any, device: torch.device) -> None:
        tried.append((config.topology, source.observation_space, device))
        raise LookupError

    monkeypatch.setattr(assembly, "try_callables", refuse)
    monkeypatch.setattr(assembly, "placement_of", lambda *_: pytest.fail("it was built"))
    with pytest.raises(LookupError):
        assembled(counting, SMALL)
    assert tried == [("async", counting.observation_space, torch.device("cpu"))]
