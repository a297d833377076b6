"""Exported files: in onnxruntime they say what the agent says, and nothing is left of one that does not."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import troupe
from troupe import TroupeError, UsageError, cli
from troupe.agent import Agent
from troupe.config import Network
from troupe.environments.packing import MaskPlace
from troupe.networks.actor_critic import around, build
from troupe.runs import export as room
from troupe.runs.export import OPSET, Exported

S = gym.spaces
BOX, IMAGE = S.Box(-1, 1, (3,)), S.Box(0, 255, (40, 36, 2), np.uint8)
NESTED = S.Dict(
    {
        "number": S.Box(-np.inf, np.inf, (2, 1), np.float64),
        "pair": S.Tuple([S.Discrete(3, start=5), S.MultiBinary(2)]),
        "many": S.MultiDiscrete([2, 4], start=[1, -1]),
    }
)
HALF_BOUNDED = S.Box(np.array([[-2, 0], [-np.inf, -np.inf]]), np.array([[4, 0.5], [3, np.inf]]), dtype=np.float64)
EVERYTHING = S.Dict(
    {"box": HALF_BOUNDED, "card": S.Discrete(3, start=-1), "rest": S.Tuple([S.MultiBinary(2), S.MultiDiscrete([2, 3])])}
)

KINDS: dict[str, tuple[gym.Space[Any], gym.Space[Any], MaskPlace]] = {
    "numbers": (BOX, S.Discrete(4), ""),
    "a choice counted from 5": (S.Discrete(4, start=2), S.Discrete(3, start=5), ""),
    "a Box alone": (S.Box(0, 9, (2, 2), np.float64), S.Box(-3, 5, (2,)), ""),
    "a Box without bounds": (S.MultiBinary(3), S.Box(-np.inf, np.inf, (2,)), ""),
    "several choices": (S.MultiDiscrete([3, 2], start=[-1, 4]), S.MultiDiscrete([[2, 3], [1, 4]]), ""),
    "bits": (S.Box(-5, 5, (2,), np.int16), S.MultiBinary(3), ""),
    "everything nested, masked by the info": (NESTED, EVERYTHING, "info"),
    "masked in the observation": (
        S.Dict({"x": BOX, "action_mask": S.MultiBinary(4)}), S.Discrete(4, start=1), "observation",
    ),
    "an image, channels last": (IMAGE, S.Discrete(3), ""),
    "an image, channels first": (S.Box(0, 255, (2, 40, 36), np.uint8), S.Box(-1, 1, (1,), np.float16), ""),
    "an image beside numbers": (S.Dict({"image": IMAGE, "x": BOX}), S.Discrete(3), ""),
}  # fmt: skip


def agent(observations: gym.Space[Any], actions: gym.Space[Any], masked: MaskPlace = "", **settings: Any) -> Agent:
    """One whose weights are of ordinary size, as after training, and whose statistics are not those it begins with."""
    torch.manual_seed(0)
    network = build(observations, actions, Network(hidden=(8,), **settings), masked)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("policy.weight"):
                weight *= 100
            if name.endswith("log_std"):
                weight += torch.randn(weight.shape)
        if network.normalizer is not None:
            network.normalizer.mean.uniform_(-1, 1)
            network.normalizer.scale.uniform_(0.5, 2)
    return Agent(network.eval(), observations, actions, about={"run": "one", "environment": "Own-v0"})


def leaves(space: gym.Space[Any], value: Any, name: str) -> dict[str, Any]:
    """A nested value taken apart, the names made as the documentation says."""
    if isinstance(space, S.Dict):
        parts = [(key, space[key], value[key]) for key in space.spaces]
    elif isinstance(space, S.Tuple):
        parts = [(str(i), part, value[i]) for i, part in enumerate(space.spaces)]
    else:
        return {name: np.asarray(value, space.dtype)}
    return {k: v for key, part, each in parts for k, v in leaves(part, each, f"{name}.{key}").items()}


def asked(file: Path, observations: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file)
    names = [port.name for port in session.get_outputs()]
    batch = {name: np.stack([each[name] for each in observations]) for name in observations[0]}
    return dict(zip(names, session.run(names, batch), strict=True))


def mask_of(space: gym.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """At least one alternative of each choice, in the order of the leaves."""
    if isinstance(space, S.Dict | S.Tuple):
        parts = space.spaces.values() if isinstance(space, S.Dict) else space.spaces
        return np.concatenate([mask_of(part, rng) for part in parts])
    if isinstance(space, S.Box):
        return np.zeros(0, bool)
    sizes = {S.Discrete: lambda: [space.n], S.MultiBinary: lambda: [2] * space.n}
    rows = [rng.random(n) < 0.4 for n in sizes.get(type(space), lambda: space.nvec.ravel())()]
    for row in rows:
        row[rng.integers(len(row))] = True
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_says_what_the_agent_says(kind, tmp_path):
    observations, actions, masked = KINDS[kind]
    one, file, rng = agent(observations, actions, masked), tmp_path / "one.onnx", np.random.default_rng(3)
    done = one.export(file)
    observations.seed(7)
    seen, masks, fed = [], [], []
    for _ in range(57):
        observation, mask = observations.sample(), mask_of(actions, rng) if masked else None
        if masked == "observation":
            observation["action_mask"] = mask.astype(np.int8)
        parts = leaves(observations, observation, "obs")
        parts.pop("obs.action_mask", None)
        seen.append(observation)
        masks.append(mask if masked == "info" else None)
        fed.append(parts | ({"action_mask": mask} if masked else {}))
    batches = [slice(0, 1), slice(1, 8), slice(8, 57)]
    answers = [asked(file, fed[rows]) for rows in batches]
    said = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    decided = 0
    for i, (observation, mask) in enumerate(zip(seen, masks, strict=True)):
        probabilities, value = one.distribution(observation, mask)
        assert said["value"][i] == pytest.approx(value, rel=1e-4, abs=1e-4)
        if probabilities is not None:
            assert said["probabilities"][i] == pytest.approx(probabilities, abs=1e-5)
        if all(clear(said[name][i], name, actions) for name in said if name.startswith("probabilities")):
            decided += 1
            action = one.act(observation, mask=mask)
            for name, expected in leaves(actions, action, "action").items():
                assert said[name].dtype == expected.dtype
                assert said[name][i] == pytest.approx(expected, rel=1e-4, abs=1e-3 if expected.dtype == "f2" else 1e-4)
    assert decided > 50
    assert [port.name for port in done.inputs] == list(fed[0])
    for port in done.outputs:
        assert (port.dtype, port.shape) == (said[port.name].dtype, said[port.name].shape[1:])


def clear(probabilities: np.ndarray, name: str, actions: gym.Space[Any]) -> bool:
    """Whether no two alternatives of a choice are so nearly as likely that rounding decides."""
    return all(len(each) < 2 or np.diff(np.sort(each)[-2:])[0] > 1e-4 for each in choices(probabilities, name, actions))


def choices(probabilities: np.ndarray, name: str, actions: gym.Space[Any]) -> list[np.ndarray]:
    space = actions
    for key in name.split(".")[1:]:
        space = space[int(key) if isinstance(space, S.Tuple) else key]
    sizes = [2] * space.n if isinstance(space, S.MultiBinary) else np.ravel(getattr(space, "nvec", getattr(space, "n", 0)))
    return np.split(probabilities, np.cumsum(sizes)[:-1])
