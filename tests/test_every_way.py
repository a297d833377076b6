"""The whole way, from `train` to a video, for topologies, placements, observations, memories and actions.

Not all combinations, but any two values that go together meet in at least one.
"""

import json
import math
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import onnxruntime
import pytest
import torch

import troupe
from troupe.config import Environment
from troupe.environments import EnvironmentSource, find
from troupe.environments.spaces import leaves
from troupe.runs.store import checkpoint

VALUES = {
    "topology": ("serial", "async", "queue", "ga3c", "hogwild"),
    "placement": ("thread", "process"),
    "observations": ("vector", "picture", "dict", "masks"),
    "memory": ("none", "lstm", "gru"),
    "actions": ("Discrete", "MultiDiscrete", "Box"),
}
IMPOSSIBLE = {
    frozenset({("topology", "serial"), ("placement", "process")}): "serial has one thread for everything",
    frozenset({("observations", "masks"), ("actions", "Box")}): "a Box has no alternatives that a mask could forbid",
}
ENVIRONMENT = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR, LENGTH = spaces.Box(-1, 1, (3,), np.float32), 7
OBSERVATIONS = {
    "vector": VECTOR,
    "masks": VECTOR,
    "picture": spaces.Box(0, 255, (40, 36, 1), np.uint8),
    "dict": spaces.Dict(where=VECTOR, card=spaces.Discrete(4, start=1), flags=spaces.MultiBinary(2)),
}
ACTIONS = {
    "Discrete": spaces.Discrete(4, start=1),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
}


