"""What a run does about a collapse, from a learning rate that is too large to the answer."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch

import troupe
from helpers import slow_unless
from troupe.runs.evaluate.collapse import CollapseWatch
from troupe.runs.evaluate.evaluation import Evaluator
from troupe.runs.evaluate.scores import Scores
from troupe.runs.report.plots import plot_runs
from troupe.runs.store import checkpoint
from troupe.runs.store.metrics import read_log
from troupe.runs.store.state import to_json
from troupe.runtime.topologies import Serial, Topology


class TwoArms(gym.Env):
    """The second arm pays 1, the first nothing; episodes of five steps, so returns from 0 to 5."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.ones(1, np.float32), float(action), self.left == 0, False, {}


class Ridge(torch.nn.Module):
    """One weight: the good arm is preferred between 0 and 1.56, and beyond never played again.

    It begins at 0, with either arm as likely. The first gradient leads upwards, and once the good arm is
    certain there is none any more. But Adam coasts: with a learning rate of 0.5 it goes on to 0.5, 0.84, 1.09,
    1.30, 1.48 and 1.64 (m and v by hand), over the edge, where the bad arm is just as certain and nothing
    leads back. The steep sides make of that a matter of arithmetic and not of luck.
    """

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    def forward(self, obs):
        good = 200 * self.w * (1.56 - self.w)
        return torch.stack([0 * good, good], -1).expand(len(obs), 2), 0 * self.w.expand(len(obs))


TOO_LARGE = {
    "topology": "serial", "actor.count": 1, "actor.environments": 8, "actor.rollout_steps": 10,
    "learner.rollouts": 1, "learner.epochs": 1, "learner.minibatches": 1, "learner.learning_rate": 0.5,
    "learner.average_decay": 0.0, "learner.anneal_steps": 0,
    "loss.kind": "a3c", "loss.gamma": 0.0, "loss.entropy_coefficient": 0.0,
    "evaluation.every_seconds": 0.0, "evaluation.every_steps": 1, "evaluation.episodes": 4,
    "evaluation.final_episodes": 4,
}  # fmt: skip


def climb(folder: Path, steps: int = 1300, **settings: Any) -> troupe.Run:
    settings = TOO_LARGE | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return troupe.train(
        TwoArms, network=Ridge(), seed=1, steps=steps, target="none", run_dir=folder, settings=settings, tuned=False
    )


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_log(run) if row["kind"] == kind and row.get("purpose") != "final"]


def returns(run: Path) -> list[float]:
    return [row["mean"] for row in rows(run, "evaluation")]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


# A run that collapses


def test_a_run_with_too_large_a_learning_rate_collapses_and_reports_it(tmp_path, caplog):
    run = climb(tmp_path / "run")
    seen = returns(run.path)
    assert seen[:5] == [5.0] * 5
    assert set(seen[5:]) == {0.0}
    assert [record.message for record in caplog.records] == [
        "collapse at step 536: evaluation return 0.00, best evaluation 5.00; confirmed by the last 3 evaluations and "
        "by the training return; the weights of step 336 are kept (--on-collapse rollback returns to them)"
    ]
    (row,) = rows(run.path, "collapse")
    assert (row["steps"], row["mean"], row["answer"], row["best_steps"]) == (536, 0.0, "report", 336)
    assert (summary(run.path)["collapses"], summary(run.path)["rollbacks"]) == (1, 0)
    assert run.scores.mean == 5.0  # the best weights, as ever


def test_with_rollback_it_goes_on_from_the_best_weights_and_keeps_its_level(tmp_path, caplog):
    run = climb(tmp_path / "run", collapse_answer="rollback")
    seen = returns(run.path)
    assert seen[:8] == [5.0] * 5 + [0.0] * 3
    assert set(seen[8:]) == {5.0}
    assert len(seen) > 15
    (message,) = (record.message for record in caplog.records)
    assert message.endswith("back to the weights of step 336, with 0.5 of the learning rate from here on")
    (row,) = rows(run.path, "collapse")
    assert (row["answer"], row["step_factor"]) == ("rollback", 0.5)
    assert (summary(run.path)["collapses"], summary(run.path)["rollbacks"]) == (1, 1)


