"""Settings of the whole suite, and fixtures that hand out what stands in `helpers`."""

import os
import signal
import sys
from collections.abc import Sequence

import cloudpickle
import pytest
import torch
from hypothesis import HealthCheck, settings

from helpers.environments import SCRIPT, Counting, Echo, Ending, Pays
from troupe import cli
from troupe.conclusion import draw_picture
from troupe.signals import ENDING

torch.set_num_threads(1)

# No time limits: a busy machine is no counterexample. CI asks for the thorough profile after the default run.
settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=200)
settings.load_profile("quick")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What a test defines travels to processes with its code: they could not import it, or only slowly."""
    names = {__name__} | {item.module.__name__ for item in session.items if isinstance(item, pytest.Function)}
    for name in names & set(sys.modules):
        cloudpickle.register_pickle_by_value(sys.modules[name])


@pytest.fixture(scope="session", autouse=True)
def short_runs_are_quick():
    """Without what takes most of the time of a short run: its picture (`pictures` brings it back), and the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("troupe.session.draw_picture", lambda run: None)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def what_was_trained_with_is_remembered_elsewhere(tmp_path_factory):
    """And not among what the user has trained with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their learning curve when they end."""
    monkeypatch.setattr("troupe.session.draw_picture", draw_picture)


@pytest.fixture(autouse=True)
def no_signal_is_ignored():
    """As in a terminal: under nohup SIGHUP is ignored, in the background of a shell SIGINT, and children inherit it."""
    ignored = [number for number in ENDING if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def run_command(capsys):
    """Runs a command in this process; gives status, standard output, standard error."""

    def run(words: str) -> tuple[int, str, str]:
        status = cli.run(words.split())
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def counting() -> type[Counting]:
    return Counting


@pytest.fixture(scope="session")
def echo() -> type[Echo]:
    return Echo


@pytest.fixture(scope="session")
def pays() -> type[Pays]:
    return Pays


@pytest.fixture(scope="session")
def script() -> Sequence[Ending]:
    return SCRIPT
