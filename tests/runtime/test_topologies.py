"""Whole companies: serial is deterministic, threads start and stop, and who consumed what is known."""

import multiprocessing
import threading
import types
from collections import defaultdict
from functools import partial

import pytest
import torch

from helpers import PATIENCE_SECONDS, slow, slow_unless_in_turn
from troupe.config import UsageError, resolve
from troupe.environments import find
from troupe.interpreter import threads_run_in_parallel
from troupe.runtime import topologies
from troupe.runtime.execution.gate import Closed
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.execution.worker_counts import ReadyLatch

SMALL = {
    "network.hidden": (8,), "actor.count": 2, "actor.rollout_steps": 8, "actor.environments": 4, "queue.capacity": 4,
    "learner.rollouts": 1, "learner.minibatches": 2, "learner.epochs": 2, "threads": "free",
    "actor.placement": "thread",
}  # fmt: skip


SERIAL = SMALL | {"topology": "serial", "actor.count": 1}
THREADED = {
    "async": SMALL | {"topology": "async", "actor.count": 3},
    "async, several rollouts": SMALL | {"topology": "async", "learner.rollouts": 3, "learner.take_all": True},
    "async, in turns": SMALL | {"topology": "async", "threads": "turns"},
    "queue": SMALL | {"topology": "queue", "actor.count": 3, "learner.count": 2},
    "queue, on one core": SMALL | {"topology": "queue", "actor.count": 3, "learner.count": 2, "threads": "one-core"},
    "article": {"env.delay_seconds": 0.0, "learner.rollouts": 8, "actor.placement": "thread"},
}
GA3C = {
    "topology": "ga3c",
    "inference.kind": "batched",
    "actor.count": 4,
    "inference.predictors": 2,
    "learner.count": 2,
}
APART = {
    "async, in processes": THREADED["async"] | {"actor.placement": "process"},
    "queue, in processes": THREADED["queue"] | {"actor.placement": "process"},
    "article, in processes": THREADED["article"] | {"actor.placement": "process", "actor.count": 3},
    "ga3c": SMALL | GA3C | {"threads": "turns"},
    "ga3c, in processes": SMALL | GA3C | {"actor.placement": "process"},
    "async, batched": SMALL | {"inference.kind": "batched"},
    "queue, batched, in processes": THREADED["queue"] | {"inference.kind": "batched", "actor.placement": "process"},
}
HOGWILD = SMALL | {"topology": "hogwild", "actor.count": 3, "learner.epochs": 1, "learner.minibatches": 1}
EVERY = (
    THREADED
    | APART
    | {"serial": SERIAL, "hogwild": HOGWILD, "hogwild, in processes": HOGWILD | {"actor.placement": "process"}}
)


def preset_of(name: str) -> str:
    return "article" if name.startswith("article") else "appo"


@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith("article")])
def test_no_step_is_lost_or_delivered_twice(assembled, run, watched, counting, script, matches_script, name):
    """In every topology, what an actor delivers is all that its environments did, in order, and is consumed in it."""
    parts = assembled(counting, EVERY[name] | {"env.backend": "sync", "exploration.epsilon": 0.5})
    delivered = watched(parts)
    run(parts, 25)
    assert sum(map(len, delivered.values())) >= 25
    for rollouts in delivered.values():
        assert [each.index for each in rollouts] == list(range(len(rollouts)))
        if rollouts:
            matches_script(rollouts, script)
    counts, sums = parts.progress.counts, [each.steps for rollouts in delivered.values() for each in rollouts]
    # A rollout may have been reported and not delivered, when the run ends.
    assert sum(sums) <= counts.played <= sum(sums) + len(parts.runners) * max(sums)
    if name in THREADED | APART:
        was_consumed_in_order(parts)