def test_a_collapse_that_was_only_reported_is_answered_by_resuming_with_rollback(tmp_path):
    run = climb(tmp_path / "run", steps=700)
    assert returns(run.path)[-1] == 0.0
    settings = {"steps": 1300, "network": Ridge(), "env": TwoArms}
    assert troupe.resume(run.path, on_collapse="rollback", **settings).scores.mean == 5.0
    assert returns(run.path)[-1] == 5.0
    assert [row["answer"] for row in rows(run.path, "collapse")] == ["report", "rollback"]
    assert (summary(run.path)["collapses"], summary(run.path)["rollbacks"]) == (2, 1)


def test_were_the_moments_not_reset_they_would_lead_over_the_edge_again(tmp_path, monkeypatch):
    """Which is why they are; and after so many rollbacks as were allowed the collapse is only reported."""
    monkeypatch.setattr("troupe.runtime.learning.weights.load_state", lambda optimizer, saved: None)
    run = climb(tmp_path / "run", collapse_answer="rollback", collapse_rollbacks=1, collapse_step_factor=1.0)
    assert returns(run.path)[-1] == 0.0
    assert [row["answer"] for row in rows(run.path, "collapse")] == ["rollback", "report"]
    assert (summary(run.path)["collapses"], summary(run.path)["rollbacks"]) == (2, 1)


def test_a_run_that_holds_its_level_is_left_alone(tmp_path, caplog):
    run = climb(tmp_path / "run", learner_learning_rate=0.05, collapse_answer="rollback", collapse_evaluations=1)
    assert set(returns(run.path)) == {5.0}
    assert rows(run.path, "collapse") == caplog.records == []
    assert (summary(run.path)["collapses"], summary(run.path)["rollbacks"]) == (0, 0)


def test_evaluations_that_fall_while_the_training_return_rises_are_no_collapse(tmp_path, monkeypatch, caplog):
    means = [0.0, 5.0] + [0.0] * 6

    def scripted(self, network, episodes, seeds, *, greedy, **limits):
        mean = means.pop(0) if means else 5.0
        return Scores(np.full(episodes, mean), np.full(episodes, 5), greedy)

    monkeypatch.setattr(Evaluator, "run", scripted)
    run = climb(tmp_path / "run", steps=700, learner_learning_rate=0.05)
    assert returns(run.path)[:5] == [0.0, 5.0, 0.0, 0.0, 0.0]
    training = [row["recent_return"] for row in rows(run.path, "report") if row["recent_return"] is not None]
    assert training[-1] > 4.0
    assert rows(run.path, "collapse") == caplog.records == []


def test_the_picture_marks_the_collapse(tmp_path):
    run = climb(tmp_path / "run")
    plot_runs([run.path], tmp_path / "picture.svg")
    assert ">collapse<" in (tmp_path / "picture.svg").read_text()


# Stopped and resumed


