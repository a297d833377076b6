"""Runs that earlier versions saved: each was made by `troupe.train` of its version, and is kept in data/."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch

import troupe
from troupe import cli
from troupe.runs.report.labels import read_settings
from troupe.runs.store import checkpoint

DATA = Path(__file__).parent / "data"


class Pressure(gym.Env):
    """The one that data/old_float64 was trained on: around 5,000, and which of three numbers it is is the action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def _show(self):
        self.cue = int(self.np_random.integers(3))
        return np.array([5000.0 + 5.0 * (self.cue - 1)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._show(), {}

    def step(self, action):
        reward, self.t = float(action == self.cue), self.t + 1
        return self._show(), reward, False, self.t == 20, {}


@pytest.mark.parametrize(("run", "observation", "probabilities", "value"), [
    ("old_cartpole", [0.1, 0.2, -0.03, 0.4], [0.4860645, 0.51393545], -0.0631478801369667),
    ("old_float64", [5010.0], [0.24862605, 0.31932414, 0.43204978], -0.015178941190242767),
])  # fmt: skip
def test_its_agent_has_the_same_probabilities_and_value_as_then(run, observation, probabilities, value):
    agent = troupe.load(DATA / run)
    found, valued = agent.distribution(np.array(observation, agent.observation_space.dtype))
    np.testing.assert_allclose(found, probabilities, rtol=1e-5)
    assert valued == pytest.approx(value, rel=1e-4)


def test_a_setting_is_read_under_its_former_name(tmp_path):
    run = shutil.copytree(DATA / "old_cartpole", tmp_path / "run")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('place = "auto"', 'place = "process"'))
    assert checkpoint.read_config(run).actor.placement == "process"
    assert read_settings(run)["actor.placement"] == "process"


def test_what_was_measured_is_read_from_its_summary_and_kept(tmp_path):
    run = shutil.copytree(DATA / "old_cartpole", tmp_path / "run")
    (run / "summary.json").write_text('{"measured": ["learner.threads"]}')
    assert read_settings(run)["learner.threads"] == "auto"
    assert cli.run(["resume", str(run), "--steps", "4000", "--quiet"]) == 0
    assert json.loads((run / "summary.json").read_text())["measured"] == ["learner.threads"]
    (run / "summary.json").unlink()
    assert read_settings(run)["learner.threads"] == "auto"


def test_it_is_evaluated(capsys):
    assert cli.run(["evaluate", str(DATA / "old_cartpole"), "--episodes", "4"]) == 0
    assert "4 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(("run", "env"), [("old_cartpole", None), ("old_float64", Pressure)])
def test_it_is_resumed(run, env, tmp_path):
    """Its statistics of observations continue: 2,440 of them, and then as many again."""
    shutil.copytree(DATA / run, tmp_path / run)
    resumed = troupe.resume(tmp_path / run, steps=4000, env=env)
    assert resumed.steps >= 4000
    if env is not None:
        folder = max((tmp_path / run / "checkpoints").iterdir())
        model = safetensors.torch.load((folder / "model.safetensors").read_bytes())
        mean, scale, rest = (float(model[f"body.encoder.normalizer.{name}"]) for name in ("mean", "scale", "mean_rest"))
        assert mean + rest == pytest.approx(5000, abs=0.5)
        assert 1 / scale == pytest.approx((50 / 3) ** 0.5, rel=0.05)