def was_consumed_in_order(parts):
    """Of every actor 0, 1, 2, ...; by one learner in just that order; no rollout is from the future."""
    by_actor = defaultdict(list)
    for actor, index, version, newest in parts.progress.consumed:
        by_actor[actor].append((index, version))
        assert 0 <= version <= newest
    assert sum(map(len, by_actor.values())) >= 25
    for seen in by_actor.values():
        if len(parts.learners) > 1:
            seen.sort()
        assert [index for index, _ in seen] == list(range(len(seen)))
        assert [version for _, version in seen] == sorted(version for _, version in seen)
    assert 0 < parts.progress.counts.steps <= parts.progress.counts.played


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_window_delivers_every_step_once_wherever_it_is(assembled, run, watched, counting, script, placement):
    """One sample for each step of the script, in order, whose rewards are those of its horizon."""
    settings = {"env.delay_seconds": 0.0, "learner.rollouts": 8, "actor.placement": placement, "actor.count": 2}
    parts = assembled(counting, settings | {"actor.window_steps": 3}, preset="article")
    delivered = watched(parts)
    run(parts, 25)
    for rollouts in delivered.values():
        steps = [(e, s) for e in range(200) for s in range(script[e % len(script)][0])]
        seen = [tuple(map(int, each.obs[0, 0])) for each in rollouts]
        assert seen == steps[: len(seen)]
        assert len(seen) > 10
        for each, (episode, step) in zip(rollouts, seen, strict=True):
            horizon = int(each.horizon[0, 0])
            assert horizon == min(3, script[episode % len(script)][0] - step)
            lowest = sum(0.99**k * 10 * (step + k) for k in range(horizon))
            assert lowest - 1e-4 <= each.reward[0, 0] <= lowest + 2 * 3


@pytest.mark.parametrize(("backend", "loss"), slow_unless_in_turn(["native", "sync"], ["a3c", "impala", "appo"]))
def test_serial_with_one_seed_gives_the_same_weights_bit_for_bit(assembled, run, backend, loss):
    settings = SERIAL | {"env.backend": backend, "loss.kind": loss, "exploration.epsilon": 0.1}
    first, again, other = (run(assembled("CartPole-v1", settings, seed), 12) for seed in (3, 3, 4))
    assert torch.equal(first.master.vector, again.master.vector)
    assert not torch.equal(first.master.vector, other.master.vector)
    assert first.progress.counts == again.progress.counts
    assert list(first.progress.recent) == list(again.progress.recent)


def test_serial_is_always_up_to_date(assembled, run, counting):
    progress = run(assembled(counting, SERIAL), 10).progress
    assert progress.consumed == [(0, index, index, index) for index in range(10)]
    assert progress.take_lag() == (0.0, 0)


def test_serial_collects_a_batch_larger_than_the_queue(assembled, run, counting):
    """Nobody else could empty the queue meanwhile: it must hold a whole batch."""
    parts = run(assembled(counting, SERIAL | {"learner.rollouts": 9, "queue.capacity": 2}), 3)
    assert [version for _, _, version, _ in parts.progress.consumed] == [0] * 9 + [1] * 9 + [2] * 9


def test_a_resumed_run_counts_versions_from_where_it_was(assembled, run, counting):
    parts = run(assembled(counting, SERIAL, version=70), 2)
    assert [each[2:] for each in parts.progress.consumed] == [(70, 70), (71, 71)]


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("article")])
def test_samples_of_a_window_are_consumed_in_order_too(assembled, run, counting, name):
    was_consumed_in_order(run(assembled(counting, EVERY[name], preset="article"), 30))


def test_reported_lag_is_that_of_what_was_consumed(assembled, run, counting):
    endless = partial(counting, script=[(10_000, "terminated")])  # a rollout of a reset row alone would have no lag
    progress = run(assembled(endless, SMALL | {"actor.count": 2, "actor.rollout_steps": 1}), 40).progress
    lags = [newest - version for _, _, version, newest in progress.consumed]
    assert progress.take_lag()[1] == max(lags)


@pytest.mark.parametrize("times", [3, slow(20)])
@pytest.mark.parametrize("name", THREADED)
def test_threads_start_and_stop_again_and_again_without_hanging(assembled, run, name, times):
    """`run` asserts that all have ended, in order, within its patience."""
    for seed in range(times):
        batches = 1 + seed % 3
        parts = run(assembled("CartPole-v1", THREADED[name], seed, preset_of(name)), batches)
        assert parts.progress.counts.updates >= batches


