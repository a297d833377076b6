"""Numbers of any size and offset reach the network, the returns and the saved agent whole."""

import copy
import json
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import troupe
from helpers import slow
from troupe import cli
from troupe.config import TroupeError

SMALL = {
    "network.hidden": (8,), "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1,
    "learner.minibatches": 1, "learner.epochs": 1, "learner.anneal_steps": 0, "evaluation.every_seconds": 0.0,
    "evaluation.final_episodes": 1,
}  # fmt: skip


class Pressure(gym.Env):
    """An observation around `offset` whose last digits are the action to take. Twenty steps an episode."""

    def __init__(self, offset: float = 5000.0, step: float = 5.0, dtype: type = np.float64):
        self._offset, self._step, self._dtype = offset, step, dtype
        low, high = (-np.inf, np.inf) if np.issubdtype(dtype, np.floating) else (0, 2**62)
        self.observation_space, self.action_space = gym.spaces.Box(low, high, (1,), dtype), gym.spaces.Discrete(3)

    def _show(self) -> np.ndarray:
        self._cue = int(self.np_random.integers(3))
        return np.array([self._offset + self._step * (self._cue - 1)], self._dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._show(), {}

    def step(self, action):
        reward, self._t = float(action == self._cue), self._t + 1
        return self._show(), reward, False, self._t == 20, {}


def saved(run: Path, which: str) -> dict[str, Tensor]:
    checkpoint = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    return safetensors.torch.load((checkpoint / f"{which}.safetensors").read_bytes())


# What is kept of a run whose weights are averaged

AVERAGED = {
    "serial": {"topology": "serial", "actor.auto": False},
    "async": {"topology": "async", "actor.placement": "thread"},
    "hogwild": {"topology": "hogwild", "loss.kind": "a3c", "actor.placement": "thread"},
    "ga3c": {"topology": "ga3c", "inference.kind": "batched", "actor.placement": "thread"},
}


@pytest.mark.parametrize("topology", AVERAGED)
def test_the_saved_agent_normalises_as_the_actors_did_and_its_weights_are_averaged(topology, tmp_path):
    settings = SMALL | AVERAGED[topology] | {"learner.average_decay": 0.99}
    run = troupe.train(Pressure, steps=400, run_dir=tmp_path / "run", settings=settings)
    newest, kept = saved(run.path, "model"), saved(run.path, "best")
    for name in ("mean", "scale"):
        assert torch.equal(newest[f"body.encoder.normalizer.{name}"], kept[f"body.encoder.normalizer.{name}"])
    assert float(run.agent.network.normalizer.mean[0]) == pytest.approx(5000, abs=1)
    assert not torch.equal(newest["body.policy.weight"], kept["body.policy.weight"])


def test_it_does_so_after_a_resume(tmp_path):
    settings = SMALL | AVERAGED["serial"] | {"learner.average_decay": 0.99}
    straight = troupe.train(Pressure, steps=600, run_dir=tmp_path / "straight", settings=settings)
    troupe.train(Pressure, steps=300, run_dir=tmp_path / "run", settings=settings)
    troupe.resume(tmp_path / "run", steps=600, env=Pressure)
    one, other = (dict(saved(path, "best")) for path in (straight.path, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Frozen(nn.Module):
    """A layer that is not trained, and one that is."""

    def __init__(self):
        super().__init__()
        self.fixed = nn.Linear(1, 8).requires_grad_(requires_grad=False)
        self.learned = nn.Linear(8, 4)

    def forward(self, x):
        outputs = self.learned(torch.tanh(self.fixed(x.float() / 5000)))
        return outputs[:, :3], outputs[:, 3]


def test_a_custom_layer_that_is_not_trained_stays_what_it_was_to_the_last_bit(tmp_path):
    network = Frozen()
    settings = SMALL | AVERAGED["serial"] | {"learner.average_decay": 0.9}
    run = troupe.train(Pressure, network=network, steps=400, run_dir=tmp_path / "run", settings=settings)
    assert torch.equal(run.agent.network.body.fixed.weight, network.fixed.weight)
    assert not torch.equal(run.agent.network.body.learned.weight, network.learned.weight)


# Numbers that float32 cannot hold


@pytest.mark.parametrize(("offset", "step", "dtype"), [
    (1.7e9, 1.0, np.float64), (1.7e9, 1, np.int64), (1e6, 1.0, np.float32), (0.0, 1e-7, np.float64),
    (0.0, 1e-7, np.float32), (2.0**45, 1, np.int64),
], ids=str)  # fmt: skip
def test_what_differs_in_its_last_digits_differs_to_the_network_by_standard_deviations(offset, step, dtype, tmp_path):
    def make():
        return Pressure(offset, step, dtype)

    run = troupe.train(make, steps=400, run_dir=tmp_path / "run", settings=SMALL | AVERAGED["serial"])
    eyes = run.agent.network.body.encoder
    shown = np.array([[offset - step], [offset], [offset + step]], dtype)
    numbers = eyes.normalizer(eyes.numbers(torch.from_numpy(shown)))[:, 0]
    deviation = (2 / 3) ** 0.5
    torch.testing.assert_close(numbers, torch.tensor([-1, 0, 1]) / deviation, rtol=0.1, atol=0.15)
    assert [run.agent.distribution(each)[1] for each in shown] == pytest.approx(values(tmp_path / "run", shown))


def values(run: Path, shown: np.ndarray) -> list[float]:
    agent = troupe.load(run)
    return [agent.distribution(each)[1] for each in shown]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_an_exported_file_reads_them_as_exactly(dtype, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def make():
        return Pressure(1.7e9, 1, dtype)

    run = troupe.train(make, steps=400, run_dir=tmp_path / "run", settings=SMALL | AVERAGED["serial"])
    run.agent.export(tmp_path / "agent.onnx")
    shown = (1.7e9 + np.array([[-1], [0], [1]])).astype(dtype)
    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx")
    (values,) = session.run(["value"], {"obs": shown})
    expected = [run.agent.distribution(each)[1] for each in shown]
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-4, atol=1e-5)
    assert len({round(value, 5) for value in expected}) == 3


# Rewards


class Paid(gym.Env):
    """Each of an episode's rewards in turn, whatever is done."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def __init__(self, rewards):
        self._rewards = rewards

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return 0, {}

    def step(self, action):
        reward, self._t = self._rewards[self._t], self._t + 1
        return 0, reward, False, self._t == len(self._rewards), {}


@pytest.mark.parametrize("topology", ["serial", "hogwild"])
@pytest.mark.parametrize("rewards", [slow([0.1] * 3000), [0.1] * 1000, [1e8, 1.0] * 100, [1e-9, 2e-9] * 50], ids=len)
def test_a_training_return_is_the_sum_of_its_rewards(rewards, topology, tmp_path):
    settings = SMALL | AVERAGED[topology] | {"actor.environments": 1, "actor.rollout_steps": 100}
    steps = 2 * len(rewards) + 4
    run = troupe.train(lambda: Paid(rewards), steps=steps, run_dir=tmp_path / "run", settings=settings)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    returns = [row[name] for row in rows for name in ("return_min", "return_max") if row.get(name) is not None]
    assert returns
    assert returns == pytest.approx([sum(rewards)] * len(returns), rel=1e-12, abs=0)


def test_the_sums_that_rewards_are_divided_by_end_with_their_episodes(tmp_path, counting):
    """Discounted sums written out, from 0 after a termination, a time limit and both; reset rows are no steps."""
    script = [(3, "terminated"), (2, "truncated"), (1, "both"), (4, "truncated"), (2, "terminated")]
    settings = SMALL | AVERAGED["serial"] | {"loss.gamma": 0.5, "learner.epochs": 1, "learner.minibatches": 1}
    seen = {False: [], True: []}
    for normalize in seen:

        def loss(outputs, batch, kept=seen[normalize]):
            kept.append(copy.deepcopy(batch))  # its rollout's memory is used again
            return outputs.value[:-1].mean(), {}

        asked = settings | {"loss.normalize_reward": normalize, "learner.learning_rate": 1e-30}
        folder = tmp_path / str(normalize)
        troupe.train(partial(counting, script), loss=loss, steps=200, run_dir=folder, settings=asked, tuned=False)
    total, sums = torch.zeros(seen[True][0].reward.shape[1], dtype=torch.float64), []
    for raw, normalized in zip(seen[False][1:], seen[True][1:], strict=True):  # the first was made up, to try the loss
        for reward, trace, valid in zip(raw.reward, raw.trace, raw.valid, strict=True):
            total = torch.where(valid, 0.5 * total + reward, 0.0)
            sums.append(total[valid])
            total = torch.where(trace == 0, 0.0, total)
        expected = raw.reward.double() / torch.cat(sums).std(correction=0)
        torch.testing.assert_close(normalized.reward.double(), expected, rtol=1e-5, atol=1e-6)
    assert len(sums) > 3 * sum(length + 1 for length, _ in script)


@pytest.mark.parametrize("unit", [1e8, 1e-9])
def test_rewards_of_any_unit_are_learned_from_alike(unit, tmp_path):
    """Normalised, they are the same numbers."""
    learned = []
    for size in (1.0, unit):
        settings = SMALL | AVERAGED["serial"] | {"loss.normalize_reward": True}
        rewards = (size * np.array([1.0, -2.0, 0.5, 3.0])).tolist()
        run = troupe.train(
            lambda rewards=rewards: Paid(rewards), steps=200, run_dir=tmp_path / str(size), settings=settings
        )
        learned.append(saved(run.path, "model"))
    for name in learned[0]:
        torch.testing.assert_close(learned[0][name], learned[1][name], rtol=1e-3, atol=1e-5)


def test_a_reward_beyond_measure_ends_the_run_by_its_name(tmp_path, capsys):
    rewards = "[1.0] * 30 + [1e308]"
    file = tmp_path / "env.py"
    file.write_text(f"""
import gymnasium as gym
class Paid(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        self.left = {rewards}
        return 0, {{}}
    def step(self, action):
        reward = self.left.pop(0)
        return 0, reward, not self.left, False, {{}}
""")
    asked = ["train", f"{file}:Paid", "--run-dir", str(tmp_path / "run"), "--topology", "serial", "--steps", "4000"]
    assert cli.run(asked) == 1
    error = capsys.readouterr().err
    assert "reward is 1e+308, and must be less than 1e+100" in error
    assert "learning_rate" not in error


@pytest.mark.parametrize("topology", ["serial", "hogwild"])
def test_rewards_that_cannot_be_learned_from_are_named_and_the_skipped_updates_are_counted(topology, tmp_path, capsys):
    settings = SMALL | AVERAGED[topology] | {"loss.normalize_reward": False}

    def train(name, size, **more):
        return troupe.train(
            lambda: Paid([1.0, size, 2.0]), run_dir=tmp_path / name, settings=settings, display="quiet", **more
        )

    with pytest.raises(TroupeError, match=r"rewards reach 1e\+39.*loss\.normalize_reward") as raised:
        train("failed", 1e39, steps=10_000)
    assert "learning_rate" not in str(raised.value)
    capsys.readouterr()
    run = train("short", 1e39, steps=200)
    shown = capsys.readouterr()
    skipped = json.loads((run.path / "summary.json").read_text())["skipped_updates"]
    assert 0 < skipped < 100
    assert f"{skipped} of {skipped + run.updates} updates were skipped: their gradients were not finite" in shown.out
    assert "an update was skipped: its gradient is not finite: rewards reach 1e+39" in shown.out + shown.err
    assert train("ordinary", 3.0, steps=200).updates > 0
    assert "skipped" not in "".join(capsys.readouterr())
