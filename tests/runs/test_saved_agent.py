"""What an agent is loaded from: a file, a run's directory, one of its checkpoints."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors
import torch

import troupe
from helpers.checkpoints import state
from troupe import Agent, UsageError
from troupe.config import build, to_toml
from troupe.environments import spaces
from troupe.networks.actor_critic import build as build_network
from troupe.runs.store import checkpoint, saved_agent, weights

SPACES = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2, start=4)
SEEN = np.array([0.5, -0.25, 1.0])


def made(**settings: Any) -> Agent:
    config = build({"network.hidden": (4,), "env.id": "/folder/envs.py:Env"} | settings)
    network = build_network(*SPACES, config.network).eval()
    return Agent(network, *SPACES, about={"run": "one"}, config=config, greedy=config.evaluation.greedy)


def probabilities(agent: Agent) -> list[float]:
    return agent.distribution(SEEN)[0].tolist()


def run_of(agent: Agent, run: Path, *steps: int) -> Path:
    """A run directory with checkpoints; the newest weights of each are zeros, the best are the agent's."""
    run.mkdir()
    (run / "config.toml").write_text(to_toml(agent.config))
    best = agent.network.state_dict()
    for each in steps:
        newest = {name: torch.zeros_like(part) for name, part in best.items()}
        known = state(each, observation_space=SPACES[0], action_space=SPACES[1])
        checkpoint.save(run, each, checkpoint.Checkpoint(newest, best, {}, known))
    return run


@pytest.mark.parametrize("greedy", [True, False])
def test_an_agent_of_a_file_is_the_same_agent(tmp_path, greedy):
    one = made(**{"evaluation.greedy": greedy})
    one.save(tmp_path / "a.safetensors")
    again = troupe.load(tmp_path / "a.safetensors")
    assert probabilities(again) == probabilities(one)
    assert (again.observation_space, again.action_space) == SPACES
    assert (again.greedy, again.about, again.config) == (greedy, {"run": "one"}, one.config)
    assert not again.network.training
    assert saved_agent.read_config(tmp_path / "a.safetensors") == one.config
    with pytest.raises(UsageError, match=r"its name must end in \.safetensors$"):
        one.save(tmp_path / "a.pt")
    with pytest.raises(UsageError, match="there is no folder"):
        one.save(tmp_path / "none" / "a.safetensors")


def test_a_runs_agent_is_the_best_one_and_a_checkpoints_the_one_of_that_step(tmp_path):
    one = made()
    run = run_of(one, tmp_path / "run", 10, 20)
    assert probabilities(troupe.load(run)) == probabilities(one)
    newest = troupe.load(run / "checkpoints" / "10")
    assert probabilities(newest) == [0.5, 0.5]
    for path in (run, run / "checkpoints" / "20"):
        found = saved_agent.read(path, pytest.fail)
        assert (found.path, found.config, found.masked, found.custom_network) == (run, one.config, "", False)
        assert found.about == {"run": "run", "environment": "envs.py:Env"}
        assert saved_agent.read_config(path) == one.config


