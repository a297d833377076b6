"""Where actors run, and what becomes of a placement of one's own that does not do what it must."""

from types import SimpleNamespace
from typing import Any

import pytest

from troupe.config import UsageError, resolve
from troupe.environments import find
from troupe.runtime.execution import placements
from troupe.runtime.execution.placements import PLACEMENTS, Placement, placement_of, process_runners
from troupe.user_code.files import unwrapped

PLANS: Any = [SimpleNamespace(number=0), SimpleNamespace(number=1)]
CONTEXT: Any = SimpleNamespace()


def test_placements_have_words_for_what_they_make():
    def of(name: str) -> str:
        return Placement(name, lambda plans, context: []).plural

    assert [of("thread"), of("process"), of("cluster")] == ["threads", "processes", "processes"]
    assert of("own.py:here") == "placement own.py:here"


def own(made: Any, **more: Any) -> Any:
    def make(plans: Any, context: Any) -> Any:
        assert (plans, context) == (PLANS, CONTEXT)
        if isinstance(made, Exception):
            raise made
        return made

    return Placement("own.py:here", make, **more).runners(PLANS, CONTEXT)


def test_runners_of_ones_own_are_one_for_each_plan_in_order():
    runners = SimpleNamespace(number=0), SimpleNamespace(number=1)
    assert own(iter(runners)) == list(runners)
    for wrong in ([], runners[:1], runners[::-1], [*runners, runners[0]], [object(), object()]):
        with pytest.raises(UsageError) as error:
            own(wrong)
        assert f"actor.placement = 'own.py:here' made {len(wrong)} runners for 2 actors; it must" in str(error.value)
    assert own(runners[:1], elsewhere=True) == [runners[0]], "one runner for all actors of a cluster"


def test_what_a_placement_of_ones_own_raises_is_said_in_a_line():
    with pytest.raises(UsageError, match=r"^actor\.placement = 'own\.py:here' failed: OSError: no such device$"):
        own(OSError("no such\ndevice"))


def placed(env: Any, **settings: Any) -> Placement:
    return placement_of(resolve("x", settings=settings, tuned=False), find(env))


def test_processes_have_two_rollouts_each_and_threads_one(counting):
    def of(**settings: Any) -> tuple[str, bool, int, bool]:
        made = placed(counting, **settings)
        return made.name, made.in_processes, made.rollouts_per_actor, made.elsewhere

    assert of(**{"actor.placement": "process"}) == ("process", True, 2, False)
    assert of(**{"actor.placement": "thread"}) == ("thread", False, 1, False)
    assert of(**{"actor.cluster": "auto"}) == ("cluster", True, 0, True)


def test_a_placement_of_ones_own_says_whether_its_actors_are_in_processes(counting):
    def here(plans: Any, context: Any) -> Any:
        return []

    name = PLACEMENTS.named(here)
    plain = placed(counting, **{"actor.placement": name})
    assert (plain.name, plain.in_processes, plain.rollouts_per_actor) == (name, False, 1)
    assert unwrapped(plain.make_runners) is here
    here.in_processes, here.rollouts_per_actor = True, 5  # type: ignore[attr-defined]
    apart = placed(counting, **{"actor.placement": name})
    assert (apart.in_processes, apart.rollouts_per_actor) == (True, 5)


def test_a_worker_of_a_pool_has_actors_in_threads_and_refuses_processes(counting, monkeypatch):
    monkeypatch.setattr(placements, "may_have_processes", lambda: False)
    assert placed(counting).name == "thread"
    assert placed(counting, **{"actor.placement": "thread"}).name == "thread"
    with pytest.raises(
        UsageError, match=r"^actor\.placement = 'process': this is a daemonic process.*; set it to thread"
    ):
        placed(counting, **{"actor.placement": "process"})
    serial = {"topology": "serial", "actor.count": 1}
    assert (
        placed(counting, **serial).name == placed(counting, **serial, **{"actor.placement": "thread"}).name == "thread"
    )


def test_each_process_has_a_pulse_of_its_number(monkeypatch):
    made: list[Any] = []
    monkeypatch.setattr(placements, "check_sendable", made.append)
    monkeypatch.setattr(placements, "ActorProcess", lambda *given: given)
    monkeypatch.setattr(placements, "ProcessRunner", lambda *given: given)
    plans: Any = [SimpleNamespace(number=number) for number in (4, 2)]
    context: Any = SimpleNamespace(buffers="buffers", gate="gate")
    runners: Any = process_runners(plans, context)
    assert made == [plans[0]]
    pulses = runners[0][0][3]
    assert pulses["pulse"].tolist() == [0.0] * 5
    assert runners == [((plan, "buffers", "gate", pulses), context) for plan in plans]