@pytest.mark.parametrize("times", [2, slow(5)])
@pytest.mark.parametrize("name", ["async, in processes", "ga3c, in processes", "hogwild, in processes", "hogwild"])
def test_processes_start_and_stop_again_and_again_and_none_is_left(assembled, run, name, times):
    children = set(multiprocessing.active_children())
    for seed in range(times):
        run(assembled("CartPole-v1", EVERY[name] | {"env.backend": "sync"}, seed), batches=1 + seed % 3)
        assert set(multiprocessing.active_children()) == children


IN_PYTHON = "thread" if threads_run_in_parallel() else "process"


@pytest.mark.parametrize(
    ("env", "settings", "placement"),
    [
        ("CartPole-v1", {}, "thread"),
        ("CartPole-v1", {"env.backend": "native"}, "thread"),
        ("CartPole-v1", {"env.backend": "sync"}, IN_PYTHON),
        ("CartPole-v1", {"actor.placement": "process"}, "process"),
        ("MountainCar-v0", {}, IN_PYTHON),
        ("MountainCar-v0", {"actor.placement": "thread"}, "thread"),
        ("MountainCar-v0", {"topology": "serial", "actor.count": 1}, "thread"),
    ],
)
def test_actors_share_this_process_where_the_environment_steps_without_python(env, settings, placement):
    """CartPole has a vector version of its own; MountainCar has none."""
    source = find(env)
    assert placement_of(resolve(env, settings=settings, tuned=False), source).name == placement


def test_a_process_for_serials_one_thread_is_refused(counting):
    config = resolve("x", settings={"topology": "serial", "actor.count": 1, "actor.placement": "process"})
    with pytest.raises(
        UsageError, match=r"^actor\.placement = 'process': topology serial has one thread for everything$"
    ):
        placement_of(config, find(counting))


@pytest.mark.parametrize(("threads", "together"), [("free", True), ("turns", False), ("one-core", False)])
def test_parts_are_inside_a_turn_together_only_where_threads_are_free(assembled, counting, threads, together):
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


def test_a_run_can_be_stopped_while_all_actors_wait_for_a_learner(assembled, counting):
    """The queue is full, nobody learns: closing it is what wakes the actors."""
    parts = assembled(counting, SMALL | {"actor.count": 3, "queue.capacity": 1})
    parts.learners = []
    supervisor = Supervisor(parts.gate, parts.wake)
    parts.start(supervisor, lambda: None)
    while parts.queue.depth < 4:
        assert not supervisor.wait(1e-3)
    assert supervisor.stop(PATIENCE_SECONDS) == []


@pytest.mark.parametrize("topology", ["serial", "async", "queue"])
def test_an_environment_that_fails_ends_the_run_and_the_failure_says_where(assembled, counting, topology):
    def fail(episode: int, step: int) -> None:
        if episode == 2:
            raise ZeroDivisionError("on its third episode")

    settings = SMALL | {"topology": topology, "actor.count": 1, "env.backend": "sync"}
    parts = assembled(lambda: counting(before_step=fail), settings)
    with Supervisor(parts.gate, parts.wake) as supervisor:
        parts.start(supervisor, lambda: None)
        assert supervisor.wait(PATIENCE_SECONDS)
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure.part == ("serial" if topology == "serial" else "actor-0")
    assert "step raised ZeroDivisionError: on its third episode" in str(supervisor.failure.error)


def test_a_learner_that_fails_ends_the_run(assembled, counting):
    parts = assembled(counting, SMALL)

    def fail() -> None:
        raise OSError("no space left")

    with Supervisor(parts.gate, parts.wake) as supervisor:
        parts.start(supervisor, fail)
        assert supervisor.wait(PATIENCE_SECONDS)
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure.part == "learner-0"
    assert isinstance(supervisor.failure.error, OSError)


def test_rewards_are_scaled_for_learning_and_reported_raw(assembled, run, counting):
    """Episodes of three, two, one, four and one steps at 10 * step + action: the first is 30 to 36."""
    parts = run(assembled(counting, SERIAL | {"loss.reward_scale": 1e-3}), 3)
    assert 30.0 <= parts.progress.take_episodes()[0].total <= 36.0


# What a topology says of itself