class Env(gym.Env):
    """Every episode begins alike, and all that follows depends on the actions alone."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, observations, actions, render_mode=None):
        self.kind, self.render_mode = observations, render_mode
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.total = 0, 0.0
        return self.shown(), self.info()

    def step(self, action):
        taken = np.asarray(action, np.float64).ravel() - getattr(self.action_space, "start", 0)
        if self.kind == "masks":
            sizes = np.atleast_1d(getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0)))
            rows = np.split(self.mask(), np.cumsum(sizes)[:-1])
            assert all(row[int(each)] for row, each in zip(rows, taken)), f"{action} is forbidden"
        self.steps += 1
        self.total += float(taken @ [1.0, 0.5][: taken.size])
        reward = round(float(np.cos(self.total + self.steps)), 3)
        return self.shown(), reward, self.steps == LENGTH, False, self.info()

    def numbers(self):
        return np.cos(self.steps * np.arange(1.0, 4.0) + self.total).astype(np.float32)

    def shown(self):
        if self.kind == "picture":
            ramp = np.linspace(0.0, 1.0, 40 * 36).reshape(40, 36, 1)
            return (127.5 * (1 + np.cos(9 * ramp * (1 + self.steps) + self.total))).astype(np.uint8)
        if self.kind == "dict":
            flags = np.array([self.steps % 2, self.steps % 3 == 0], np.int8)
            return {"where": self.numbers(), "card": np.int64(1 + self.steps % 4), "flags": flags}
        return self.numbers()

    def mask(self):
        allowed = np.ones(int(np.sum(getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0)))), np.int8)
        allowed[self.steps % 3] = 0
        return allowed

    def info(self):
        return {"action_mask": self.mask()} if self.kind == "masks" else {}

    def render(self):
        return np.full((32, 32, 3), 30 * self.steps, np.uint8)
'''

Case = dict[str, str]


def pairs(case: Case) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in combinations(case.items(), 2)}


def possible() -> list[Case]:
    cases = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
    return [case for case in cases if not pairs(case) & IMPOSSIBLE.keys()]


def covering() -> Iterator[Case]:
    """Greedily: each case has as many pairs that none before it had as any has."""
    cases = possible()
    missing = set().union(*map(pairs, cases))
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        missing -= pairs(best)
        yield best


CASES = list(covering())


def test_any_two_values_that_go_together_meet():
    every = {
        frozenset({(one, a), (other, b)})
        for one, other in combinations(VALUES, 2)
        for a, b in product(VALUES[one], VALUES[other])
    }
    assert set().union(*map(pairs, CASES)) == every - IMPOSSIBLE.keys()
    assert len(CASES) <= 24


@pytest.fixture
def env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("envs.py").write_text(ENVIRONMENT)


def words(case: Case, run: str, steps: int) -> str:
    topology = case["topology"]
    loss = "a3c" if topology == "hogwild" else "impala"
    return (
        f"train envs.py:Env --env.kwargs.observations {case['observations']} "
        f"--env.kwargs.actions {case['actions']} "
        f"--topology {topology} --actor.placement {case['placement']} --network.core {case['memory']} "
        f"--loss.kind {loss} "
        f"--inference.kind {'batched' if topology == 'ga3c' else 'local'} --steps {steps} --run-dir {run} --seed 5 "
        f"--actor.count {1 if topology == 'serial' else 2} --actor.environments 2 --actor.rollout_steps 8 "
        "--learner.rollouts 1 --learner.epochs 1 --learner.minibatches 1 --learner.anneal_steps 0 --target none "
        "--network.hidden 8 --network.core_units 4 --evaluation.every_seconds 0 --evaluation.every_steps 64 "
        "--evaluation.episodes 2 --evaluation.final_episodes 2 --quiet"
    )


def weights(run: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(Path(run), pytest.fail).model


def assert_same_weights(one: str, other: str) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def source(case: Case) -> EnvironmentSource:
    return find("envs.py:Env", Environment(kwargs={name: case[name] for name in ("observations", "actions")}))


def played(case: Case) -> tuple[float, Any, Any]:
    """The return of an episode of the agent of `run`, by hand; the first observation and the first action."""
    agent = troupe.load("run")
    env = source(case).make()
    (obs, info), total, ended, actions = env.reset(seed=0), 0.0, False, []
    first = obs
    while not ended:
        actions.append(agent.act(obs, mask=info.get("action_mask")))
        obs, reward, ended, _, info = env.step(actions[-1])
        total += reward
    return total, first, actions[0]


def asked(file: str, case: Case, obs: Any) -> Any:
    """The first action of an episode, by onnxruntime."""
    session = onnxruntime.InferenceSession(file)
    given = {leaf.named("obs"): leaf.of(obs) for leaf in leaves(source(case).observation_space)}
    mask = np.arange({"Discrete": 4, "MultiDiscrete": 5, "Box": 0}[case["actions"]]) != 0
    given |= {"action_mask": mask, "first": np.bool_(True)}
    feed = {}
    for port in session.get_inputs():
        kind = {"float": np.float32, "int64": np.int64, "uint8": np.uint8, "bool": np.bool_, "int8": np.int8}
        dtype = kind[port.type.removeprefix("tensor(").removesuffix(")")]
        value = given.get(port.name, np.zeros(port.shape[1:]))
        feed[port.name] = np.asarray(value, dtype)[None]
    return session.run(["action"], feed)[0][0]


@pytest.mark.slow
@pytest.mark.timeout(600)  # up to eight commands
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_from_train_to_a_video(env_file, run_command, case):
    status, out, err = run_command(words(case, "run", 128))
    assert (status, err) == (0, "")
    assert "step limit reached: mean evaluation return" in out
    before = json.loads(Path("run/summary.json").read_text())
    assert before["steps"] >= 128

    total, obs, action = played(case)
    status, out, err = run_command("evaluate run --episodes 3 --json")
    assert (status, err) == (0, "")
    scores = json.loads(out)
    assert (scores["mean_return"], scores["std_return"]) == pytest.approx((total, 0.0), abs=1e-5)
    assert before["evaluation"]["mean_return"] == pytest.approx(total, abs=1e-5)

    status, out, err = run_command("export run agent.onnx")
    assert (status, err) == (0, "")
    assert asked("agent.onnx", case, obs) == pytest.approx(np.asarray(action), abs=1e-4)

    status, out, err = run_command("watch run --video film.gif --episodes 1")
    assert (status, err) == (0, "")
    assert float(out.split("1 episode, return ")[1]) == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert len(imageio.imread("film.gif")) >= 8

    status, out, err = run_command("resume run --steps 256 --quiet")
    assert (status, err) == (0, "")
    after = json.loads(Path("run/summary.json").read_text())
    assert after["steps"] >= 256
    assert after["updates"] > before["updates"]
    assert math.isfinite(after["evaluation"]["mean_return"])
    if case["topology"] == "serial":
        assert run_command(words(case, "whole", 256))[0] == run_command(words(case, "again", 256))[0] == 0
        assert_same_weights("whole", "again")
        assert_same_weights("whole", "run")
        assert after["evaluation"] == json.loads(Path("whole/summary.json").read_text())["evaluation"]


def test_serial_in_a_process_is_refused(env_file, run_command):
    case = {"topology": "serial", "placement": "process", "observations": "vector", "memory": "none", "actions": "Box"}
    status, out, err = run_command(words(case, "run", 128))
    assert (status, out) == (2, "")
    assert err == "troupe: actor.placement = 'process': topology serial has one thread for everything\n"
    assert not Path("run").exists()
