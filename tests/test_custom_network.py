"""Networks of one's own, all the way: from a file by every command, from a script by every function."""

import json
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

NETWORKS = """
import pathlib
from torch import nn

class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.policy, self.value = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, obs):
        features = self.shared(obs).tanh()
        return self.policy(features), self.value(features).squeeze(-1)

def made(observation_space, action_space):
    assert observation_space.shape == (4,)
    return Body()

body = Body()
"""
TINY = (
    "--actor.count 1 --actor.environments 2 --actor.rollout_steps 8 --learner.rollouts 1 --evaluation.final_episodes 2 "
    "--steps 64 --target none --quiet"
)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.policy, self.value = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, obs):
        features = self.shared(obs).tanh()
        return self.policy(features), self.value(features).squeeze(-1)


def cartpole():
    return gym.make("CartPole-v1", render_mode="rgb_array")


SMALL = {
    "topology": "serial",
    "actor.count": 1,
    "actor.environments": 2,
    "evaluation.final_episodes": 2,
    "stop.target": "none",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    Path("nets.py").write_text(NETWORKS)


@pytest.mark.parametrize("name", ["Body", slow("made"), slow("body")])
def test_every_command_finds_the_network_of_a_file_again(run_command, name):
    words = f"train CartPole-v1 --network nets.py:{name} --run-dir run --actor.placement thread --record {TINY}"
    assert run_command(words)[0] == 0
    stored = tomllib.loads(Path("run/config.toml").read_text())
    assert stored["network"]["custom"] == f"{Path.cwd()}/nets.py:{name}"
    assert f"{Path.cwd()}/nets.py" in stored["env"]["files"]
    status, out, _ = run_command("evaluate run --episodes 2 --json")
    assert (status, json.loads(out)["episodes"]) == (0, 2)
    assert "bit for bit" in run_command("replay run")[1]
    assert run_command("watch run --video one.gif --episodes 1")[0] == 0
    assert run_command("resume run --steps 128 --quiet")[0] == 0


def test_the_network_of_a_file_reaches_actors_in_processes(run_command):
    status, _, err = run_command(
        f"train CartPole-v1 --network nets.py:Body --run-dir run --actor.placement process {TINY}"
    )
    assert (status, err) == (0, "")


@pytest.mark.slow
def test_seeds_and_a_comparison_have_it_too(run_command):
    assert run_command(f"train CartPole-v1 --network nets.py:Body --seeds 2 --run-dir two {TINY}")[0] == 0
    words = f"compare CartPole-v1 --network nets.py:Body --presets appo --seeds 1 --run-dir more {TINY}"
    assert run_command(words)[0] == 0
    for run in [*Path("two").glob("seed*"), *Path("more").glob("*/seed*")]:
        assert troupe.load(run, network="nets.py:Body").act(np.zeros(4, np.float32)) in (0, 1)


@pytest.fixture
def run() -> Path:
    Path("nets.py").write_text(NETWORKS)
    assert cli.run(f"train CartPole-v1 --network nets.py:Body --run-dir run {TINY}".split()) == 0
    return Path("run")


def test_loading_executes_nothing_and_says_what_to_pass(run):
    Path("nets.py").write_text("raise AssertionError('executed')")
    with pytest.raises(UsageError, match=r"with the network '.*/nets.py:Body', and loading a run executes no code"):
        troupe.load(run)
    assert troupe.load(run, network=Body()).act(np.zeros(4, np.float32)) in (0, 1)


def test_a_network_whose_file_has_moved_is_named_again(run_command, run):
    Path("nets.py").rename("elsewhere.py")
    status, _, err = run_command("evaluate run --episodes 2")
    assert (status, err.count("\n")) == (2, 1)
    assert "to take the network 'Body' from" in err
    assert run_command("evaluate run --episodes 2 --network elsewhere.py:Body")[0] == 0
    assert run_command("watch run --video one.gif --episodes 1 --network elsewhere.py:Body")[0] == 0
    assert run_command("resume run --steps 128 --quiet --network elsewhere.py:Body")[0] == 0
    assert run_command("evaluate run --episodes 2")[0] == 0  # which the resumed run has recorded


def test_a_network_in_the_run_directory_is_not_executed(run_command, run):
    (run / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace(f"{Path.cwd()}/nets.py:Body", f"{run.absolute()}/evil.py:Body"))
    for words in ("evaluate run", "watch run --video one.gif", "resume run --steps 1000", "export run one.onnx"):
        status, _, err = run_command(words)
        assert status == 2
        assert "the network of 'run' is code in the run directory itself" in err
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nets.py:Bdy", "has no callable 'Bdy'; did you mean body?"),
        ("nowhere.py:Body", "nowhere.py"),
        ("Body", "--network 'Body': expected"),
        ("nets.py:pathlib", "has no callable 'pathlib'"),
    ],
)
def test_what_names_no_network_is_one_line_and_status_2(run_command, name, line):
    status, _, err = run_command(f"train CartPole-v1 --network {name} --run-dir new {TINY}")
    assert (status, err.count("\n")) == (2, 1)
    assert line in err
    assert not Path("new").exists()


