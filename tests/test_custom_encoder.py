"""Encoders of the user, from a file on the command line and in Python."""

import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import troupe
from helpers import slow
from troupe import UsageError, cli
from troupe.config import Network
from troupe.networks.actor_critic import build

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_encoder.py"
SHORT = [
    "--steps", "200", "--seed", "1", "--target", "none", "--actors", "1", "--actor.environments", "2", "--quiet",
    "--actor.rollout_steps", "16", "--evaluation.every_seconds", "0", "--evaluation.final_episodes", "2",
    "--learner.minibatches", "2",
]  # fmt: skip
LSTM = ["--network.core", "lstm", "--network.core_units", "8", "--untuned"]
BOX, CHOICES = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Discrete(2)


@pytest.fixture
def file(tmp_path):
    copy = tmp_path / "my_encoder.py"
    copy.write_text(EXAMPLE.read_text())
    return copy


@pytest.mark.parametrize(
    "more", [["--topology", "serial"], ["--actor.placement", "process"]], ids=["serial", "process"]
)
def test_a_run_with_an_encoder_from_a_file_is_trained_resumed_evaluated_and_loaded(file, tmp_path, more, caplog):
    run, encoder = tmp_path / "run", f"{file}:Fourier"
    words = [
        "train",
        "CartPole-v1",
        "--network.encoder",
        encoder,
        "--network.core",
        "lstm",
        "--network.core_units",
        "8",
    ]
    assert cli.run([*words, *SHORT, "--untuned", "--run-dir", str(run), *more]) == 0
    saved = tomllib.loads((run / "config.toml").read_text())
    assert saved["network"]["encoder"] == encoder
    assert list(saved["env"]["files"]) == [str(file)]
    assert cli.run(["resume", str(run), "--steps", "300", "--quiet"]) == 0
    assert cli.run(["evaluate", str(run), "--episodes", "2"]) == 0
    with pytest.raises(UsageError, match=r"and loading a run executes no code that it names: .* encoder=\.\.\.\)$"):
        troupe.load(run)
    agent = troupe.load(run, encoder=encoder)
    assert agent.network.normalizer is not None
    assert agent.network.state_size == 16
    assert agent.act(np.zeros(4, np.float32)) in (0, 1)
    file.write_text(file.read_text() + "# changed\n")
    assert cli.run(["evaluate", str(run), "--episodes", "2"]) == 0
    assert f"{file} has changed since the run began" in caplog.text


def test_an_encoder_in_the_run_directory_is_not_executed(file, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.run(["train", "CartPole-v1", "--network.encoder", f"{file}:Fourier", *SHORT, "--run-dir", str(run)]) == 0
    planted = run / "planted.py"
    planted.write_text("raise SystemExit('executed')")
    text = (run / "config.toml").read_text().replace(f"{file}:Fourier", f"{planted}:Fourier")
    (run / "config.toml").write_text(text)
    for command in (["resume", str(run), "--steps", "300"], ["evaluate", str(run)], ["watch", str(run), "--terminal"]):
        assert cli.run(command) == 2
        assert "is code in the run directory itself" in capsys.readouterr().err


def encoder_of(features, made=None):
    class Encoder(nn.Module):
        def __init__(self, space):
            super().__init__()
            self.features, self.seen = features, []

        def forward(self, obs):
            self.seen.append(obs)
            return obs if made is None else made(obs)

    return Encoder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (encoder_of(4), r"expected \[N, 4\]; it gave \[2, 3\] for N = 2$"),
        (encoder_of(3, lambda obs: obs @ obs), "called on 2 observations it raised RuntimeError"),
        (encoder_of(None), "a whole number of `features` above 0; it made a Encoder with features = None$"),
        (lambda space: 3, "it must make a torch.nn.Module .* it made a int"),
        (lambda space: 1 / 0, "making it raised ZeroDivisionError"),
    ],
)
def test_a_wrong_encoder_is_refused_in_a_line(make, message):
    with pytest.raises(UsageError, match=rf"^network\.encoder = 'auto': .*{message}"):
        build(BOX, CHOICES, Network(), user_encoder=make)


def test_an_unknown_encoder_is_refused_with_the_known_ones(capsys):
    assert cli.run(["train", "CartPole-v1", "--network.encoder", "natur"]) == 2
    assert "expected one of auto | flat | small | a3c | nature | impala" in capsys.readouterr().err


def test_numbers_arrive_normalised_and_choices_and_images_as_they_are():
    image = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    space = gym.spaces.Dict({"a": BOX, "b": gym.spaces.Discrete(3), "c": image, "d": gym.spaces.Box(-1, 1, (2, 2))})
    make = encoder_of(2, lambda obs: obs["a"][:, :2])
    network = build(space, CHOICES, Network(core="gru", core_units=4), user_encoder=make)
    sample = space.sample()
    packed = torch.from_numpy(network.packing.pack_one(sample)[None])
    with torch.no_grad():
        network.normalizer.mean.fill_(0.5)
    network(packed)
    seen = network.body.encoder.module.seen[-1]
    assert {name: (each.dtype, tuple(each.shape)) for name, each in seen.items()} == {
        "a": (torch.float32, (1, 3)), "b": (torch.int64, (1,)), "c": (torch.uint8, (1, 36, 36, 3)),
        "d": (torch.float32, (1, 2, 2)),
    }  # fmt: skip
    expected = network.normalizer(network.normalizer_input(packed))
    torch.testing.assert_close(torch.cat([seen["a"], seen["d"].flatten(1)], 1), expected)
    assert (seen["c"][0].numpy() == sample["c"]).all()


@pytest.mark.parametrize("placement", ["thread", slow("process")])
def test_an_encoder_passed_from_python_is_needed_again(placement, tmp_path):
    make = encoder_of(4)
    settings = {"actor.placement": placement, "actor.count": 1, "evaluation.final_episodes": 1, "stop.target": "none"}
    run = troupe.train("CartPole-v1", encoder=make, steps=200, settings=settings, run_dir=tmp_path / "run")
    assert run.agent.act(np.zeros(4, np.float32)) in (0, 1)
    with pytest.raises(UsageError, match=r"loading a run executes no code that it names: .* encoder=\.\.\.\)$"):
        troupe.load(run.path)
    assert troupe.load(run.path, encoder=make).act(np.zeros(4, np.float32)) in (0, 1)
    assert len(troupe.evaluate(run.path, encoder=make, episodes=2).returns) == 2
    assert troupe.resume(run.path, encoder=make, steps=6000).steps >= 6000
