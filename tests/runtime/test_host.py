"""A host of a cluster, alone, with actors that are threads here: what it answers is what they played."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest

from helpers import PATIENCE_SECONDS
from helpers.rollouts import check
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime.assembly import make_plans
from troupe.runtime.cluster import host as host_module
from troupe.runtime.cluster.host import Beat, Host, Share
from troupe.runtime.cluster.parcel import Failure, Parcel
from troupe.runtime.data.rollout import FIELDS, Rollout, RolloutSpec
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.runner import ThreadRunner
from troupe.runtime.progress import Counts, Delta, Episode, Lag

SETTINGS = {
    "actor.count": 3, "actor.environments": 2, "actor.rollout_steps": 4, "network.hidden": (4,), "env.backend": "sync",
    "exploration.epsilon": 0.5,
}  # fmt: skip
NUMBERS = [0, 2]  # the actors of this host: actor 1 is elsewhere


class InAThread(ThreadRunner):
    """A runner that says as a process does when it is ready, and waits for the others."""

    def __init__(self, plan: Any, context: Any):
        super().__init__(plan, context)
        self.context = context

    def run(self, deliver: Any) -> None:
        self._generation = self.actor.generation  # type: ignore[union-attr]
        self.context.ready.add(self.number)
        self.context.ready.wait()
        super().run(deliver)


class Bench:
    """A host that is open, and the weights that the run has."""

    def __init__(self, env: Any, **share: Any):
        config, source = resolve("x", settings=SETTINGS, tuned=False), find(env)
        network = build(source.observation_space, source.action_space, config.network)
        self.vector = FlatWeights(network).vector.clone()
        seeds, self.spec = np.random.SeedSequence(1), RolloutSpec(source.packing.space, 4, 2, source.actions)
        plans = make_plans(config, source, seeds, seeds, 3, lambda _: (ByValue(network), None))  # type: ignore[arg-type, return-value]
        given = {"generation": 5, "most_restarts": 1} | share
        self.share = Share([plans[number] for number in NUMBERS], self.spec, len(self.vector), **given)
        self.host = Host()

    def open(self) -> Failure | None:
        return self.host.open(cloudpickle.dumps(self.share))

    def collect(self, version: int, weights: bool = False, played: int = 0) -> Parcel:
        """The next parcel that has rollouts."""
        given = (self.vector.numpy(),) if weights else ()
        for _ in range(100):
            parcel = self.host.collect(Counts(played=played), version, *given)
            if parcel.origins or parcel.failure:
                return parcel
        raise AssertionError("nothing came")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    started: list[Bench] = []
    monkeypatch.setattr(host_module, "process_runners", lambda plans, shared: [InAThread(p, shared) for p in plans])
    monkeypatch.setattr(host_module, "warm_up", lambda: None)
    monkeypatch.setattr(host_module, "_IDLE_SECONDS", 0.05)

    def make(env: Any, **share: Any) -> Bench:
        started.append(Bench(env, **share))
        return started[-1]

    yield make
    for bench in started:
        bench.host.close()


def rollouts_of(parcel: Parcel) -> list[Rollout]:
    made = []
    for number, (actor, generation, pulls) in enumerate(parcel.origins):
        arrays: dict[str, Any] = {name: parcel.rollouts[name][number] for name in FIELDS}
        made.append(Rollout(**arrays, actor=actor, generation=generation, pulls=pulls))
        check(made[-1])
    return made


def test_its_actors_play_with_the_weights_that_came_and_report_what_they_counted(
    start, counting, matches_script, script
):
    bench = start(counting)
    assert bench.open() is None
    by_actor: dict[int, list[Rollout]] = {number: [] for number in NUMBERS}
    parcel = bench.collect(3, weights=True, played=100)
    while min(map(len, by_actor.values())) < 4:
        assert parcel.failure is None
        assert parcel.rollouts.dtype.names == FIELDS
        for rollout in rollouts_of(parcel):
            by_actor[rollout.actor].append(rollout)
            assert rollout.generation == 5
            assert [version for version, _ in rollout.pulls] == [3]
            assert (rollout.policy_version == 3).all()
        parcel = bench.collect(3, played=100)
    for rollouts in by_actor.values():
        matches_script(rollouts, script)


def test_nobody_plays_before_the_first_weights(start, counting):
    bench = start(counting)
    assert bench.host.beat(False) == Beat({-1})  # it is not open yet
    bench.open()
    ready = bench.host.beat(False)
    while ready.awaited:
        ready = bench.host.beat(False)
    assert ready.failure is None
    assert bench.host._queue.depth == 0
    assert bench.collect(0, weights=True).origins


def test_newer_weights_are_played_with_and_those_it_has_need_not_come_again(start, counting):
    bench = start(counting)
    bench.open()
    bench.collect(1, weights=True)
    assert bench.host._store.version == 1
    bench.collect(1)
    assert bench.host._store.version == 1
    bench.vector.fill_(0.0)
    seen = bench.collect(9, weights=True)
    while 9 not in seen.rollouts["policy_version"]:
        seen = bench.collect(9)
    for rollout in rollouts_of(seen):
        if (rollout.policy_version == 9).all():  # a policy of zeros is uniform
            np.testing.assert_allclose(rollout.behaviour_log_prob, np.log(1 / 3), rtol=1e-5)


def test_a_call_without_a_rollout_returns_in_time_and_empty(start, counting):
    bench = start(counting)
    bench.open()
    bench.host.beat(True)
    assert bench.host._gate.is_paused
    parcel = bench.host.collect(Counts(), 0, bench.vector.numpy())
    while parcel.origins:
        parcel = bench.host.collect(Counts(), 0)
    assert (len(parcel.rollouts), parcel.origins, parcel.failure) == (0, [], None)


def test_it_pauses_and_goes_on_as_the_heartbeat_says(start, counting):
    bench = start(counting)
    bench.open()
    for paused in (True, True, False, False, True, False):
        assert bench.host.beat(paused).failure is None
        assert bench.host._gate.is_paused == paused
    assert bench.collect(0, weights=True).origins


def test_what_an_environment_raises_is_the_answer_to_every_call(start, counting):
    def fail(episode: int, step: int) -> None:
        if episode == 2:
            raise ValueError("out of\nfuel")

    bench = start(lambda: counting(before_step=fail))
    bench.open()
    parcel = bench.collect(0, weights=True)
    while parcel.failure is None:
        parcel = bench.collect(0)
    for failure in (parcel.failure, bench.host.beat(False).failure):
        assert failure is not None
        assert failure.error.startswith(("actor-0: ", "actor-2: "))
        assert "step raised ValueError: out of fuel" in failure.error
        assert "in fail" in failure.trace
        assert failure.module == ""


def test_a_host_that_cannot_be_opened_answers_with_the_reason():
    failure = Host().open(b"nothing that could be unpacked")
    assert failure is not None
    assert failure.error
    assert "Traceback" in failure.trace


def test_an_environment_that_cannot_be_made_there_is_the_answer(start, counting):
    class Own(counting):
        def __init__(self) -> None:
            import no_such_package_of_an_environment  # noqa: F401

            super().__init__()

    bench = start(counting)
    plans = bench.share.plans
    bench.share = Share(
        [replace(plan, source=ByValue(replace(plan.source.value, make=lambda **_: Own()))) for plan in plans],
        bench.spec, len(bench.vector), 0, 1,
    )  # fmt: skip
    failure = bench.open()
    assert failure is not None
    assert failure.module == "no_such_package_of_an_environment"


def test_a_missing_module_is_named_and_other_errors_name_none():
    missing = Failure.of(ModuleNotFoundError("No module named 'ale_py'", name="ale_py"))
    assert (missing.error, missing.module) == ("ModuleNotFoundError: No module named 'ale_py'", "ale_py")
    other = Failure.of(ValueError("out of\nfuel"), "actor-3")
    assert (other.error, other.module) == ("actor-3: ValueError: out of fuel", "")
    assert "ValueError" in other.trace


def test_the_time_of_all_actors_since_the_last_call_is_reported_once(start, counting):
    bench = start(counting)
    bench.open()
    bench.host._runners = [type("R", (), {"number": n, "watch": type("W", (), {"seconds": {}})()})() for n in (0, 2)]
    first, second = (runner.watch for runner in bench.host._runners)
    first.seconds, second.seconds = {"env": 1.0, "act": 2.0}, {"env": 10.0}
    assert bench.host._spent() == {"env": 11.0, "act": 2.0}
    first.seconds, second.seconds = {"env": 1.5, "act": 2.0}, {"env": 14.0, "wait": 1.0}
    assert bench.host._spent() == {"env": 4.5, "act": 0.0, "wait": 1.0}


class Waiting:
    """A queue that has so many rollouts at each look."""

    def __init__(self, *numbers: int):
        self.numbers, self.asked = list(numbers), list[tuple[float, int]]()

    def get_within(self, seconds: float, most: int) -> list[int]:
        self.asked.append((seconds, most))
        return list(range(self.numbers.pop(0) if self.numbers else 0))


def test_small_parcels_wait_a_moment_for_more_and_full_or_empty_ones_do_not():
    host = Host()
    host._most, host._bundle = 6, 4
    for numbers, total, looks in (((4, 1), 4, 1), ((0, 3), 0, 1), ((1, 2, 1), 4, 3), ((6,), 6, 1)):
        host._queue = Waiting(*numbers)  # type: ignore[assignment]
        assert len(host._gather()) == total
        assert len(host._queue.asked) == looks  # type: ignore[attr-defined]
        seconds, most = host._queue.asked[0]  # type: ignore[attr-defined]
        assert (seconds, most) == (host_module._IDLE_SECONDS, 6)
        assert all(later < 0.01 for later, _ in host._queue.asked[1:])  # type: ignore[attr-defined]
    host._queue = Waiting(1, 1)  # type: ignore[assignment]
    host._gather()
    assert [most for _, most in host._queue.asked[:3]] == [6, 5, 4]  # type: ignore[attr-defined]


def test_a_closed_host_has_ended_its_actors(start, counting):
    bench = start(counting)
    bench.open()
    bench.collect(0, weights=True)
    bench.host.close()
    assert bench.host._gate.stopped
    assert bench.host._supervisor.stop(PATIENCE_SECONDS) == []
    parcel = bench.host.collect(Counts(), 0)
    assert (parcel.origins, parcel.failure) == ([], None)
    Host().close()  # one that was never open


def test_a_parcel_has_arrays_of_its_own(start, counting):
    """What is sent is a copy: the slots are filled again meanwhile."""
    bench = start(counting)
    bench.open()
    parcel = bench.collect(0, weights=True)
    kept = parcel.rollouts.copy()
    for _ in range(5):
        bench.collect(0)
    assert (kept == parcel.rollouts).all()


@pytest.mark.parametrize(
    ("size", "actors", "most", "fewest"),
    [
        (1_000, 8, 8, 8),  # no more than can come
        (20_000, 20, 10, 5),  # one for every two actors
        (20_000, 6, 5, 5),  # as many as travel in an answer, also if that is more than half of them
        (50_001, 9, 5, 1),
        (50_000, 9, 5, 2),
        (4_000_000, 20, 4, 1),  # 16 MB
        (20_000_000, 20, 1, 1),  # a single one that is larger
    ],
)
def test_parcels_of_worked_examples(monkeypatch, size, actors, most, fewest):
    monkeypatch.setattr(host_module, "record_type", lambda spec: SimpleNamespace(itemsize=size))
    assert host_module.parcel_sizes(None, actors) == (most, fewest)  # type: ignore[arg-type]


def test_what_actors_report_is_kept_for_the_run_and_counts_here_are_the_runs():
    progress = host_module.HostProgress()
    progress.counts = Counts(steps=100, played=200)
    delta = Delta(Counts(played=3), [Episode(1.0, 3)], Lag(), {"mask": "masks are ignored"})
    progress.add(delta)
    assert progress.restart("actor-1: it died") == 1
    assert (progress.counts.steps, progress.counts.played) == (100, 200)
    assert progress.take() == ([delta, Delta(Counts(restarts=1), [], Lag(), {})], ["actor-1: it died"])
