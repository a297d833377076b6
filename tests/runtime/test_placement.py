"""What a cluster has for a run: its cores, its store, and the connection that all runs inside share."""

import sys
from contextlib import contextmanager, nullcontext, suppress
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from helpers.cluster import ThreadEngine
from troupe.config import UsageError, resolve
from troupe.runtime import cluster
from troupe.runtime.cluster import placement
from troupe.runtime.cluster.engine import Node
from troupe.runtime.cluster.host import parcel_sizes
from troupe.runtime.cluster.parcel import record_type
from troupe.runtime.cluster.placement import connected, cores_of_hosts, runs_at_a_time, using
from troupe.runtime.data.rollout import RolloutSpec

CLUSTER = resolve("x", settings={"actor.cluster": "auto", "actor.count": 3}, tuned=False)
ALONE = resolve("x", settings={"actor.count": 3}, tuned=False)


def engine(*free: int, store: float = 1e9) -> SimpleNamespace:
    nodes = [Node(f"{number}", f"host-{number}", 8, each, store) for number, each in enumerate(free)]
    return SimpleNamespace(nodes=lambda: nodes)


def test_cores_are_those_that_are_free_or_all_where_none_is():
    with using(engine(2, 3)):
        assert cores_of_hosts(CLUSTER) == 5
        assert cores_of_hosts(ALONE) == 0
    with using(engine(0, 0)):
        assert cores_of_hosts(CLUSTER) == 16
    assert cores_of_hosts(CLUSTER) == 0


def test_a_connection_is_for_what_is_inside_and_the_one_before_is_back_afterwards():
    one, other = engine(1), engine(2)
    with using(one):
        with suppress(ZeroDivisionError), using(other):
            assert cores_of_hosts(CLUSTER) == 2
            raise ZeroDivisionError
        assert cores_of_hosts(CLUSTER) == 1
        with connected(CLUSTER):  # a run inside a series
            assert cores_of_hosts(CLUSTER) == 1
    with connected(ALONE):
        assert cores_of_hosts(CLUSTER) == 0


@pytest.mark.parametrize(
    ("free", "here", "address", "runs"),
    [((7, 6), 9, True, 4), ((7, 6), 2, True, 2), ((2,), 9, True, 1), ((7, 6), 9, False, 1), ((), 9, True, 1)],
)
def test_as_many_runs_at_a_time_as_hosts_have_cores_for_actors_and_this_machine_for_learners(
    monkeypatch, free, here, address, runs
):
    monkeypatch.setattr(placement, "cores", lambda: here)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", "here:1")
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with using(engine(*free)):
        assert runs_at_a_time(CLUSTER) == runs
        assert runs_at_a_time(ALONE) == 1


def test_rollouts_in_transit_have_three_tenths_of_the_smallest_store_at_most():
    spec = RolloutSpec(gym.spaces.Box(-1, 1, (100,), np.float32), 64, 16)
    most, _ = parcel_sizes(spec, 4)
    needed = 2 * 2 * most * record_type(spec).itemsize  # of two hosts, each with two calls in flight
    large, small = Node("a", "a", 1, 1, 1e12), Node("b", "b", 1, 1, needed / 0.3 + 1)
    placement._check_store(spec, 4, [large, small])
    with pytest.raises(UsageError) as error:
        placement._check_store(spec, 4, [large, Node("b", "b", 1, 1, needed / 0.3 - 100)])
    said = str(error.value)
    assert said.startswith(f"rollouts in transit from 2 hosts need up to {needed / 1e6:,.0f} MB")
    assert f"has {needed / 0.3 / 1e6:,.0f} MB, of which they may take 30%" in said
    assert "ray start --object-store-memory" in said


@pytest.mark.parametrize(("cores", "says"), [(1, True), (4, False)])
def test_more_actors_than_cores_are_no_secret(monkeypatch, cores, says):
    opened: list[object] = []

    class Runner:
        def __init__(self, *given: object):
            opened.append(given)

        def open(self) -> None:
            opened.append("open")

    monkeypatch.setattr(placement, "ClusterRunner", Runner)
    monkeypatch.setattr(placement, "check_sendable", opened.append)
    cluster, notices = ThreadEngine({"a": cores, "b": 1}), []
    buffers = SimpleNamespace(spec=RolloutSpec(gym.spaces.Box(-1, 1, (1,), np.float32), 1, 1))
    context = SimpleNamespace(buffers=buffers, progress=SimpleNamespace(notices=notices))
    plans = ["first", "second", "third"]
    with using(cluster):
        (runner,) = placement.on_hosts(plans, context)  # type: ignore[arg-type]
    assert isinstance(runner, Runner)
    assert opened == ["first", (plans, context, cluster), "open"]
    assert notices == (["3 actors share 2 cores on the hosts of the cluster"] if says else [])


@pytest.mark.parametrize("quiet", [True, False])
def test_a_run_is_connected_with_the_cluster_of_its_address_while_it_lasts(monkeypatch, capsys, quiet):
    events: list[object] = []

    @contextmanager
    def connect(address, rank, ranks):
        assert (rank, ranks) == (0, 1)
        events.append(address)
        yield engine(7)
        events.append("closed")

    monkeypatch.setitem(sys.modules, "troupe.runtime.cluster.ray_engine", SimpleNamespace(connected=connect))
    monkeypatch.setattr(cluster, "ray_engine", SimpleNamespace(connected=connect), raising=False)
    monkeypatch.setattr(placement, "need", events.append)
    monkeypatch.setattr(placement, "announced", lambda words: nullcontext(events.append("announced")))
    with connected(CLUSTER, quiet=quiet):
        assert cores_of_hosts(CLUSTER) == 7
        assert events == ["cluster", *([] if quiet else ["announced"]), "auto"]
    assert events[-1] == "closed"
    assert cores_of_hosts(CLUSTER) == 0
