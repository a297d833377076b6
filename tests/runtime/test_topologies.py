"""Whole companies: serial is deterministic, threads start and stop, and who consumed what is known."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from troupe.config import TrainConfig, resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.runtime.progress import Progress
from troupe.runtime.rollout import Rollout
from troupe.runtime.supervisor import Supervisor
from troupe.runtime.topologies import Parts, assemble

PATIENCE_SECONDS = 60  # a guard against hanging; nothing here waits for long
SMALL = {
    "network.hidden": (8,), "actor.count": 2, "actor.rollout_steps": 8, "actor.environments": 4, "queue.capacity": 4,
    "learner.rollouts": 1, "learner.minibatches": 2, "learner.epochs": 2, "threads": "free",
}  # fmt: skip


class Watched(Progress):
    """Remembers what was consumed, in order: actor, its rollout's index, its version, the newest version."""

    def __init__(self) -> None:
        super().__init__()
        self.consumed: list[tuple[int, int, int, int]] = []

    def consume(self, rollouts: Sequence[Rollout], version: int) -> None:
        self.consumed += [(each.actor, each.index, int(each.policy_version[0]), version) for each in rollouts]
        super().consume(rollouts, version)


def assembled(env: Any, settings: dict[str, Any], seed: int = 1, preset: str = "appo") -> Parts:
    source = find(env)
    config: TrainConfig = resolve(source.id, preset, settings, tuned=False)
    torch.manual_seed(seed)
    network = build(source.observation_space, source.action_space, config.network)
    return assemble(config, source, network, np.random.SeedSequence(seed), Watched())


def run(parts: Parts, batches: int, during: Callable[[], object] = lambda: None) -> Parts:
    """Until so many batches have been learned from."""
    learned = []

    def after_batch() -> None:
        learned.append(1)
        during()
        if len(learned) == batches:
            supervisor.end()

    with Supervisor(parts.gate, parts.queue.close) as supervisor:
        parts.start(supervisor, after_batch)
        assert supervisor.wait(PATIENCE_SECONDS), "it waits for ever"
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure is None
    parts.close()
    return parts


SERIAL = SMALL | {"topology": "serial", "actor.count": 1}
THREADED = {
    "async": SMALL | {"topology": "async", "actor.count": 3},
    "async, several rollouts": SMALL | {"topology": "async", "learner.rollouts": 3, "learner.take_all": True},
    "async, in turns": SMALL | {"topology": "async", "threads": "turns"},
    "queue": SMALL | {"topology": "queue", "actor.count": 3, "learner.count": 2},
    "queue, on one core": SMALL | {"topology": "queue", "actor.count": 3, "learner.count": 2, "threads": "one-core"},
    "article": {"env.delay_seconds": 0.0, "learner.rollouts": 8},
}


@pytest.mark.parametrize("backend", ["native", "sync"])
@pytest.mark.parametrize("loss", ["a3c", "impala", "appo"])
def test_serial_with_one_seed_gives_the_same_weights_bit_for_bit(backend, loss):
    settings = SERIAL | {"env.backend": backend, "loss.kind": loss, "exploration.epsilon": 0.1}
    first, again, other = (run(assembled("CartPole-v1", settings, seed), 12) for seed in (3, 3, 4))
    assert torch.equal(first.master.vector, again.master.vector)
    assert not torch.equal(first.master.vector, other.master.vector)
    assert first.progress.counts == again.progress.counts
    assert list(first.progress.recent) == list(again.progress.recent)


def test_serial_is_always_up_to_date(counting):
    progress = run(assembled(counting, SERIAL), 10).progress
    assert progress.consumed == [(0, index, index, index) for index in range(10)]
    assert progress.take_lag() == (0.0, 0)


def test_serial_collects_a_batch_larger_than_the_queue(counting):
    """Nobody else could empty the queue meanwhile: it must hold a whole batch."""
    parts = run(assembled(counting, SERIAL | {"learner.rollouts": 9, "queue.capacity": 2}), 3)
    assert [version for _, _, version, _ in parts.progress.consumed] == [0] * 9 + [1] * 9 + [2] * 9


def test_a_resumed_run_counts_versions_from_where_it_was(counting):
    source = find(counting)
    config = resolve(source.id, settings=SERIAL)
    network = build(source.observation_space, source.action_space, config.network)
    parts = assemble(config, source, network, np.random.SeedSequence(0), Watched(), version=70)
    assert [each[2:] for each in run(parts, 2).progress.consumed] == [(70, 70), (71, 71)]


