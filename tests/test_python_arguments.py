"""Arguments of the Python API whose type or value is wrong: one line of the project's error, before anything starts."""

import re
from typing import Any

import numpy as np
import pytest

import troupe
from troupe import UsageError


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        ("train", {"env": 3}, "env = 3: expected a name or a callable"),
        ("train", {"preset": None}, "preset = None: expected the name of a preset"),
        ("train", {"display": "loud"}, "display = 'loud': expected one of auto, plain, quiet, silent"),
        ("train", {"display": "silence"}, "display = 'silence': expected one of auto, plain, quiet, silent; did you"),
        ("train", {"learners": "two"}, "learners = 'two': expected a whole number of at least 1"),
        ("train", {"learners": 0}, "learners = 0: expected a whole number of at least 1"),
        ("train", {"schedules": ["half"]}, "schedules = ['half']: expected a dict"),
        ("train", {"settings": ["stop.steps"]}, "settings = ['stop.steps']: expected a dict"),
        ("train", {"settings": {3: 4}}, "settings = {3: 4}: expected a dict, by names"),
        ("train", {"schedules": {"clip": 3}}, "schedules.clip = 3: expected one of none, path/to/file.py:NAME or"),
        ("train", {"env_kwargs": "g"}, "env_kwargs = 'g': expected a dict"),
        ("train", {"run_dir": 3}, "run_dir = 3: expected a path"),
        ("train", {"network": 64}, "network = 64: expected a name or a callable"),
        ("resume", {"run": None}, "run = None: expected a path"),
        ("resume", {"run": "one", "display": 1}, "display = 1: expected one of auto"),
        ("resume", {"run": "one", "schedules": 0.5}, "schedules = 0.5: expected a dict"),
        ("load", {"run": ["one", "two"]}, "run = ['one', 'two']: expected a path"),
        ("evaluate", {"run": "one", "episodes": 0}, "episodes = 0: expected a whole number of at least 1"),
        ("evaluate", {"run": "one", "seed": -1}, "seed = -1: expected a whole number of at least 0"),
        ("watch", {"run": "one", "episodes": 0}, "episodes = 0: expected a whole number of at least 1"),
        ("watch", {"run": "one", "episodes": 2.5}, "episodes = 2.5: expected a whole number of at least 1"),
        ("watch", {"run": "one", "video": True}, "video = True: expected a path"),
        ("make_vector", {"env": "CartPole-v1", "num_envs": "2"}, "num_envs = '2': expected a whole number of at least"),
        ("make_vector", {"env": "CartPole-v1", "num_envs": True}, "num_envs = True: expected a whole number of at"),
        ("make_vector", {"env": "CartPole-v1", "settings": 3}, "settings = 3: expected a dict"),
        ("make_vector", {"env": ["CartPole-v1"]}, "env = ['CartPole-v1']: expected a name or a callable"),
        ("load", {"run": 99 * ["one"]}, "'one', ...: expected a path"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path, monkeypatch, function: str, given: dict[str, Any], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"env": "CartPole-v1"} | given if function == "train" else given
    with pytest.raises(UsageError, match=re.escape(expected)) as caught:
        getattr(troupe, function)(**given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_runs_in_a_list_are_refused_with_what_to_write() -> None:
    with pytest.raises(UsageError, match=re.escape("runs = ['one', 'two']: expected a path; several runs are")):
        troupe.read_metrics(["one", "two"])  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    vector = troupe.make_vector("CartPole-v1", np.int64(2))  # type: ignore[arg-type]
    assert vector.num_envs == 2
    vector.close()


def test_an_argument_that_does_not_exist_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="episode"):
        troupe.watch("one", episode=2)  # type: ignore[call-arg]
