"""Networks of one's own with layers that act otherwise while they are trained: dropout and batch normalisation."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import troupe

SMALL = {
    "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "actor.auto": False, "learner.rollouts": 1,
    "learner.minibatches": 1, "learner.epochs": 2, "learner.anneal_steps": 0, "evaluation.every_seconds": 0.0,
    "evaluation.final_episodes": 2,
}  # fmt: skip
TOPOLOGIES = {
    "serial": {"topology": "serial"},
    "async": {"topology": "async", "actor.placement": "thread"},
    "processes": {"topology": "async", "actor.placement": "process"},
    "queue": {"topology": "queue", "actor.placement": "thread", "learner.count": 2},
    "hogwild": {"topology": "hogwild", "loss.kind": "a3c", "learner.epochs": 1, "actor.placement": "thread"},
    "ga3c": {"topology": "ga3c", "inference.kind": "batched", "actor.placement": "thread"},
}


class Around(gym.Env):
    """Three numbers around 100. Ten steps an episode."""

    observation_space = gym.spaces.Box(0, 200, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def _show(self) -> np.ndarray:
        return (100 + self.np_random.normal(size=3)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._t = 0
        return self._show(), {}

    def step(self, action: int) -> Any:
        self._t += 1
        return self._show(), float(action), False, self._t == 10, {}


class Layers(nn.Module):
    """Both of them; `passes` are all of this process: their mode, whether they learned, and the statistics they saw."""

    passes: list[tuple[bool, bool, float]] = []  # noqa: RUF012  # shared by copies

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append((self.training, torch.is_grad_enabled(), float(self.norm.running_mean.mean())))
        outputs = self.last(self.drop(self.norm(x.float())))
        return outputs[:, :2], outputs[:, 2]


def trained(folder: Path, topology: str = "serial", steps: int = 1000, **more: Any) -> troupe.Run:
    settings = SMALL | TOPOLOGIES[topology] | more
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Layers()
    return troupe.train(Around, network=network, steps=steps, run_dir=folder, settings=settings)


def saved(run: Path, which: str) -> dict[str, Tensor]:
    checkpoint = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    return safetensors.torch.load((checkpoint / f"{which}.safetensors").read_bytes())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_only_learning_is_in_train_mode_and_all_others_have_its_statistics(topology, tmp_path):
    Layers.passes.clear()
    # Learners that begin at the same time have the same statistics to begin with: what one adds is lost.
    run = trained(tmp_path / "run", topology, steps=1500 if topology in ("hogwild", "queue") else 600)
    learning = [training for training, learns, _ in Layers.passes if learns]
    others = [(training, mean) for training, learns, mean in Layers.passes if not learns]
    assert learning
    assert all(learning)
    assert not any(training for training, _ in others)
    assert others[-1][1] == pytest.approx(100, abs=1), "the evaluation's"
    if topology != "processes":
        acting = [mean for _, mean in others[:-20]]
        assert acting[-1] > 50, "an actor's, or a predictor's"
    newest, best = saved(run.path, "model"), saved(run.path, "best")
    for kept in (newest, best):
        torch.testing.assert_close(kept["body.norm.running_mean"], torch.full((3,), 100.0), rtol=0, atol=1.0)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_what_was_evaluated_is_exactly_what_is_saved(average, tmp_path, monkeypatch):
    """The policy's answers in the final evaluation, and those of the agent that is returned, loaded and exported."""
    run = trained(tmp_path / "run", **{"learner.average_decay": average})
    shown = (100 + np.random.default_rng(0).normal(size=(5, 3))).astype(np.float32)
    loaded = troupe.load(run.path, network=Layers())
    for one in shown:
        (first, value), again, other = (each.distribution(one) for each in (run.agent, run.agent, loaded))
        assert first.tolist() == again[0].tolist() == other[0].tolist()
        assert value == again[1] == other[1]
    kept = saved(run.path, "best")
    assert all(torch.equal(kept[name], each) for name, each in run.agent.network.state_dict().items())
    again = troupe.evaluate(run.path, episodes=5, env=Around, network=Layers())
    assert (
        again.returns.tolist() == troupe.evaluate(run.path, episodes=5, env=Around, network=Layers()).returns.tolist()
    )


def test_a_serial_run_with_them_is_resumed_bit_for_bit(tmp_path):
    straight = trained(tmp_path / "straight", steps=600)
    trained(tmp_path / "run", steps=300)
    troupe.resume(tmp_path / "run", steps=600, env=Around, network=Layers())
    one, other = saved(straight.path, "model"), saved(tmp_path / "run", "model")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_programs_own_random_stream_is_left_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained(tmp_path / "run", steps=200)
    assert torch.equal(torch.rand(3), expected)
