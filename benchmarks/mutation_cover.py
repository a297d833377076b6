"""A pytest plugin of mutation.py: which test ran which line of troupe, and how long it took."""

import json
import os
import time
from pathlib import Path
from typing import Any

import coverage
import pytest

_FOLDER = Path(os.environ["MUTATION_COVER"])
_COVERAGE = coverage.Coverage(str(_FOLDER / f"coverage.{os.getpid()}"), source_pkgs=["troupe"], config_file=False)
_PID = os.getpid()
_COVERAGE.start()


class _State:
    failed, saved = False, 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any, nextitem: Any) -> Any:
    _COVERAGE.switch_context(item.nodeid)
    _State.failed, began, spent = False, time.perf_counter(), sum(os.times()[:4])
    result = yield
    seconds = round(time.perf_counter() - began, 3)
    row = [item.nodeid, not _State.failed, seconds, round(sum(os.times()[:4]) - spent, 3)]
    with (_FOLDER / f"tests.{_PID}").open("a") as file:
        file.write(json.dumps(row) + "\n")
    if time.monotonic() > _State.saved + 60:  # a run that is stopped is of use, too
        _COVERAGE.save()
        _State.saved = time.monotonic()
    return result


def pytest_runtest_logreport(report: Any) -> None:
    _State.failed = _State.failed or report.outcome != "passed"


def pytest_unconfigure() -> None:
    if os.getpid() == _PID:
        _COVERAGE.stop()
        _COVERAGE.save()
