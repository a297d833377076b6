"""A run in which nothing could be learned says so, and what it suggests works."""

import re
import tomllib
from pathlib import Path

import pytest

import troupe
from troupe import cli

ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Same(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, self.steps / 4, np.float32), -1.0, False, self.steps == 4, {}


class Different(Same):
    def step(self, action):
        return super().step(action)[0], float(action), False, self.steps == 4, {}
"""
FEW = (
    "--steps 200 --quiet --evaluation.every_seconds 0 --evaluation.final_episodes 2 --env.delay_seconds 0 --actors 1 "
    "--actor.placement thread --evaluation.episodes 2"
)
LOUD = FEW.replace("--quiet", "")
SMALL = {"actor.count": 1, "actor.placement": "thread", "evaluation.final_episodes": 2}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("same.py").write_text(ENVIRONMENT)


def test_a_run_whose_episodes_are_all_alike_says_so_and_its_suggestion_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"train same.py:Same --preset article {FEW} --run-dir"
    assert cli.run([*command.split(), "first"]) == 0
    out = capsys.readouterr().out
    assert "no episode ever returned anything but -4, and so there was nothing to learn" in out
    (suggested,) = re.findall(r"\((--preset .*?)\)", out)
    assert cli.run([*command.split(), "second", *suggested.split()]) == 0
    assert tomllib.loads(Path("second/config.toml").read_text())["novelty"]["coefficient"] == 0.5
    out = capsys.readouterr().out
    assert "no episode ever returned anything but -4" in out
    assert "--preset" not in out  # what is suggested is not suggested again


def test_python_is_answered_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    troupe.train("same.py:Same", preset="a3c", steps=200, display="quiet", settings=SMALL)
    assert "preset='appo', settings={'novelty.coefficient': 0.5}" in capsys.readouterr().out


def test_nothing_is_reported_where_returns_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(f"train same.py:Different --preset article {FEW} --run-dir run".split()) == 0
    assert "no episode ever returned" not in capsys.readouterr().out


@pytest.mark.slow
def test_novelty_with_a_window_is_refused_with_what_works_and_a_large_batch_is_not_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"train same.py:Same --preset article {LOUD} --novelty.coefficient 0.5 --run-dir run"
    assert cli.run(command.split()) == 2
    assert "take a preset that learns from rollouts (--preset appo or impala)" in capsys.readouterr().err
    assert cli.run([*command.split(), "--preset", "appo"]) == 0
    assert cli.run([*command.split(), "--actor.window_steps", "0", "--run-dir", "slow"]) == 0
    assert re.search(r"at least [\d,]{5} steps a batch", capsys.readouterr().out)
