"""Which machines of a cluster take part, and how actors are spread over them; what each has delivered."""

from types import SimpleNamespace

import pytest

from troupe.runtime.cluster import machines as machines_module
from troupe.runtime.cluster.engine import Node
from troupe.runtime.cluster.figures import Figures
from troupe.runtime.cluster.machines import Machines
from troupe.runtime.progress import Lag


def node(name: str, free: int = 2) -> Node:
    return Node(f"{name}-id", name, 8, free, 1e9)


class Cluster:
    def __init__(self, *nodes: Node):
        self.there = list(nodes)

    def nodes(self) -> list[Node]:
        return self.there


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(machines_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_machines_that_were_there_at_first_have_not_joined():
    cluster = Cluster(node("a"), node("b"))
    machines = Machines(cluster)
    assert machines.look() == []
    cluster.there.append(node("c"))
    assert machines.look() == [node("c")]
    assert machines.look() == []


def test_a_machine_that_was_refused_takes_no_part():
    cluster = Cluster(node("a"), node("b"))
    machines = Machines(cluster)
    machines.look()
    machines.refused["b-id"] = "it has another version"
    machines.look()
    assert machines.spread(3, {}) == [(node("a"), 3)]


def test_the_cores_that_count_are_those_that_were_free_when_a_machine_was_first_seen():
    """Later our own actors have them."""
    cluster = Cluster(node("a", 3), node("b", 1))
    machines = Machines(cluster)
    machines.look()
    cluster.there = [node("a", 0), node("b", 0)]
    machines.look()
    assert machines.spread(4, {}) == [(node("a", 0), 3), (node("b", 0), 1)]
    assert machines.spread(1, {"a-id": 3}) == [(node("b", 0), 1)]


def test_without_a_machine_nobody_gets_an_actor():
    machines = Machines(Cluster())
    assert machines.look() == []
    assert machines.spread(3, {}) == []


def test_a_machine_that_lost_a_host_is_avoided_for_a_minute_unless_there_is_no_other(now):
    cluster = Cluster(node("a"), node("b"))
    machines = Machines(cluster)
    machines.look()
    machines.avoid(node("a"))
    assert machines.spread(2, {}) == [(node("b"), 2)]
    now[0] += 60.0
    assert machines.spread(2, {}) == [(node("b"), 2)]
    now[0] += 0.5
    assert machines.spread(2, {}) == [(node("a"), 1), (node("b"), 1)]
    machines.avoid(node("a"))
    cluster.there = [node("a")]
    machines.look()
    assert machines.spread(2, {}) == [(node("a"), 2)]


def test_each_host_has_its_steps_in_all_and_its_lag_since_the_last_row():
    figures = Figures()
    figures.add("b", Lag(10, 30, 4))
    figures.add("a", Lag(4, 6, 2))
    figures.add("b", Lag(10, 10, 9))
    assert figures.take_row({"b": 3, "c": 1}) == {
        "a": {"actors": 0, "steps": 4, "lag_mean": 1.5, "lag_max": 2},
        "b": {"actors": 3, "steps": 20, "lag_mean": 2.0, "lag_max": 9},
        "c": {"actors": 1, "steps": 0, "lag_mean": 0.0, "lag_max": 0},
    }
    figures.add("a", Lag(3, 1, 1))
    row = figures.take_row({})
    assert list(row) == ["a", "b"]
    assert row["a"] == {"actors": 0, "steps": 7, "lag_mean": 0.3333, "lag_max": 1}
    assert row["b"] == {"actors": 0, "steps": 20, "lag_mean": 0.0, "lag_max": 0}


def test_the_end_of_a_run_has_a_line_for_each_host():
    figures = Figures()
    assert figures.lines() == []
    figures.add("b", Lag(3000, 6000, 7))
    figures.add("a", Lag(1000, 500, 2))
    assert figures.lines() == [
        "host a: 1,000 steps (25%), 0.5 weight versions between acting and arriving (largest 2)",
        "host b: 3,000 steps (75%), 2.0 weight versions between acting and arriving (largest 7)",
    ]
    nothing = Figures()
    nothing.add("a", Lag())
    assert nothing.lines() == ["host a: 0 steps (0%), 0.0 weight versions between acting and arriving (largest 0)"]
