"""Gymnasium's warnings stay out of the output, wherever the environment plays; its errors do not."""

import sys
import threading
import warnings
from pathlib import Path

import gymnasium as gym
import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe import cli
from troupe.environments import find, quiet_gymnasium

ENVIRONMENT = """
import gymnasium as gym, numpy as np
class Warns(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
    steps = 0
    def reset(self, *, seed=None, options=None):
        gym.logger.warn("careless reset")
        gym.spaces.Box(np.array([0.1]), np.array([0.2]), dtype=np.float32)  # "precision lowered by casting"
        self.steps = 0
        return np.full(2, 3, np.float64), {}   # neither the type nor the bounds: the environment checker warns
    def step(self, action):
        gym.logger.warn("careless step")
        gym.logger.deprecation("old step")
        self.steps += 1
        return np.full(2, 3, np.float64), 1, self.steps == 10, False, {}
gym.register("Warns-v0", entry_point=Warns, max_episode_steps=9)
"""
TINY = "--steps 200 --actor.count 2 --actor.environments 2 --evaluation.final_episodes 2 --target none --quiet"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("warning_environment.py").write_text(ENVIRONMENT)
    yield
    gym.registry.pop("Warns-v0", None)
    sys.modules.pop("warning_environment", None)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_warnings_are_not_printed_while_training_and_evaluating(placement, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # pytest collects them otherwise
        warnings.showwarning = _print
        assert (
            cli.run(f"train warning_environment:Warns-v0 --run-dir run {TINY} --actor.placement {placement}".split())
            == 0
        )
        assert cli.run(["evaluate", "run", "--episodes", "2"]) == 0
    err = capfd.readouterr().err
    assert "careless" not in err
    assert "WARN" not in err
    assert "gymnasium" not in err


def _print(message, category, filename, *_) -> None:
    print(filename, message, file=sys.stderr)


def test_afterwards_the_users_program_hears_gymnasium_again():
    before = list(warnings.filters)
    troupe.train("CartPole-v1", steps=200, settings={"evaluation.final_episodes": 2, "stop.target": "none"})
    assert gym.logger.min_level == gym.logger.WARN
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        gym.logger.warn("heard")


def test_it_lasts_until_the_last_thread_that_asked_has_left():
    first, second, left = threading.Event(), threading.Event(), threading.Event()

    def stay() -> None:
        with quiet_gymnasium():
            first.set()
            second.wait(PATIENCE_SECONDS)
        left.set()

    thread = threading.Thread(target=stay)
    thread.start()
    first.wait(PATIENCE_SECONDS)
    with quiet_gymnasium():
        second.set()
        assert left.wait(PATIENCE_SECONDS)
        assert gym.logger.min_level == gym.logger.ERROR
    thread.join()
    assert gym.logger.min_level == gym.logger.WARN


def test_errors_still_raise(capsys):
    with quiet_gymnasium(), pytest.raises(gym.error.ResetNeeded):
        gym.make("CartPole-v1").step(0)
    find("CartPole-v1")
    assert capsys.readouterr().err == ""