def left(run: Path) -> dict[str, Any]:
    saved = checkpoint.load(run, pytest.fail)
    state = {name: value for name, value in json.loads(to_json(saved.state)).items() if "seconds" not in name}
    parts = {"model": saved.model, "best": saved.best, "optimizer": saved.optimizer}
    return state | {f"{part}/{name}": value.tolist() for part in parts for name, value in parts[part].items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> troupe.Run:
    return climb(tmp_path_factory.mktemp("whole") / "run", collapse_answer="rollback")


@pytest.mark.parametrize(
    "at", slow_unless([520, 536, 540], [480, 520, 536, 540, 620]), ids=lambda steps: f"at step {steps}"
)
def test_a_serial_run_stopped_around_its_rollback_ends_as_if_it_had_not_been(tmp_path, whole, at):
    folder = climb(tmp_path / "run", steps=at, collapse_answer="rollback").path
    troupe.resume(folder, steps=1300, env=TwoArms, network=Ridge())
    assert left(folder) == left(whole.path)
    assert left(folder)["rescue"]["rollbacks"] == 1
    assert left(folder)["rescue"]["step_factor"] == 0.5


def test_a_stop_right_after_a_rollback_does_not_undo_it(tmp_path, whole, monkeypatch):
    roll_back = Serial.roll_back

    def and_ctrl_c(parts: Serial, *arguments: Any) -> None:
        roll_back(parts, *arguments)
        os.kill(os.getpid(), signal.SIGINT)
        while not parts.gate.stopped:
            time.sleep(1e-3)

    monkeypatch.setattr(Serial, "roll_back", and_ctrl_c)
    with pytest.raises(KeyboardInterrupt) as stop:
        climb(tmp_path / "run", collapse_answer="rollback")
    folder = stop.value.run.path
    monkeypatch.undo()
    assert checkpoint.load(folder, pytest.fail).state.rescue.rollbacks == 1
    troupe.resume(folder, env=TwoArms, network=Ridge())
    assert left(folder) == left(whole.path)


def test_a_run_of_an_earlier_version_can_be_resumed(tmp_path, monkeypatch):
    from troupe.run_state import RunState

    taken = RunState._checkpoint

    def without(self):
        saved = taken(self)
        return dataclasses.replace(saved, state=msgspec.structs.replace(saved.state, rescue=None))

    monkeypatch.setattr(RunState, "_checkpoint", without)
    folder = climb(tmp_path / "run", steps=100).path
    monkeypatch.undo()
    assert troupe.resume(folder, steps=200, env=TwoArms, network=Ridge()).steps >= 200


# In every topology

APART = {"actor.placement": "process"}
TOGETHER = {"actor.placement": "thread"}
TOPOLOGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "serial": ("appo", {"topology": "serial", "actor.count": 1, "actor.environments": 8}),
    "async": ("appo", {"actor.environments": 8} | TOGETHER),
    "async, processes": ("impala", APART),
    "queue, several learners": ("article", {"learner.count": 3}),
    "queue, processes": ("a3c", {"topology": "queue", "learner.count": 2} | APART),
    "ga3c": ("ga3c", TOGETHER),
    "hogwild": ("a3c", TOGETHER),
    "hogwild, processes": ("a3c", APART),
}


@pytest.fixture
def staged(monkeypatch):
    """The third verdict is a collapse, whatever was played; what becomes of the master is remembered."""
    seen: dict[str, Any] = {"verdicts": 0}
    roll_back = Topology.roll_back

    def see(self, score, training=None):
        seen["verdicts"] += 1
        self._evaluated.see(score)
        return seen["verdicts"] == 3

    def watched(parts: Topology, weights: torch.Tensor, factor: float) -> None:
        seen["before"], seen["best"] = parts.master.version, weights.clone()
        roll_back(parts, weights, factor)
        seen["after"], seen["oldest"] = parts.master.version, parts.master.oldest
        seen["weights"] = parts.master.vector.cpu().clone()
        seen["optimizer"] = {name: part.clone() for name, part in parts.master.optimizer.state().items()}
        seen["master"] = parts.master

    monkeypatch.setattr(CollapseWatch, "see", see)
    monkeypatch.setattr(Topology, "roll_back", watched)
    return seen


@pytest.mark.parametrize("name", slow_unless(["async"], TOPOLOGIES))
def test_a_rollback_in_every_topology(tmp_path, staged, name):
    preset, settings = TOPOLOGIES[name]
    small = {
        "env.delay_seconds": 0.0, "adjust.every_seconds": 0.0, "evaluation.every_seconds": 0.0,
        "evaluation.every_steps": 100, "evaluation.episodes": 2, "evaluation.final_episodes": 2,
        "collapse.answer": "rollback",
    }  # fmt: skip
    run = troupe.train(
        "CartPole-v1", preset=preset, seed=1, steps=4000, target="none", run_dir=tmp_path / "run",
        settings=small | settings, tuned=False,
    )  # fmt: skip
    assert torch.equal(staged["weights"], staged["best"])
    assert staged["before"] < staged["oldest"] <= staged["after"]
    assert torch.equal(staged["optimizer"].pop("average", staged["best"]), staged["best"])
    for part in staged["optimizer"].values():
        assert (part == part.flatten()[0]).all()  # as at first: all alike
    assert summary(run.path)["rollbacks"] == 1
    master = staged["master"]
    assert master.step_factor == 0.5
    assert master.version > staged["after"]
    assert not torch.equal(master.vector.cpu(), staged["best"])  # it has gone on learning


def test_after_a_rollback_the_newest_weights_are_the_best_ones(tmp_path):
    folder = climb(tmp_path / "run", steps=536, collapse_answer="rollback").path
    saved = checkpoint.load(folder, pytest.fail)
    assert saved.state.rescue.rollbacks == 1
    assert torch.equal(saved.model["body.w"], saved.best["body.w"])
