"""One host as the run sees it: what is asked of it, and when its silence has lasted too long."""

from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from troupe.runtime.cluster.engine import HostFailed, HostLost, Node
from troupe.runtime.cluster.host import Beat
from troupe.runtime.cluster.parcel import Failure, Parcel
from troupe.runtime.cluster.remote import RemoteHost
from troupe.runtime.progress import Counts

NODE = Node("b-1", "b", 4, 4, 1e9)


class Engine:
    """Notes what it is asked; a ticket is the number of the call."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[int, Any] = {}
        self.killed: list[Any] = []

    def _ask(self, *what: Any) -> int:
        self.asked.append(what)
        return len(self.asked) - 1

    def probe(self, node: Node) -> int:
        return self._ask("probe", node)

    def start(self, node: Node, actors: int) -> str:
        self.started = node, actors
        return "handle"

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        return self._ask(handle, method, *arguments)

    def result(self, ticket: int) -> Any:
        return self.answers[ticket]

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)


def remote(plays: bool = True) -> tuple[RemoteHost, Engine]:
    engine = Engine()
    host = RemoteHost(engine, NODE, SimpleNamespace(plans=["one", "two", "three"]))  # type: ignore[arg-type]
    if plays:
        host.open()
        host.opened()
        engine.asked.clear()
    return host, engine


def test_a_host_is_asked_for_its_versions_then_opened_and_then_plays():
    host, engine = remote(plays=False)
    assert (engine.asked, host.stage, host.plays) == ([("probe", NODE)], 0, False)
    host.open()
    assert engine.started == (NODE, 3)
    handle, method, packed = engine.asked[1]
    assert (handle, method, host.stage, host.plays) == ("handle", "open", 1, False)
    assert cloudpickle.loads(packed) == host.share
    host.opened()
    assert host.plays
    assert list(host.plans) == ["one", "two", "three"]


def test_weights_travel_with_the_first_call_of_their_version_only():
    host, engine = remote()
    for version in (3, 3, 4):
        host.ask_for_parcel(Counts(steps=9), version, f"weights {version}")
    assert engine.asked == [
        ("handle", "collect", Counts(steps=9), 3, "weights 3"),
        ("handle", "collect", Counts(steps=9), 3),
        ("handle", "collect", Counts(steps=9), 4, "weights 4"),
    ]
    assert list(host.calls) == [0, 1, 2]


def test_two_calls_are_in_flight_at_most_with_those_that_wait_to_be_delivered():
    host, _ = remote()
    assert host.wants_call
    host.undelivered = 1
    assert host.wants_call
    host.ask_for_parcel(Counts(), 0, None)
    assert not host.wants_call


def test_parcels_are_taken_in_the_order_in_which_they_were_asked_for():
    host, engine = remote()
    for _ in range(2):
        host.ask_for_parcel(Counts(), 0, None)
    engine.answers = {0: Parcel(notices=["first"]), 1: Parcel(notices=["second"])}
    assert [host.take_parcel("Game-v1").notices for _ in range(2)] == [["first"], ["second"]]


def test_a_heartbeat_is_asked_for_when_it_is_due_or_the_run_pauses_and_never_twice_at_a_time():
    host, engine = remote()

    def asked(now: float, paused: bool) -> list[tuple[Any, ...]]:
        before = len(engine.asked)
        host.ask_for_beat(now, paused=paused)
        return engine.asked[before:]

    def answered() -> None:
        engine.answers[host.beat] = Beat({7})
        assert host.take_beat("Game-v1").awaited == {7}

    assert asked(100.0, False) == [("handle", "beat", False)]
    assert asked(200.0, True) == []
    answered()
    assert asked(100.4, False) == []
    assert asked(100.4, True) == [("handle", "beat", True)]
    assert host.paused
    answered()
    assert asked(100.8, True) == []
    assert asked(100.9, True) == [("handle", "beat", True)]
    answered()
    assert asked(100.9, False) == [("handle", "beat", False)]
    assert not host.paused


def loss_of(host: RemoteHost) -> str:
    """How it is lost within 1000 s, of which each is looked at."""
    for _ in range(1000):
        try:
            host.pass_time(1.0)
        except HostLost as loss:
            return str(loss)
    return ""


def test_silence_counts_while_an_answer_is_awaited():
    host, _ = remote()
    assert loss_of(host) == ""
    host.ask_for_beat(0.0, paused=False)
    assert loss_of(host) == "it has not answered for 7 s"  # 6 s are allowed


def test_a_host_that_starts_may_take_three_minutes_for_its_versions_and_as_long_to_open():
    host, _ = remote(plays=False)
    for _ in range(180):
        host.pass_time(1.0)
    host.open()
    assert loss_of(host) == "it has not answered for 181 s"


def test_a_host_that_lives_and_sends_no_rollouts_is_lost_after_a_minute():
    host, engine = remote()
    host.ask_for_parcel(Counts(), 0, None)
    for _ in range(60):
        host.pass_time(1.0)
    engine.answers[0] = Parcel()
    host.take_parcel("Game-v1")
    host.ask_for_parcel(Counts(), 0, None)
    assert loss_of(host) == "it has not answered for 61 s"


def test_each_heartbeat_and_each_stage_begins_the_count_anew():
    host, engine = remote(plays=False)
    host.pass_time(170.0)
    host.open()
    host.pass_time(170.0)
    host.opened()
    host.ask_for_beat(0.0, paused=False)
    host.pass_time(5.0)
    engine.answers[host.beat] = Beat()
    host.take_beat("Game-v1")
    host.ask_for_beat(1.0, paused=False)
    host.pass_time(5.0)


@pytest.mark.parametrize("what", ["beat", "parcel"])
def test_a_failure_is_raised_with_the_host_the_environment_and_the_traceback(what):
    host, engine = remote()
    failure = Failure("actor-3: ValueError: broken", "line 7")
    host.ask_for_beat(0.0, paused=False)
    host.ask_for_parcel(Counts(), 0, None)
    engine.answers = {0: Beat(failure=failure), 1: Parcel(failure=failure)}
    with pytest.raises(HostFailed, match=r"^host b, environment Game-v1: actor-3: ValueError: broken") as error:
        (host.take_beat if what == "beat" else host.take_parcel)("Game-v1")
    assert error.value.__notes__ == ["on the host:\nline 7"]
    assert not hasattr(HostFailed("without a traceback"), "__notes__")


def test_a_missing_package_is_named_with_what_to_do():
    host, _ = remote()
    said = host.describe(Failure("ModuleNotFoundError", "", "ale_py"), "ALE/Pong-v5")
    assert said.startswith("host b lacks the package ale_py: pip install ")
    assert said.endswith(" there (environment ALE/Pong-v5)")


def test_only_a_host_that_was_started_is_killed():
    host, engine = remote(plays=False)
    host.kill()
    assert engine.killed == []
    host.open()
    host.kill()
    assert engine.killed == ["handle"]
