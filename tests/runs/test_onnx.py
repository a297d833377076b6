"""The module that is exported computes, in torch, what an agent answers; and the inputs that it is compared with."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from troupe import UsageError
from troupe.agent import Agent
from troupe.config import Network
from troupe.environments.actions import Actions
from troupe.networks.actor_critic import ActorCritic, build
from troupe.runs.export import check, onnx
from troupe.runs.export.check import sample_inputs
from troupe.runs.export.onnx import Policy, Port

S = gym.spaces
BOX = S.Box(-1, 1, (3,))
BOUNDED = S.Box(np.array([0, -3], np.float32), np.array([4, 1], np.float32))
SEEN = S.Dict(a=S.Box(-5, 5, (2,), np.float64), b=S.Discrete(3, start=4), c=S.Box(0, 255, (4,), np.uint8))
DONE = S.Dict(
    a=BOUNDED, b=S.Discrete(3, start=4), c=S.MultiBinary(2), d=S.MultiDiscrete([[2, 3]], start=[[1, -1]]),
    e=S.Box(-3, 2, (2,), np.int8),
)  # fmt: skip
KINDS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "a choice": (BOX, S.Discrete(4, start=5), "", {}),
    "numbers": (BOX, BOUNDED, "", {}),
    "numbers of one shape, half a precision": (BOX, S.Box(-2, 4, (2, 1), np.float16), "", {}),
    "a choice without an alternative": (BOX, S.MultiDiscrete([1, 3]), "", {}),
    "nested, masked": (SEEN, DONE, "info", {}),
    "with memory": (BOX, S.Discrete(3), "", {"core": "gru"}),
    "with memory of what was done": (SEEN, DONE, "", {"core": "lstm", "core_inputs": True}),
    "with memory of a choice": (BOX, S.Discrete(3, start=2), "", {"core": "gru", "core_inputs": True}),
}


def network_of(kind: str) -> tuple[ActorCritic, Actions]:
    observations, actions, masked, settings = KINDS[kind]
    torch.manual_seed(0)
    network = build(observations, actions, Network(hidden=(8,), core_units=4, **settings), masked).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight *= 100 if name.endswith("policy.weight") else 1
        network.normalizer.mean.uniform_(-1, 1)
        network.normalizer.scale.uniform_(0.5, 2)
    return network, Actions(actions)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_exported_module_computes_the_policy_in_the_environments_units(kind):
    network, actions = network_of(kind)
    policy = Policy(network, actions)
    given, packed, state = sample_inputs(network, actions)
    expected, decided = policy.expected(packed, state)
    outputs = policy(*(torch.from_numpy(each) for each in given.values()))
    assert len(outputs) == len(expected)
    assert decided.mean() > 0.8
    for (name, wanted), actual in zip(expected.items(), outputs, strict=True):
        assert actual.numpy().dtype == wanted.dtype, name
        assert actual.shape == wanted.shape, name
        rows = decided if name.startswith("action") else np.ones_like(decided)
        assert actual.numpy()[rows] == pytest.approx(wanted[rows], rel=1e-4, abs=1e-3), name
    assert [name.partition(".")[0] for name in list(expected)[: len(actions.leaves)]] == ["action"] * len(
        actions.leaves
    )
    assert list(expected)[-2:] == ["value", "next_state"] if network.state_size else list(expected)[-1] == "value"


@torch.no_grad()
def test_parameters_are_those_of_the_policys_distribution():
    network, actions = network_of("numbers")
    given, packed, _ = sample_inputs(network, actions)
    outputs = Policy(network, actions).outputs(network(packed, None))
    part = network(packed, None).distribution
    middle, unit = np.array([2, -1]), np.array([2, 2])
    assert outputs["mean"].numpy() == pytest.approx(middle + unit * part.mean.numpy(), abs=1e-5)
    assert outputs["log_std"].numpy() == pytest.approx(part.log_std.numpy() + np.log(unit), abs=1e-5)
    assert outputs["action"].numpy() == pytest.approx(outputs["mean"].numpy().clip([0, -3], [4, 1]), abs=1e-5)
    network, actions = network_of("nested, masked")
    given, packed, _ = sample_inputs(network, actions)
    outputs = Policy(network, actions).outputs(network(packed, None))
    assert {name: tuple(each.shape[1:]) for name, each in outputs.items() if "prob" in name} == {
        "probabilities.b": (3,), "probabilities.c": (4,), "probabilities.d": (5,), "probabilities.e": (12,),
    }  # fmt: skip
    allowed = np.split(given["action_mask"], [3, 7, 12], axis=1)
    for name, mask in zip("bcde", allowed, strict=True):
        assert (outputs[f"probabilities.{name}"].numpy() > 0).tolist() == mask.tolist()


@torch.no_grad()
def test_rows_in_which_rounding_decides_are_not_compared():
    """Of two choices that are as likely, either may be the greedy one."""
    network, actions = network_of("a choice")
    for weight in (network.body.policy.weight, network.body.policy.bias):
        weight[1] = weight[0]
    packed = sample_inputs(network, actions)[1]
    expected, decided = Policy(network, actions).expected(packed, None)
    best = expected["probabilities"].argmax(1)
    assert decided.tolist() == [each > 1 for each in best]
    assert {*best.tolist()} > {2}
    network, actions = network_of("nested, masked")
    assert Policy(network, actions).expected(sample_inputs(network, actions)[1], None)[1].dtype == np.bool_


# What is compared


def test_half_of_the_observations_are_drawn_from_the_space_and_half_around_what_was_seen():
    network, actions = network_of("nested, masked")
    mean, scale = torch.tensor([[30.0], [-20.0]]), torch.tensor([[10.0], [100.0]])
    network.normalizer.mean[:2] = mean.ravel()
    network.normalizer.scale[:2] = scale.ravel()
    given, packed, state = sample_inputs(network, actions)
    assert state is None
    assert list(given) == ["obs.a", "obs.b", "obs.c", "action_mask"]
    assert {name: (each.dtype.name, each.shape[1:]) for name, each in given.items()} == {
        "obs.a": ("float64", (2,)), "obs.b": ("int64", ()), "obs.c": ("uint8", (4,)), "action_mask": ("bool", (24,)),
    }  # fmt: skip
    assert {len(each) for each in given.values()} == {len(packed)} == {check.ROWS}
    seen, drawn = given["obs.a"][::2], given["obs.a"][1::2]
    assert np.abs(drawn).max() <= 5
    assert seen.mean(0) == pytest.approx([30, -20], abs=0.2)
    assert seen.std(0) == pytest.approx([0.1, 0.01], rel=0.5)
    assert set(given["obs.b"]) == {4, 5, 6}
    unpacked, mask = network.packing.unpack(packed)
    assert all((unpacked[name].numpy() == given[f"obs.{name}"]).all() for name in "abc")
    assert (mask.numpy() == given["action_mask"]).all()


def test_masks_allow_about_half_and_at_least_one_of_each_choice():
    network, actions = network_of("nested, masked")
    masks = sample_inputs(network, actions)[0]["action_mask"]
    assert 0.4 < masks.mean() < 0.75
    sizes = [part.choices for part in actions.parts if part.choices]
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        assert masks[:, start : start + size].any(1).all()
        assert not masks[:, start : start + size].all()


def test_memory_begins_in_half_of_the_rows_and_knows_what_was_done():
    network, actions = network_of("with memory of what was done")
    given, _, state = sample_inputs(network, actions)
    assert list(given)[3:] == ["state", "first", *(f"last_action.{name}" for name in "abcde"), "last_reward"]
    assert given["state"].shape == (check.ROWS, network.state_size) == (64, 8)
    assert (given["state"].min() < -0.9, given["state"].max() > 0.9) == (True, True)
    assert 0.3 < given["first"].mean() < 0.7
    assert (given["first"].dtype, given["last_reward"].dtype) == (np.bool_, np.float32)
    assert (given["last_reward"].min() < -1, given["last_reward"].max() > 1) == (True, True)
    assert [state.state.shape, state.resets.shape, state.last_reward.shape] == [(64, 8), (64,), (64,)]
    row = state.last_action.numpy()
    assert given["last_action.a"] == pytest.approx(np.array([2, -1]) + 2 * row[:, :2])
    assert (given["last_action.b"] - 4).tolist() == row[:, 2].tolist()
    assert (given["last_action.e"].dtype, given["last_action.d"].shape) == (np.int8, (64, 1, 2))
    plain = sample_inputs(*network_of("with memory"))
    assert list(plain[0]) == ["obs", "state", "first"]


def test_numbers_without_bounds_stay_where_a_network_can_follow():
    space = S.Box(-3e38, 3e38, (2,))
    network = build(space, S.Discrete(2), Network(hidden=(4,), normalize=False))
    given, _, _ = sample_inputs(network, Actions(S.Discrete(2)))
    assert np.abs(given["obs"]).max() == check.LARGEST == 1e6
    drawn = given["obs"][::2]  # from a normal distribution, where nothing is known
    assert (drawn.mean(), drawn.std()) == (pytest.approx(0, abs=0.4), pytest.approx(1, abs=0.3))


# Names


def test_a_port_is_written_as_its_shape():
    assert [Port("x", np.dtype("int8"), shape).batch for shape in ((), (3,), (2, 1))] == ["[N]", "[N, 3]", "[N, 2, 1]"]


@pytest.mark.parametrize(("root", "keys"), [("obs", 0), ("action", 1)])
def test_two_parts_of_one_name_are_refused_in_observations_and_in_actions(root, keys):
    twice = S.Dict({"a.b": S.Discrete(2), "a": S.Dict({"b": S.Discrete(2)})})
    spaces = [BOX, S.Discrete(2)]
    spaces[keys] = twice
    network = build(*spaces, Network(hidden=(4,)))
    with pytest.raises(UsageError, match=rf"would both be called '{root}\.a\.b' in the file: rename a key$"):
        onnx._check_names(Policy(network, Actions(spaces[1])))


def test_the_original_error_is_told_and_its_first_line_alone():
    inner, outer = ValueError(" no\x1b such\nop"), RuntimeError("advice")
    outer.__cause__ = KeyError("x")
    outer.__cause__.__cause__ = inner
    assert onnx._cause(outer) == r"ValueError: no\x1b such"


@torch.no_grad()
def example_of(kind: str) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """The line of the printed program that runs the file: what it takes from it, the outputs it names, its inputs."""
    network, actions = network_of(kind)
    given, packed, state = sample_inputs(network, actions)
    expected, _ = Policy(network, actions).expected(packed, state)
    inputs, outputs = (
        [Port(name, each.dtype, each.shape[1:]) for name, each in side.items()] for side in (given, expected)
    )
    text = onnx._example(Path("x.onnx"), network.packing.leaves, inputs, outputs)
    assert len(text.splitlines()) == 5
    line = next(line for line in text.splitlines() if "session.run(" in line)
    taken, _, asked = line.partition(" = session.run")
    return taken, *eval(asked, {"np": np})


def test_an_example_begins_with_zeros_that_are_in_the_space_and_a_mask_that_allows_all():
    taken, names, feed = example_of("nested, masked")
    assert (taken, names) == ("*action, value", [*(f"action.{name}" for name in "abcde"), "value"])
    assert {name: (each.dtype.name, each.tolist()) for name, each in feed.items()} == {
        "obs.a": ("float64", [[0, 0]]), "obs.b": ("int64", [4]), "obs.c": ("uint8", [[0] * 4]),
        "action_mask": ("bool", [[True] * 24]),
    }  # fmt: skip
    taken, names, feed = example_of("with memory")
    assert (taken, names) == ("*action, value, state", ["action", "value", "next_state"])
    assert (feed["first"].tolist(), feed["state"].shape) == ([True], (1, 4))


@torch.no_grad()
def test_an_agent_knows_which_of_its_outputs_are_actions():
    spaces = KINDS["nested, masked"][:2]
    network, actions = network_of("nested, masked")
    one = Agent(network, *spaces)
    given, packed, _ = sample_inputs(network, actions)
    expected, _ = Policy(network, actions).expected(packed, None)
    for row in (0, 1, 2):
        seen = {name: given[f"obs.{name}"][row] for name in "abc"}
        chosen = one.act(seen, mask=given["action_mask"][row])
        for name in "abcde":
            assert np.asarray(chosen[name]) == pytest.approx(expected[f"action.{name}"][row], abs=1e-5)