def test_of_a_run_whose_newest_checkpoint_is_damaged_the_one_before_is_loaded_with_a_warning(tmp_path, caplog):
    run = run_of(made(), tmp_path / "run", 10, 20)
    (run / "checkpoints" / "20" / "state.json").write_text("{}")
    for use in (troupe.load, lambda path: troupe.evaluate(path, env=Walk, episodes=1)):
        caplog.clear()
        use(run)
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("troupe", "WARNING")
        assert "checkpoints/20 is damaged" in record.message
    with pytest.raises(UsageError, match=r"checkpoints/20 is damaged"):
        troupe.load(run / "checkpoints" / "20")


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"\xff" * 4096])
def test_a_file_that_no_agent_was_saved_in_is_named(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^'{file}' is not a file that Agent\.save wrote, or is damaged: "):
        troupe.load(file)
    with pytest.raises(UsageError, match=r"is not a run directory|no run directory"):
        troupe.load(tmp_path / "b.safetensors")


def test_code_that_a_file_names_is_not_executed_but_asked_for(tmp_path):
    one = made(**{"network.custom": "net.py:Net"})
    one.save(tmp_path / "own.safetensors")
    with pytest.raises(
        UsageError, match=r"was trained with the network 'net\.py:Net', and loading a run executes no code"
    ):
        troupe.load(tmp_path / "own.safetensors")
    one.config = build({"network.encoder": "enc.py:Enc", "network.hidden": (4,)})
    one.save(tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match=r"was trained with the encoder 'enc\.py:Enc', and loading a run executes no"):
        troupe.load(tmp_path / "encoder.safetensors")


def test_a_file_holds_no_more_than_it_says(tmp_path):
    one = made()
    one.save(tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(one.network.state_dict())
    assert set(metadata) == {"config", "state", "about"}
    state = json.loads(metadata["state"])
    assert (state["masked"], state["custom_network"]) == ("", False)
    assert spaces.restore(state["action_space"]) == SPACES[1]
    assert spaces.restore(state["observation_space"]) == SPACES[0]


def test_weights_that_do_not_fit_are_refused_by_their_run():
    one, other = made(), made(**{"network.hidden": (5,)})
    weights.put(Path("run"), one.network.state_dict(), made().network)
    with pytest.raises(UsageError, match=r"^the weights of 'run' do not fit the network: .*size mismatch") as caught:
        weights.put(Path("run"), one.network.state_dict(), other.network)
    assert "\n" not in str(caught.value)


# In an environment


class Walk(gym.Env):
    """Shows a drawn number three times, and pays 1 for the second action."""

    observation_space, action_space = SPACES

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 3
        return self._seen(), {}

    def step(self, action: int) -> Any:
        assert action in (4, 5)
        self.left -= 1
        return self._seen(), float(action == 5), self.left == 0, False, {}

    def _seen(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, self.observation_space.shape).astype(self.observation_space.dtype)


class Wider(Walk):
    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)


class Finer(Walk):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float64)


class Rescaled(Walk):
    """Its bounds are others, which makes no difference to a network."""

    observation_space = gym.spaces.Box(-2, 2, (3,), np.float32)


class More(Walk):
    action_space = gym.spaces.Discrete(3, start=4)


def test_a_saved_agent_is_evaluated_in_an_environment_that_is_passed(tmp_path):
    """Its own is a file that is not there. By default it acts as in the evaluations of its run."""
    file, told = tmp_path / "a.safetensors", list[int]()
    made(**{"evaluation.greedy": False}).save(file)
    scores = troupe.evaluate(file, env=Walk, episodes=40, progress=lambda tally: told.append(len(tally.returns)))
    assert (len(scores.returns), scores.lengths.tolist(), scores.greedy) == (40, [3] * 40, False)
    assert 20 < scores.returns.sum() < 100
    assert (told[0], max(told)) == (0, 40)
    again = troupe.evaluate(file, env=Walk, episodes=40)
    assert again.returns.tolist() == scores.returns.tolist()
    assert troupe.evaluate(file, env=Walk, episodes=40, seed=1).returns.tolist() != scores.returns.tolist()
    assert troupe.evaluate(file, env=Walk, episodes=1, greedy=True).greedy


@pytest.mark.parametrize(("env", "what"), [(Wider, "observations"), (Finer, "observations"), (More, "actions")])
def test_an_environment_of_other_spaces_is_refused(tmp_path, env, what):
    file = tmp_path / "a.safetensors"
    made().save(file)
    with pytest.raises(UsageError, match=rf"^env = python:{env.__name__}: its {what} are not those that the agent was"):
        troupe.evaluate(file, env=env, episodes=1)
    assert troupe.evaluate(file, env=Rescaled, episodes=1).lengths.tolist() == [3]
