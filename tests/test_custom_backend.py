"""An environment backend of the user's, from a file and from Python."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import troupe
from helpers import slow
from troupe.cli import run
from troupe.config import Environment, UsageError
from troupe.environments import find
from troupe.environments.backends import BACKENDS

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = ["--steps", "2000", "--actors", "1", "--target", "none", "--evaluation.final_episodes", "5"]


@pytest.fixture
def corridor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("custom_environment.py", "custom_backend.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return "custom_environment.py:make"


@pytest.mark.parametrize("named", ["custom_backend.py:Corridors", slow("custom_backend:Corridors")])
def test_a_backend_of_a_file_trains_and_is_evaluated_and_resumed(corridor, named, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["train", corridor, "--env.backend", named, "--run-dir", "run", *SHORT]) == 0
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert run(["evaluate", "run", "--episodes", "5", "--json"]) == 0
    assert run(["resume", "run", "--steps", "9000"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["steps"] >= 9000
    if named.endswith(".py:Corridors"):
        path = str(tmp_path / "custom_backend.py")
        assert config["env"]["backend"] == f"{path}:Corridors"
        assert path in config["env"]["files"]


def test_a_changed_backend_is_named(corridor, tmp_path, caplog):
    assert run(["train", corridor, "--env.backend", "custom_backend.py:Corridors", "--run-dir", "run", *SHORT]) == 0
    path = tmp_path / "custom_backend.py"
    path.write_text(path.read_text() + "\n")
    assert run(["evaluate", "run", "--episodes", "1"]) == 0
    assert f"{path} has changed since the run began" in caplog.text


def test_a_backend_in_the_run_directory_is_not_executed(corridor, capsys):
    assert run(["train", corridor, "--env.backend", "custom_backend.py:Corridors", "--run-dir", "run", *SHORT]) == 0
    shutil.copy("custom_backend.py", "run/evil.py")
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace("custom_backend.py:Corridors", "run/evil.py:Corridors"))
    assert run(["evaluate", "run"]) == 2
    assert "is code in the run directory itself" in capsys.readouterr().err


def test_the_batch_plays_as_the_environment_alone_does(corridor):
    """The same actions: the same observations, rewards and ends, over the end of an episode."""
    config = Environment(backend="custom_backend.py:Corridors")
    source = find(corridor, config)
    own, sync = (source.make_vector(3, Environment(backend=name)) for name in (config.backend, "sync"))
    assert (own.reset(np.random.SeedSequence(0)) == sync.reset(np.random.SeedSequence(0))).all()
    rng = np.random.default_rng(0)
    for _ in range(120):
        action = (rng.random(3) < 0.7).astype(np.int64)
        for mine, theirs in zip(own.step(action), sync.step(action), strict=True):
            np.testing.assert_array_equal(mine, theirs)


class Batch(gym.vector.VectorEnv):
    """Stands still; `metadata` and spaces are what the tests change."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space, single_action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def __init__(self, num_envs, fail=False):
        self.num_envs = num_envs
        if fail:
            raise RuntimeError("no licence")

    def reset(self, *, seed=None, options=None):
        return np.zeros((self.num_envs, 2), np.float32), {}

    def step(self, actions):
        nothing = np.zeros(self.num_envs, np.bool_)
        return np.zeros((self.num_envs, 2), np.float32), np.zeros(self.num_envs), nothing, nothing, {}


class Still(gym.Env):
    observation_space, action_space = Batch.single_observation_space, Batch.single_action_space

    def __init__(self, fail=False):
        pass

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


class OtherActions(Batch):
    single_action_space = gym.spaces.Discrete(3)


class ResetsAtOnce(Batch):
    metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012


class NotANumber(Batch):
    def reset(self, *, seed=None, options=None):
        return np.full((self.num_envs, 2), np.nan, np.float32), {}


@pytest.mark.parametrize(
    ("maker", "settings", "message"),
    [
        (lambda num_envs: 3, {}, "it gave int, not a gymnasium.vector.VectorEnv"),
        (lambda num_envs: Batch(num_envs + 1), {}, "it made 2 environments where 1 were asked for"),
        (OtherActions, {}, r"it has single_action_space = Discrete\(3\), the environment .* action_space = Discr"),
        (ResetsAtOnce, {}, "it must reset an environment on the step after its episode's end"),
        (NotANumber, {}, "the observation holds nan"),
        (Batch, {"kwargs": {"fail": True}}, "making 1 raised RuntimeError: no licence"),
        (
            lambda num_envs: Batch(num_envs),
            {"kwargs": {"fail": True}},
            "env.kwargs.fail: backend _lambda_ takes no",
        ),
        (Batch, {"max_steps": 5}, "it takes no env.max_steps; use sync"),
        (Batch, {"wrappers": ("gymnasium.wrappers:FlattenObservation",)}, "it takes no env.wrappers; use sync"),
    ],
)
def test_what_is_no_batch_of_the_environment_is_refused_in_one_line(maker, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        find(Still, Environment(backend=BACKENDS.named(maker), **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_backend_passed_from_python_is_needed_again(tmp_path):
    def batch(num_envs, fail=False):
        return Batch(num_envs, fail)

    settings = {"actor.count": 1, "evaluation.final_episodes": 1, "evaluation.max_steps": 5}
    trained = troupe.train(Still, backend=batch, steps=200, target="none", settings=settings, run_dir=tmp_path / "run")
    assert tomllib.loads((trained.path / "config.toml").read_text())["env"]["backend"].startswith("python:")
    assert troupe.evaluate(trained.path, env=Still, backend=batch, episodes=1).mean == 0
    assert troupe.resume(trained.path, env=Still, backend=batch, steps=4000).steps >= 4000
    config = trained.path / "config.toml"
    config.write_text(re.sub(r"python:\w*batch", "python:another", config.read_text()))
    with pytest.raises(UsageError, match="the run's backend was the callable another: pass it as backend= in Python"):
        troupe.evaluate(trained.path, env=Still, episodes=1)
    assert troupe.resume(trained.path, env=Still, backend="sync", steps=8000).steps >= 8000  # a name serves as well


def test_unknown_backends_are_refused_with_the_known_ones(capsys):
    assert run(["train", "CartPole-v1", "--env.backend", "synk"]) == 2
    assert capsys.readouterr().err == (
        "troupe: env.backend = 'synk': expected one of auto | native | envpool | sync, path/to/file.py:NAME or "
        "module:NAME; did you mean sync?\n"
    )


def test_a_missing_file_is_named(capsys):
    assert run(["train", "CartPole-v1", "--env.backend", "nowhere.py:Batch"]) == 2
    assert "/nowhere.py' to take the backend 'Batch' from" in capsys.readouterr().err