def test_a_run_of_a_script_is_evaluated_watched_and_resumed_in_python(tmp_path, capsys):
    run = troupe.train(cartpole, network=Body(), steps=64, run_dir="mine", settings=SMALL, display="silent")
    assert run.path.is_absolute()
    assert tomllib.loads((run.path / "config.toml").read_text())["network"]["custom"] == "python:Body"
    given = {"env": cartpole, "network": Body()}
    returns = troupe.evaluate(run, episodes=2, **given).returns
    assert len(returns) == 2
    assert len(troupe.watch(run, episodes=1, **given)) == 1  # without a display
    assert (run.path / "videos" / "agent.mp4").stat().st_size > 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {run.path / 'videos' / 'agent.mp4'}"
    assert troupe.resume(run, steps=2000, display="silent", **given).steps >= 2000
    with pytest.raises(UsageError, match="was trained with a custom network: pass it as network="):
        troupe.watch(run, env=cartpole)
    with pytest.raises(UsageError, match=r"the run's environment was the callable cartpole: pass it as env="):
        troupe.watch(run, network=Body())


@pytest.mark.slow
def test_the_closing_lines_say_what_works_for_this_run(run_command, monkeypatch, capsys):
    import troupe.runs.show.watch as module

    for given, hint in [({}, ""), ({"network": Body()}, ", network=network"), ({"env": cartpole}, ", env=env")]:
        rest = {name: value for name, value in given.items() if name != "env"}
        path, env = f"run{len(hint)}", given.get("env", "CartPole-v1")
        run = troupe.train(env, **rest, steps=64, run_dir=path, settings=SMALL, display="plain")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"  watch:  troupe.watch('{path}'{hint})"
        names = {"troupe": troupe, "network": given.get("network"), "env": given.get("env")}
        monkeypatch.setattr(module, "video_without_display", lambda run: run / "one.gif")
        assert len(eval(last.split("watch:  ")[1], names)) == 3
        assert (run.path / "one.gif").exists()
    out = run_command(f"train CartPole-v1 --run-dir shell --actor.placement thread {TINY}")[1]
    assert out.splitlines()[-1] == "  watch:  troupe watch shell"


def test_a_checkpoint_is_loaded_as_it_was_at_that_step(tmp_path, run_command):
    run = troupe.train("CartPole-v1", steps=2000, run_dir="mine", settings=SMALL, display="silent")
    (checkpoint,) = (run.path / "checkpoints").iterdir()
    import safetensors.torch

    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    loaded = troupe.load(checkpoint).network.state_dict()
    assert all(torch.equal(loaded[name], each) for name, each in weights.items())
    assert len(troupe.evaluate(checkpoint, episodes=2).returns) == 2
    status, out, _ = run_command(f"evaluate {checkpoint} --episodes 2")
    assert (status, out.startswith("greedy policy, 2 episodes: mean return")) == (0, True)
    status, _, err = run_command(f"resume {checkpoint} --steps 9000")
    assert (status, err) == (2, f"troupe: '{checkpoint}' is a checkpoint: name the run directory, {run.path}\n")


def test_a_saved_agent_is_the_same_agent(tmp_path, run_command):
    run = troupe.train("CartPole-v1", steps=64, run_dir="mine", settings=SMALL, display="silent")
    observation = np.array([0.1, 0.2, -0.1, 0.3], np.float32)
    for agent in (run.agent, troupe.load(run)):
        agent.save("agent.safetensors")
        again = troupe.load("agent.safetensors")
        assert again.about == run.agent.about
        assert again.distribution(observation)[0] == pytest.approx(run.agent.distribution(observation)[0])
    again.save(tmp_path / "twice.safetensors")
    assert troupe.evaluate("agent.safetensors", episodes=3).returns.tolist() == (
        troupe.evaluate(run, episodes=3).returns.tolist()
    )
    from_file, from_run = (run_command(f"evaluate {path} --episodes 3") for path in ("agent.safetensors", run.path))
    assert from_file == from_run
    assert from_file[0] == 0


def test_a_saved_agent_with_a_custom_network_needs_it_again(run_command):
    run = troupe.train("CartPole-v1", network=Body(), steps=64, run_dir="mine", settings=SMALL, display="silent")
    run.agent.save("agent.safetensors")
    with pytest.raises(UsageError, match="custom network: pass it as network="):
        troupe.load("agent.safetensors")
    for path in ("agent.safetensors", "mine"):
        status, _, err = run_command(f"evaluate {path}")
        option = "pass it as --network FILE.py:NAME (code is not saved)"
        assert (status, err) == (2, f"troupe: '{path}' was trained with a custom network: {option}\n")
    assert troupe.load("agent.safetensors", network=Body()).act(np.zeros(4, np.float32)) in (0, 1)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_holds_no_agent_is_refused_in_a_line(content):
    Path("agent.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"'agent.safetensors' is not a file that Agent.save wrote, or is damaged: .+"):
        troupe.load("agent.safetensors")


def test_an_agent_is_saved_under_a_fitting_name_only():
    run = troupe.train("CartPole-v1", steps=64, run_dir="mine", settings=SMALL, display="silent")
    with pytest.raises(UsageError, match=r"cannot write agent\.pt: its name must end in \.safetensors"):
        run.agent.save("agent.pt")


def test_a_folder_of_runs_is_answered_with_the_runs_in_it(run_command):
    assert run_command(f"train CartPole-v1 --seeds 2 --run-dir two {TINY}")[0] == 0
    holds = "'two' is not a run directory: it has no config.toml; it holds runs: two/seed0, two/seed1"
    for words in ("evaluate two", "watch two --terminal", "resume two --steps 128"):
        assert run_command(words)[::2] == (2, f"troupe: {holds}\n")
    with pytest.raises(UsageError, match=holds):
        troupe.load("two")