def test_a_run_is_described_by_its_numbers(assembled, counting):
    def described(**settings):
        parts = assembled(counting, SMALL | settings)
        words = parts.describe("threads")
        parts.close()
        return words

    assert described() == "async: 2 x 4 environments in threads, 1 learner on cpu"
    queue = {"topology": "queue", "learner.count": 2, "actor.count": 3}
    assert described(**queue) == "queue: 3 x 4 environments in threads, 2 learners on cpu"
    ga3c = {"topology": "ga3c", "inference.kind": "batched", "inference.predictors": 1, "learner.count": 2}
    assert described(**ga3c) == "ga3c: 2 x 4 environments in threads, 1 predictor, 2 learners on cpu"
    hogwild = {"topology": "hogwild", "learner.epochs": 1, "learner.minibatches": 1}
    assert described(**hogwild) == "hogwild: 2 x 4 environments in threads, each learns on cpu"


def test_a_run_of_several_ranks_says_so(assembled, counting):
    parts = assembled(counting, SMALL)
    parts.group = types.SimpleNamespace(size=3)
    assert parts.describe("threads").endswith("1 learner on cpu, the same in each of 3 ranks")
    parts.close()


def test_stopwatches_are_those_of_the_workers_that_are_wanted_now(assembled, counting):
    settings = SMALL | GA3C | {"adjust.every_seconds": 1.0, "adjust.most_actors": 6, "adjust.most_learners": 3}
    parts = assembled(counting, settings | {"adjust.most_predictors": 4})
    assert (len(parts.runners), len(parts.predictors), len(parts.learners)) == (6, 4, 3)
    for numbers in ((4, 2, 2), (5, 3, 1), (1, 1, 3)):
        actors, predictors, learners = numbers
        parts.workers.set(actors=actors, predictors=predictors, learners=learners)
        assert parts.watches() == {
            "actor": [each.watch for each in parts.runners[:actors]],
            "predictor": [each.watch for each in parts.predictors[:predictors]],
            "learner": [each.watch for each in parts.learners[:learners]],
        }
    parts.close()


@pytest.mark.parametrize(
    ("settings", "lends"),
    [
        ({"actor.count": 1, "actor.environments": 1}, True),
        ({"actor.count": 2, "actor.environments": 1}, False),
        ({"actor.count": 1, "actor.environments": 2}, False),
        ({"actor.count": 1, "actor.environments": 1, "topology": "serial"}, False),
        ({"actor.count": 1, "actor.environments": 1, "actor.window_steps": 3, "loss.kind": "a3c"}, False),
    ],
)
def test_the_only_actor_lends_its_only_environment_to_evaluations(assembled, counting, settings, lends):
    parts = assembled(counting, SMALL | {"learner.minibatches": 1} | settings)
    assert parts.lender() is (parts.runners[0] if lends else None)
    parts.close()


def test_rollouts_in_a_batch_are_those_of_a_learner_and_one_for_a_hogwild_worker(assembled, counting):
    hogwild = {"topology": "hogwild", "learner.epochs": 1, "learner.minibatches": 1}
    for settings, number in (({"learner.rollouts": 3}, 3), (hogwild, 1)):
        parts = assembled(counting, SMALL | settings)
        assert parts.rollouts_in_batch == number
        assert parts.cluster is None
        parts.close()


def threads_of(parts):
    started = []
    parts.start(types.SimpleNamespace(start=lambda name, run, core: started.append((name, core))), lambda: None)
    parts.close()
    return started


def test_every_part_has_a_thread_of_its_name(assembled, counting, monkeypatch):
    monkeypatch.setattr(topologies, "idlest_core", lambda: 7)
    assert threads_of(assembled(counting, SERIAL)) == [("serial", None)]
    assert threads_of(assembled(counting, HOGWILD)) == [(f"actor-{number}", None) for number in range(3)]
    names = [f"actor-{n}" for n in range(4)] + [f"predictor-{n}" for n in range(2)] + [f"learner-{n}" for n in range(2)]
    assert threads_of(assembled(counting, SMALL | GA3C)) == [(name, None) for name in names]
    adjusted = {"adjust.every_seconds": 1.0, "adjust.most_actors": 4, "adjust.most_predictors": 2}
    adjusted |= {"adjust.most_learners": 2, "threads": "one-core"}
    assert threads_of(assembled(counting, SMALL | GA3C | adjusted)) == [(name, 7) for name in [*names, "controller"]]


