"""Evaluations that sample: in this bandit the best policy is a mixture, and whoever plays greedily gets nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

import troupe

ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Both(gym.Env):
    '''Of 40 choices, those pay that were made as often as the other one: 20 at most, nothing if all are the same.'''

    observation_space, action_space = gym.spaces.Box(0, 1, (1,), np.float32), gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.made = [0, 0]
        return np.ones(1, np.float32), {}

    def step(self, action):
        before = min(self.made)
        self.made[action] += 1
        return np.ones(1, np.float32), float(min(self.made) - before), False, sum(self.made) == 40, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)
"""
SEEN = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> troupe.Run:
    folder = tmp_path_factory.mktemp("both")
    (folder / "both.py").write_text(ENVIRONMENT)
    settings = {
        "topology": "serial", "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8,
        "learner.rollouts": 1, "learner.learning_rate": 1e-30, "network.hidden": (8,), "evaluation.greedy": False,
        "evaluation.every_steps": 16, "evaluation.episodes": 2, "evaluation.final_episodes": 3, "stop.steps": 32,
        "stop.target": "none",
    }  # fmt: skip
    return troupe.train(f"{folder}/both.py:Both", settings=settings, run_dir=folder / "run", tuned=False)


def test_the_judge_samples(run):
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    judged = [row for row in rows if row["kind"] == "evaluation"]
    assert {row["purpose"] for row in judged} == {"progress", "final"}
    assert all(row["min"] > 5 for row in judged)
    assert not run.scores.greedy
    assert "3 stochastic episodes" in repr(run)


@pytest.mark.parametrize("whose", ["run", "load", "session of load", "session of run"])
def test_the_agent_samples_unless_asked_for_greedy_actions(run, whose):
    agent = run.agent if whose.endswith("run") else troupe.load(run.path)
    agent = agent.session() if whose.startswith("session") else agent
    assert {agent.act(SEEN) for _ in range(40)} == {0, 1}
    assert set(agent.act(np.ones((40, 1), np.float32)).tolist()) == {0, 1}
    assert len({agent.act(SEEN, greedy=True) for _ in range(40)}) == 1


def test_an_evaluation_of_the_run_samples_unless_asked_for_greedy_actions(run, run_command):
    assert troupe.evaluate(run.path, episodes=2).returns.min() > 5
    assert troupe.evaluate(run.path, episodes=2, greedy=True).returns.max() == 0
    for words, pays in (("", True), ("--stochastic", True), ("--greedy", False)):
        status, out, _ = run_command(f"evaluate {run.path} --episodes 2 --json {words}")
        assert status == 0
        assert (json.loads(out)["min_return"] > 5) is pays


def test_who_watches_sees_it_sample(run, run_command, tmp_path):
    status, out, _ = run_command(f"watch {run.path} --episodes 1 --video {tmp_path / 'both.gif'}")
    assert status == 0
    assert float(out.splitlines()[-1].removeprefix("1 episode, return ")) > 5


def test_an_exported_file_has_the_greedy_action_and_the_probabilities_to_sample_by(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file: Path = run.agent.export(tmp_path / "both.onnx").file
    action, probabilities = onnxruntime.InferenceSession(file).run(["action", "probabilities"], {"obs": SEEN[None]})
    assert probabilities[0] == pytest.approx(run.agent.distribution(SEEN)[0], abs=1e-5)
    assert probabilities.min() > 0.3
    assert action.tolist() == [int(probabilities.argmax())]
