"""Fixtures that hand out what stands in `helpers.parts`."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import parts
from helpers.parts import Carried, Elsewhere
from troupe.runtime.execution.process_launch import warm_up


@pytest.fixture
def never_preempted(monkeypatch: pytest.MonkeyPatch) -> None:
    """All time counts for its stage. On a busy machine, all time of a short stage may count as preempted instead."""
    monkeypatch.setattr("troupe.runtime.progress.preempted_seconds", lambda: 0.0)


@pytest.fixture(scope="session")
def stage() -> Callable[..., Any]:
    return parts.make_stage


@pytest.fixture(scope="session")
def learner_setup() -> Callable[..., Any]:
    return parts.make_learner_setup


@pytest.fixture(scope="session")
def blank() -> Callable[..., Any]:
    return parts.blank_rollout


@pytest.fixture(scope="session")
def assembled() -> Callable[..., Any]:
    return parts.assemble_run


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    return parts.run_batches


@pytest.fixture(scope="session")
def watched() -> Callable[..., Any]:
    return parts.watch_deliveries


@pytest.fixture(scope="session")
def join() -> Callable[..., Any]:
    return parts.join


@pytest.fixture(scope="session")
def matches_script() -> Callable[..., Any]:
    return parts.matches_script


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Elsewhere]]:
    """Calls a function in a process of its own, started as those of actors are."""
    started = []

    def call(function: Callable[..., Any], *arguments: Any) -> Elsewhere:
        def answer(connection: Any, *arguments: Any) -> None:
            connection.send(function(*arguments))

        warm_up()
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=Carried(answer), args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        started.append(Elsewhere(process, ours))
        return started[-1]

    yield call
    for each in started:
        each.kill()