def test_the_group_watches_every_run_and_is_woken_at_its_end(assembled, counting):
    parts, calls = assembled(counting, SMALL), []
    group = types.SimpleNamespace(
        watch=lambda supervisor, progress: calls.append((supervisor, progress)), wake=lambda: calls.append("wake")
    )
    parts.group = group
    supervisor = types.SimpleNamespace(start=lambda *_: None)
    parts.start(supervisor, lambda: None)
    assert calls == [(supervisor, parts.progress)]
    parts.wake()
    assert calls[1:] == ["wake"]
    with pytest.raises(Closed):
        parts.queue.acquire()
    parts.close()


def test_a_learner_that_waits_and_learns_says_which(assembled, counting):
    parts, stages = assembled(counting, SMALL | {"actor.count": 1}), []
    (learner,), (runner,) = parts.learners, parts.runners
    get, learn = parts.queue.get, learner.learn

    def look(name, call):
        def looked(*arguments):
            stages.append((name, learner.watch.stage))
            return call(*arguments)

        return looked

    parts.queue.get, learner.learn = look("get", get), look("learn", learn)
    runner.collect(parts.queue.put)
    parts._learn_batch(learner, look("after", lambda: None))
    assert stages == [("get", "wait"), ("learn", "other"), ("after", "pause")]
    assert learner.watch.stage == "wait"
    parts.close()


def test_what_follows_a_batch_has_the_masters_lock(assembled, counting):
    for settings in (SMALL, HOGWILD):
        parts, free = assembled(counting, settings), []
        lock = parts.master.lock

        def look(lock=lock, free=free):
            def take():
                free.append(lock.acquire(blocking=False))

            other = threading.Thread(target=take)
            other.start()
            other.join()

        run_one = parts._deliver(parts.runners[0], look)
        parts.runners[0].collect(run_one)
        if parts.learners:
            parts._learn_batch(parts.learners[0], look)
        assert free == [False]
        parts.close()


def test_nothing_is_wanted_twice_of_an_actor_that_is_ready(assembled, counting):
    """An actor in a process is ready with its first rollout, if it has not said so before."""
    parts = assembled(counting, SMALL)
    runner, got = parts.runners[1], []
    parts._deliver = lambda runner, after_batch: got.append
    parts.ready = ReadyLatch(parts.gate, [0, 1])
    deliver = parts._ready(runner, lambda: None)
    deliver("a rollout")
    assert (got, parts.ready.awaited()) == (["a rollout"], {0})
    parts.ready.add(0)
    parts._ready(runner, lambda: None)("another")
    assert got == ["a rollout", "another"]
    parts.close()


def test_a_hang_is_looked_for_in_every_actor_and_its_successor_has_its_name(assembled, counting):
    parts, started = assembled(counting, SMALL), []
    parts.runners[1].successor = lambda: lambda deliver: started.append(deliver)
    supervisor = types.SimpleNamespace(start=lambda name, run: (started.append(name), run()))
    parts.look_after(supervisor, lambda: None)
    assert started[0] == "actor-1"
    assert started[1] == parts.queue.put
    assert len(started) == 2
    parts.close()


def test_closing_closes_environments_and_learners(assembled, counting):
    parts, closed = assembled(counting, SMALL), []
    for name, each in [("actor", each) for each in parts.runners] + [("learner", each) for each in parts.learners]:
        each.close = lambda name=name: closed.append(name)
    parts.close()
    assert closed == ["actor", "actor", "learner"]


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("bound", [1, 2, 5])
def test_a_lag_of_the_bound_is_allowed_and_one_beyond_it_is_stale(assembled, counting, blank, bound, drop):
    parts = assembled(counting, SMALL, version=10)
    rollouts = [blank(1, 1, policy_version=10 - lag) for lag in (0, bound, bound + 1, 9)]
    wanted = topologies.fresh(rollouts, bound, parts.master, parts.progress, drop=drop)
    assert wanted == (rollouts[:2] if drop else rollouts)
    assert parts.progress.counts.stale == 2
    assert topologies.fresh(rollouts, 0, parts.master, parts.progress, drop=drop) == rollouts
    assert parts.progress.counts.stale == 2
    parts.close()