@pytest.mark.parametrize("name", THREADED)
def test_the_order_of_consumption_is_known_and_complete(counting, name):
    """For every actor 0, 1, 2, ...; with one learner in just that order; no rollout is from the future."""
    preset = "article" if name == "article" else "appo"
    parts = run(assembled(counting, THREADED[name], preset=preset), 30)
    by_actor = defaultdict(list)
    for actor, index, version, newest in parts.progress.consumed:
        by_actor[actor].append((index, version))
        assert 0 <= version <= newest
    for seen in by_actor.values():
        if len(parts.learners) > 1:
            seen.sort()
        assert [index for index, _ in seen] == list(range(len(seen)))
        assert [version for _, version in seen] == sorted(version for _, version in seen)
    steps = parts.progress.counts.steps
    assert 0 < steps <= parts.progress.counts.played


def test_reported_lag_is_that_of_what_was_consumed(counting):
    progress = run(assembled(counting, SMALL | {"actor.count": 2, "actor.rollout_steps": 1}), 40).progress
    lags = [newest - version for _, _, version, newest in progress.consumed]
    assert progress.take_lag()[1] == max(lags)


@pytest.mark.parametrize("name", THREADED)
def test_threads_start_and_stop_twenty_times_without_hanging(name):
    preset = "article" if name == "article" else "appo"
    for seed in range(20):
        run(assembled("CartPole-v1", THREADED[name], seed, preset), batches=1 + seed % 3)


@pytest.mark.parametrize(("threads", "together"), [("free", True), ("turns", False), ("one-core", False)])
def test_parts_are_inside_a_turn_together_only_where_threads_are_free(counting, threads, together):
    gate = assembled(counting, SMALL | {"threads": threads}).gate
    entered = threading.Event()

    def enter() -> None:
        with gate.turn():
            entered.set()

    second = threading.Thread(target=enter)
    with gate.turn():
        second.start()
        assert entered.wait(PATIENCE_SECONDS if together else 0.05) == together
    second.join(PATIENCE_SECONDS)
    assert entered.is_set()


def test_a_run_can_be_stopped_while_all_actors_wait_for_a_learner(counting):
    """The queue is full, nobody learns: closing it is what wakes the actors."""
    parts = replace(assembled(counting, SMALL | {"actor.count": 3, "queue.capacity": 1}), learners=[])
    supervisor = Supervisor(parts.gate, parts.queue.close)
    parts.start(supervisor, lambda: None)
    while parts.queue.depth < 4:
        assert not supervisor.wait(1e-3)
    assert supervisor.stop(PATIENCE_SECONDS) == []


@pytest.mark.parametrize("topology", ["serial", "async", "queue"])
def test_an_environment_that_fails_ends_the_run_and_the_failure_says_where(counting, topology):
    def fail(episode: int, step: int) -> None:
        if episode == 2:
            raise ZeroDivisionError("on its third episode")

    settings = SMALL | {"topology": topology, "actor.count": 1, "env.backend": "sync"}
    parts = assembled(lambda: counting(before_step=fail), settings)
    with Supervisor(parts.gate, parts.queue.close) as supervisor:
        parts.start(supervisor, lambda: None)
        assert supervisor.wait(PATIENCE_SECONDS)
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure.part == ("serial" if topology == "serial" else "actor-0")
    assert "step raised ZeroDivisionError: on its third episode" in str(supervisor.failure.error)


def test_a_learner_that_fails_ends_the_run(counting):
    parts = assembled(counting, SMALL)

    def fail() -> None:
        raise OSError("no space left")

    with Supervisor(parts.gate, parts.queue.close) as supervisor:
        parts.start(supervisor, fail)
        assert supervisor.wait(PATIENCE_SECONDS)
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure.part == "learner-0"
    assert isinstance(supervisor.failure.error, OSError)


def test_rewards_are_scaled_for_learning_and_reported_raw(counting):
    """Episodes of three, two, one, four and one steps at 10 * step + action: the first is 30 to 36."""
    parts = run(assembled(counting, SERIAL | {"loss.reward_scale": 1e-3}), 3)
    assert 30.0 <= parts.progress.take_episodes()[0].total <= 36.0
