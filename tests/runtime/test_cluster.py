"""Actors on several hosts, which are threads of this process here: order, bounds, weights, loss and messages."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import PATIENCE_SECONDS
from helpers.cluster import ThreadEngine
from troupe.cli import run
from troupe.config import TroupeError, UsageError, resolve
from troupe.environments import find
from troupe.runtime.assembly import assemble
from troupe.runtime.cluster import head, remote, versions
from troupe.runtime.cluster.engine import HostFailed
from troupe.runtime.cluster.head import ClusterRunner
from troupe.runtime.cluster.host import Beat, HostProgress, parcel_sizes
from troupe.runtime.cluster.machines import deal
from troupe.runtime.cluster.parcel import (
    Failure,
    Parcel,
    Request,
    decode_parcel,
    decode_request,
    encode,
    record_type,
)
from troupe.runtime.cluster.placement import using
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.execution.gate import Closed
from troupe.runtime.initial_network import first_network
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Counts, Delta, Episode, Lag, Progress

SETTINGS = {
    "actor.cluster": "auto", "actor.count": 4, "actor.environments": 1, "actor.rollout_steps": 2,
    "learner.rollouts": 2, "queue.capacity": 2, "actor.restarts": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """For machines that join."""
    monkeypatch.setattr(head, "_LOOK_SECONDS", 0.05)


class Scripted:
    """A host that plays nothing: each parcel has one rollout of each actor, with the version that it was sent last."""

    def __init__(self, node: Any):
        self.node, self.log, self.beats = node, list[tuple[int, bool]](), list[bool]()
        self.weights: tuple[int, np.ndarray | None] = (-1, None)
        self.answers, self.failure, self.opening = threading.Event(), None, None
        self.answers.set()
        self.active, self.most_active, self.ended = 0, 0, False

    def open(self, packed: bytes) -> Failure | None:
        self.share = cloudpickle.loads(packed)
        return self.opening

    def collect(self, counts: Counts, version: int, weights: np.ndarray | None = None) -> Parcel:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.answers.wait(PATIENCE_SECONDS)
        self.log.append((version, weights is not None))
        if weights is not None:
            self.weights = version, weights
        self.active -= 1
        numbers = [plan.number for plan in self.share.plans]
        arrays = np.zeros(len(numbers), record_type(self.share.spec))
        arrays["policy_version"][:], arrays["valid"][:] = self.weights[0], True
        arrays["reward"][:] = np.array(numbers)[:, None, None]
        origins = [(number, self.share.generation, [(version, 0)]) for number in numbers]
        delta = Delta(Counts(played=2 * len(numbers)), [Episode(1.0, 2)], Lag(), {"mask": "masks are ignored"})
        return Parcel(arrays, origins, [delta], ["an actor was replaced"], {"env": 1.0}, self.failure)

    def beat(self, paused: bool) -> Beat:
        self.beats.append(paused)
        return Beat(failure=self.failure)

    def close(self) -> None:
        self.ended = True
        self.answers.set()


class Bench:
    """A run whose hosts are scripted, and the rollouts that it has got; its learner is the test."""

    def __init__(self, engine: ThreadEngine, **settings: Any):
        self.engine, self.progress = engine, Progress()
        config, source = resolve("CartPole-v1", settings=SETTINGS | settings), find("CartPole-v1")
        network, seeds, _ = first_network(None, source, config)
        with using(engine):
            self.topology = assemble(config, source, network, seeds, self.progress)
        assert self.topology.cluster is not None
        self.runner: ClusterRunner = self.topology.cluster
        self.got: list[tuple[int, int, int, int]] = []  # actor, generation, index, version
        self.held: list[Any] = []
        self.holding, self.error = False, None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Bench":
        self._thread.start()
        return self

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end
            assert self.error is None or isinstance(self.error, Closed), self.error
            time.sleep(0.002)

    def stop(self) -> None:
        self.topology.gate.stop()
        self.topology.wake()
        if self._thread.ident:
            self._thread.join(PATIENCE_SECONDS)
        self.topology.close()

    def failure(self) -> BaseException:
        self._thread.join(PATIENCE_SECONDS)
        assert self.error is not None
        return self.error

    @property
    def notices(self) -> str:
        return "\n".join(self.progress.notices)

    def _run(self) -> None:
        try:
            self.runner.run(self._deliver)
        except BaseException as error:
            self.error = error

    def _deliver(self, rollout: Any) -> None:
        assert (rollout.reward == rollout.actor).all()
        self.got.append((rollout.actor, rollout.generation, rollout.index, int(rollout.policy_version.max())))
        if self.holding:
            self.held.append(rollout)
        else:
            self.topology.queue.release([rollout])


@contextmanager
def bench(engine: ThreadEngine, **settings: Any) -> Iterator[Bench]:
    made = Bench(engine, **settings)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def two() -> ThreadEngine:
    return ThreadEngine({"a": 3, "b": 1}, Scripted)


def test_actors_are_dealt_out_by_cores_and_every_rollout_has_its_origin(two):
    with bench(two) as run:
        assert run.runner.describe() == "2 hosts (a: 3 actors, b: 1)"
        run.start().until(lambda: len(run.got) >= 40 and {actor for actor, *_ in run.got} == set(range(4)))
    for actor in range(4):
        mine = [each for each in run.got if each[0] == actor]
        assert [index for _, _, index, _ in mine] == list(range(len(mine)))
        assert {generation for _, generation, _, _ in mine} == {0}
    assert run.progress.counts.played >= 2 * len(run.got)
    assert len(run.progress.take_episodes()) > 10
    row = run.runner.take_row()
    assert min(row["a"]["steps"], row["b"]["steps"]) > 0
    assert run.runner.watch.seconds["env"] >= 2
    assert "host a: an actor was replaced" in run.notices
    assert run.notices.count("masks are ignored") == 1


def test_training_begins_when_the_actors_of_all_hosts_are_ready(two):
    """Not when the hosts are open: before, nothing is asked for."""
    with bench(two) as run:
        waiting, (slow,) = [3], two.on("b")
        slow.host.beat = lambda paused: Beat(set(waiting))
        run.start().until(lambda: run.topology.ready.awaited() == {3})
        assert not run.topology.ready.open
        assert not any(host.host.log for host in two.hosts)
        waiting.clear()
        run.until(lambda: run.topology.ready.open and len(run.got) > 4)


def test_calls_are_two_at_most_for_each_host_and_one_at_a_time(two):
    with bench(two) as run:
        (host,) = two.on("a")
        host.host.answers.clear()
        run.start().until(lambda: host.host.active == 1)
        run.until(lambda: len([ticket for ticket in host.tickets if not ticket.done()]) >= 1 and len(run.got) > 10)
        pending = next(each for each in run.runner._hosts if each.node.name == "a")
        assert len(pending.calls) == remote.IN_FLIGHT
        host.host.answers.set()
        run.until(lambda: len(host.host.log) > 6)
        assert host.host.most_active == 1


def test_what_waits_is_bounded_while_learners_are_busy(two):
    with bench(two) as run:
        run.holding = True
        run.start().until(lambda: len(run.held) == 2)  # all there are
        run.until(lambda: sum(each.undelivered for each in run.runner._hosts) >= 1)
        calls = sum(len(host.host.log) for host in two.hosts)
        time.sleep(0.1)
        assert sum(len(host.host.log) for host in two.hosts) <= max(calls, 2 * remote.IN_FLIGHT)
        assert all(each.undelivered + len(each.calls) <= remote.IN_FLIGHT for each in run.runner._hosts)
        run.holding = False
        run.topology.queue.release(run.held)
        run.until(lambda: len(run.got) > 20)


def test_a_version_is_copied_once_for_all_hosts_and_travels_once_to_each(two, monkeypatch):
    monkeypatch.setattr(head, "_WEIGHTS_SHARE", 1e9)
    with bench(two) as run:
        store = run.topology.master.store
        run.start()
        for _ in range(20):
            version = store.publish(torch.full((store.size,), float(store.version + 1)))
            run.until(lambda version=version: any(each[3] == version for each in run.got))
        hosts = [host.host for host in two.hosts]
        run.until(lambda: all(host.weights[0] == 20 for host in hosts))
    assert len({each[0] for each in two.shared}) == len(two.shared) <= 21  # with the first
    for host in hosts:
        sent = [version for version, new in host.log if new]
        assert sent == sorted(set(sent))
        assert host.log[0][1]
        assert all((host.weights[1] == 20.0).tolist())


def test_a_slow_host_skips_versions(two, monkeypatch):
    monkeypatch.setattr(head, "_WEIGHTS_SHARE", 1e9)
    with bench(two) as run:
        (slow,), store = two.on("b"), run.topology.master.store
        slow.host.answers.clear()
        run.start().until(lambda: slow.host.active == 1)
        for _ in range(50):
            version = store.publish(torch.zeros(store.size))
            run.until(lambda version=version: any(each[0] != 3 and each[3] == version for each in run.got))
        slow.host.answers.set()
        run.until(lambda: slow.host.weights[0] == 50)
    assert sum(new for _, new in slow.host.log) <= 1 + remote.IN_FLIGHT


def test_an_evaluation_pauses_the_hosts(two):
    with bench(two) as run:
        hosts = [host.host for host in two.hosts]
        run.start().until(lambda: len(run.got) > 8)
        with run.topology.gate.paused():
            run.until(lambda: all(host.beats and host.beats[-1] for host in hosts))
        run.until(lambda: not any(host.beats[-1] for host in hosts))
        got = len(run.got)
        run.until(lambda: len(run.got) > got + 8)


def test_a_lost_host_counts_once_and_the_others_take_its_actors(two):
    with bench(two) as run:
        run.start().until(lambda: {0, 3} <= {actor for actor, *_ in run.got})
        two.remove("a")
        run.until(lambda: any(actor == 0 and generation > 0 for actor, generation, *_ in run.got))
        assert run.progress.counts.restarts == 1
        assert run.runner.describe() == "1 host (b: 4 actors)"
        assert "host a is lost: its machine is gone; other hosts take over its 3 actors" in run.notices
        for actor in range(4):
            mine = [(generation, index) for each, generation, index, _ in run.got if each == actor]
            assert mine == sorted(mine)
            assert [index for _, index in mine] == list(range(len(mine)))
    generations = {generation for _, generation, *_ in run.got}
    assert len(generations) == 2
    assert max(generations) > SETTINGS["actor.restarts"]  # further than replacing them on the first host can get


def test_a_host_that_answers_no_more_is_lost_in_seconds(two, monkeypatch):
    monkeypatch.setattr(remote, "_SILENT_SECONDS", 0.3)
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        (frozen,), stands = two.on("b"), threading.Event()
        frozen.host.beat = lambda paused: stands.wait(PATIENCE_SECONDS)
        run.until(lambda: "host b is lost: it has not answered for" in run.notices)
        run.until(lambda: run.runner.describe() == "1 host (a: 4 actors)")
        stands.set()


def test_a_machine_that_lost_a_host_is_the_last_choice_and_taken_where_it_is_the_only_one():
    engine = ThreadEngine({"only": 2}, Scripted)
    with bench(engine) as run:
        run.start().until(lambda: len(run.got) > 4)
        engine.on("only")[0].lose("its process has died")
        run.until(lambda: any(generation > 0 for _, generation, *_ in run.got))
        assert run.progress.counts.restarts == 1


def test_where_no_host_is_left_the_run_ends(two, monkeypatch):
    monkeypatch.setattr(head, "_RETURN_SECONDS", 0.1)
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.remove("a")
        two.remove("b")
        assert "no host is left" in str(run.failure())


def test_a_host_that_returns_gets_the_actors_that_wait(two):
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.remove("a")
        two.remove("b")
        run.until(lambda: "host b is lost" in run.notices and "host a is lost" in run.notices)
        two.join("c", 4)
        got = len(run.got)
        run.until(lambda: {0, 1, 2, 3} <= {actor for actor, *_ in run.got[got:]})
        assert run.runner.describe() == "1 host (c: 4 actors)"


def test_a_host_that_joins_shares_the_actors_of_one_with_too_few_cores():
    engine = ThreadEngine({"a": 2}, Scripted)
    with bench(engine) as run:
        run.start().until(lambda: len(run.got) > 4)
        engine.join("b", 2)
        run.until(lambda: run.runner.describe() == "2 hosts (a: 2 actors, b: 2)")
        got = len(run.got)
        run.until(lambda: {0, 1, 2, 3} <= {actor for actor, *_ in run.got[got:]})
        assert "host b has joined and takes over some of the actors of a" in run.notices
        assert run.progress.counts.restarts == 0


def test_a_host_that_is_not_needed_is_a_spare(two):
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.join("c", 8)
        run.until(lambda: "host c has joined; it gets actors when another host is lost" in run.notices)
        two.remove("b")
        run.until(lambda: run.runner.describe() == "2 hosts (a: 3 actors, c: 1)")


def test_losses_are_limited_by_actor_restarts(two):
    with bench(two, **{"actor.restarts": 0}) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.remove("b")
        message = str(run.failure())
        assert "host b is lost" in message
        assert "the limit of 0 restarts (actor.restarts) is reached" in message


def test_what_a_host_raises_names_the_host_the_environment_and_the_traceback(two):
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.on("b")[0].host.failure = Failure("actor-3: ValueError: broken", "Traceback: line 7 of corridor.py")
        error = run.failure()
        run.error = None
        run.until(lambda: all(two.on(name)[0].host.ended for name in "ab"))  # both are told to end
    assert isinstance(error, HostFailed)
    assert str(error) == "host b, environment CartPole-v1: actor-3: ValueError: broken"
    assert "line 7 of corridor.py" in error.__notes__[0]


def test_a_machine_of_other_versions_is_refused_at_the_start_and_left_out_later(two):
    two.versions["b"] = {"torch": "1.13.0"}
    with pytest.raises(UsageError, match=r"host b has torch 1\.13\.0, this machine .*: install the same on both"):
        Bench(two)
    two.versions.clear()
    with bench(two) as run:
        run.start().until(lambda: len(run.got) > 4)
        two.versions["c"] = {"numpy": ""}
        two.join("c", 8)
        two.remove("b")
        run.until(lambda: "host c lacks numpy: pip install numpy==" in run.notices)
        run.until(lambda: run.runner.describe() == "1 host (a: 4 actors)")


def test_a_host_without_a_package_of_the_environment_is_named_with_the_pip_command(two):
    def make(node):
        host = Scripted(node)
        host.opening = (
            Failure("ModuleNotFoundError: No module named 'ale_py'", "", "ale_py") if node.name == "b" else None
        )
        return host

    two.make_host = make
    with pytest.raises(UsageError, match=r"host b lacks the package ale_py: pip install '?ale-py.* there"):
        Bench(two)
    assert all(host.lost for host in two.hosts)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({}, ""),
        ({"python": "3.9"}, "host h has python 3.9, this machine"),
        ({"troupe": ""}, "host h lacks troupe: install troupe-rl"),
        ({"torch": ""}, "host h lacks torch: pip install torch=="),
        ({"gymnasium": "0.1"}, "pip install gymnasium=="),
        ({"sources": "00000000"}, "with other source files than this machine (checksums 00000000 and"),
    ],
)
def test_versions_that_differ_are_both_named(theirs, message):
    ours = versions.prober()()
    assert message in versions.difference("h", ours | theirs, ours)
    assert bool(versions.difference("h", ours | theirs, ours)) == bool(message)


@pytest.mark.parametrize(
    ("actors", "cores", "load", "dealt"),
    [
        (6, {"a": 4, "b": 2}, {}, {"a": 4, "b": 2}),
        (1, {"a": 1, "b": 8}, {}, {"b": 1}),
        (4, {"a": 4, "b": 4}, {"a": 4}, {"b": 4}),
        (3, {"a": 0, "b": 2}, {}, {"b": 3}),
        (2, {"a": 0, "b": 0}, {}, {"a": 1, "b": 1}),
        (5, {}, {}, {}),
    ],
)
def test_actors_are_in_proportion_to_the_cores_with_those_that_are_there(actors, cores, load, dealt):
    assert deal(actors, cores, load) == dealt


def test_small_rollouts_travel_together_and_large_ones_alone():
    space = find("CartPole-v1").packing.space
    small, large = RolloutSpec(space, 1, 1), RolloutSpec(space, 64, 32_000)
    most, fewest = parcel_sizes(small, 2000)
    assert most >= fewest
    assert 90_000 < fewest * record_type(small).itemsize <= 100_000  # what Ray sends within an answer
    assert parcel_sizes(small, 8) == (8, 8)  # no more than can come
    assert record_type(large).itemsize > 16_000_000
    assert parcel_sizes(large, 64) == (1, 1)


def test_requests_and_parcels_are_the_same_after_the_way_as_bytes():
    counts, weights = Counts(played=3, failures=1), np.arange(5, dtype=np.float32)
    back = decode_request(encode(Request(counts, 7, weights)))
    assert back[:2] == (counts, 7)
    assert back[2] is not None
    np.testing.assert_array_equal(back[2], weights, strict=True)
    assert decode_request(encode(Request(counts, 7))) == (counts, 7, None)
    record = record_type(RolloutSpec(gym.spaces.Box(0, 255, (3, 5), np.uint8), 2, 3, state_size=0))
    rollouts = np.zeros(2, record)
    for number, name in enumerate(record.names or ()):
        rollouts[name] = np.arange(rollouts[name].size).reshape(rollouts[name].shape) + number
    delta = Delta(counts, [Episode(1.5, 2)], Lag(1, 2, 3), {"mask": "ignored"}, 0.5, {"epsilon": [0.5, 2.0]})
    parcel = Parcel(rollouts, [(0, 1, [(2, 3)]), (4, 5, [])], [delta], ["a"], {"env": 1.0}, Failure("e", "t", "m"))
    seen = decode_parcel(encode(parcel))
    np.testing.assert_array_equal(seen.rollouts.view(record), rollouts, strict=True)
    assert vars(seen) | {"rollouts": 0} == vars(parcel) | {"rollouts": 0}
    assert len(decode_parcel(encode(Parcel())).rollouts) == 0


def test_what_a_host_counts_reaches_the_run_once():
    progress, delta = HostProgress(), Delta(Counts(played=3), [], Lag(), {})
    progress.add(delta)
    progress.restart("actor-1: it died; another takes its place")
    deltas, notices = progress.take()
    assert sum(each.counts.played for each in deltas) == 3
    assert sum(each.counts.restarts for each in deltas) == 1
    assert notices == ["actor-1: it died; another takes its place"]
    assert progress.take() == ([], [])


def test_a_mirror_that_gets_every_fourth_version_is_read_whole():
    """Its copies are written in turn: by their versions it would be the same copy each time."""
    mirror, into = WeightStore(torch.zeros(8), -1), torch.zeros(8)
    for version in (4, 8, 12, 16):
        before = mirror._copies.data_ptr() + (int(mirror._written[0]) % 4) * 32
        mirror.publish(torch.full((8,), float(version)), version)
        assert before != mirror._copies.data_ptr() + (int(mirror._written[0]) % 4) * 32
        assert mirror.pull(into, version - 4) == mirror.version == version
        assert (into == version).all()
    assert mirror.pull(into, 16) == 16


# One step of the run's side at a time, by a clock of the test


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0, naps=[])
    given = SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.naps.append)
    monkeypatch.setattr(head, "time", given)
    return clock


def test_weights_are_copied_for_a_tenth_of_the_time_at_most(two, clock):
    with bench(two) as run:
        share, store = two.share, run.topology.master.store

        def slow(value: Any) -> Any:
            clock.now += 1.0
            return share(value)

        two.share = slow
        first = run.runner._weights(clock.now)
        assert first[0] == 0
        assert run.runner._weights(clock.now) is first
        for version in (1, 2):
            store.publish(torch.full((store.size,), float(version)))
        assert run.runner._weights(clock.now + 8.9) is first
        clock.now += 10.0
        version, weights = run.runner._weights(clock.now)
        assert version == 2
        assert (weights == 2.0).all()
        assert run.runner._weights(clock.now + 100.0)[0] == 2


def test_parcels_are_delivered_in_order_and_each_rollout_is_counted_for_its_host(two):
    with bench(two) as run:
        delivered: list[Any] = []

        def deliver(rollout: Any) -> None:
            delivered.append((rollout.actor, rollout.index))
            run.topology.queue.release([rollout])

        for host in run.runner._hosts:
            parcel = next(each for each in two.hosts if each.node == host.node).host.collect(Counts(), 0, np.zeros(1))
            host.calls.append("call")
            two.result = lambda ticket, parcel=parcel: parcel  # type: ignore[method-assign]
            run.runner._take_parcel(host, "call")
            assert host.undelivered == 1
        while len(delivered) < 4:
            run.runner._hand_over(deliver)
        assert delivered == [(0, 0), (1, 0), (2, 0), (3, 0)]
        assert [host.undelivered for host in run.runner._hosts] == [0, 0]
        assert not run.runner._arrived
        row = run.runner.take_row()
        assert {name: (each["actors"], each["steps"]) for name, each in row.items()} == {"a": (3, 6), "b": (1, 2)}
        assert run.progress.counts.played == 8
        assert run.runner.watch.seconds["env"] == 2.0


def test_silence_is_looked_at_in_steps_so_that_a_run_that_stood_still_loses_nobody(two, clock):
    with bench(two) as run:
        passed: list[float] = []
        for host in run.runner._hosts:
            host.pass_time = passed.append
        run.runner._polled = clock.now
        for step in (0.125, 3600.0):
            clock.now += step
            run.runner._look_for_silence()
        assert passed == [0.125, 0.125, 0.2, 0.2]


def test_machines_are_looked_for_once_in_a_while_and_at_once_when_a_host_is_lost(two, clock, monkeypatch):
    monkeypatch.setattr(head, "_LOOK_SECONDS", 1.0)
    with bench(two) as run:
        looks: list[float] = []
        look = run.runner._machines.look
        run.runner._machines.look = lambda: looks.append(clock.now) or look()  # type: ignore[method-assign, func-returns-value]
        run.runner._next_look = 0.0
        for _ in range(9):
            run.runner._settle()
            clock.now += 0.25
        assert looks == [1000.0, 1001.0, 1002.0]
        run.runner._give_up(run.runner._hosts[1])
        assert run.runner.describe() == "1 host (a: 3 actors)"
        run.runner._settle()
        assert looks[-1] == clock.now
        assert run.runner.describe() == "2 hosts (a: 3 actors, b: 1)"


def test_hosts_are_told_to_end_once_waited_for_and_then_killed(two, clock):
    """The one ends in order; the other does not answer within two seconds."""
    with bench(two) as run:
        waited: list[tuple[int, float]] = []
        called: list[tuple[Any, str]] = []

        def wait(tickets: Any, seconds: float) -> Any:
            waited.append((len(tickets), seconds))
            clock.now += 0.75
            return tickets[:1] if len(waited) == 2 else []

        two.call = lambda handle, method: called.append((handle.node.name, method)) or len(called)  # type: ignore[method-assign]
        two.wait = wait  # type: ignore[method-assign]
        run.runner.close()
        assert called == [("a", "close"), ("b", "close")]
        assert waited == [(2, 2.0), (2, 1.25), (1, 0.5)]
        assert all(host.lost for host in two.hosts)


def test_a_run_without_hosts_waits_ten_seconds_for_one_and_says_why_others_are_not_used(two, clock):
    with bench(two) as run:
        run.runner._machines.refused["c"] = "host c has another version"
        two.machines.clear()
        for host in list(run.runner._hosts):
            run.runner._give_up(host)
        run.runner._settle()
        clock.now += 9.75
        run.runner._settle()
        clock.now += 1.0
        with pytest.raises(TroupeError, match=r"^no host is left that could run actors; host c has another version$"):
            run.runner._settle()
        run.runner._receive()
        assert clock.naps == [0.05]


# Through the command line, with processes as on a real host

COMMAND = (
    "train CartPole-v1 --cluster auto --actors 3 --actor.environments 2 --steps 1500 --target none "
    "--evaluation.final_episodes 5 --run-dir run"
)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadEngine]:
    monkeypatch.chdir(tmp_path)
    engine = ThreadEngine({"a": 2, "b": 1})
    with using(engine):
        yield engine
    assert all(host.lost for host in engine.hosts)


@pytest.mark.slow
def test_a_run_on_two_hosts_says_who_plays_where_and_what_they_deliver(cluster, capsys):
    assert run(f"{COMMAND} --record".split()) == 0
    out = capsys.readouterr().out
    assert "3 x 2 environments in processes on 2 hosts (a: 2 actors, b: 1)" in out
    assert "host a: " in out
    assert "versions between acting and arriving (largest " in out
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "report"][-1]
    assert last["hosts"]["a"]["actors"] == 2
    assert sum(host["steps"] for host in last["hosts"].values()) >= last["steps"] >= 1500
    assert run(["resume", "run", "--steps", "2500"]) == 0
    assert "on 2 hosts" in capsys.readouterr().out
    assert run(["resume", "run", "--steps", "3000", "--cluster", "none"]) == 0
    assert "hosts" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_recorded_run_on_two_hosts_is_replayed_bit_for_bit(cluster, capsys):
    assert run(f"{COMMAND} --record".split()) == 0
    assert run(["replay", "run"]) == 0
    assert "bit for bit" in capsys.readouterr().out


@pytest.mark.slow
def test_an_environment_that_raises_on_a_host_ends_the_run_with_the_host_named(cluster, capsys):
    Path("broken.py").write_text(
        "import gymnasium as gym\n\nclass Broken(gym.Wrapper):\n    played = 0\n\n    def step(self, action):\n"
        "        self.played += 1\n        if self.played > 40:\n            raise ValueError('the track is gone')\n"
        "        return super().step(action)\n\ndef make():\n    return Broken(gym.make('CartPole-v1'))\n"
    )
    assert run(COMMAND.replace("CartPole-v1", "broken.py:make").split()) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "host " in error
    assert "the track is gone" in error
    assert "broken.py" in Path("run/error.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset a3c --cluster auto", "with topology hogwild actors cannot play on other hosts; topology async"),
        ("--topology serial --cluster auto", "with topology serial actors cannot play on other hosts"),
        ("--inference.kind batched --cluster auto", "with inference.kind = 'batched' actors cannot"),
        ("--cluster somewhere", "expected auto, none or an address HOST:PORT"),
        ("--cluster ray://10.0.0.1:10001", "a client cannot train"),
        ("--actor.placement thread --cluster auto", "on a cluster actors are processes"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_in_a_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(f"train CartPole-v1 --run-dir run {words}".split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert not Path("run").exists()


def test_a_measurement_of_this_machine_takes_no_cluster(capsys):
    words = ["bench", "CartPole-v1", "--preset", "appo", "--time", "1s", "--actor.cluster", "auto"]
    assert run(words) == 2
    assert "bench measures this machine; train takes a cluster" in capsys.readouterr().err


def test_without_ray_the_pip_command_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert run(["train", "CartPole-v1", "--cluster", "auto", "--run-dir", "run"]) == 2
    assert "ray is not installed: pip install 'ray" in capsys.readouterr().err


def test_a_factory_that_cannot_travel_is_refused_in_a_line(cluster):
    import troupe

    lock = threading.Lock()

    def make():
        import gymnasium as gym

        assert lock
        return gym.make("CartPole-v1")

    with pytest.raises(UsageError, match="cannot be sent to actor processes"):
        troupe.train(make, cluster="auto", steps=100)


@pytest.mark.slow
def test_local_runs_do_not_import_ray():
    import subprocess
    import sys

    code = "import sys, troupe.cli, troupe.trainer, troupe.runtime.assembly; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
