"""Compares an exported file with the policy: inputs for both, and the differences in their outputs."""

import copy
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from troupe.environments import spaces
from troupe.environments.actions import Actions, lowest, scale
from troupe.environments.spaces import MASK, Leaf, Space, with_entries
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.encoders import Encoder
from troupe.networks.recurrent import RecurrentState

ROWS = 64
TOLERANCE = 1e-4  # of an output's largest number, or of 1: float32 sums depend on their order
LARGEST = 1e6  # limit for observations whose bounds are, say, the largest float: a network would overflow there

Arrays = dict[str, np.ndarray]


def sample_inputs(
    network: ActorCritic, actions: Actions
) -> tuple[Arrays, Shaped[Tensor, "N *shape"], RecurrentState | None]:
    """The same inputs by the names of the file's inputs, and as the network takes them: packed observations, and the
    recurrent state.

    Half of the observations are sampled from the space, half from a normal distribution with the run's statistics.
    Masks allow half of all choices. Half of the rows begin an episode.
    """
    packing, rng = network.packing, np.random.default_rng(0)
    statistics = _statistics(network)
    values = []
    for leaf in packing.leaves:
        value = _sampled(leaf)
        if value.dtype.kind == "f":
            mean, std = statistics.get(leaf.path, (np.zeros(()), np.ones(())))
            value[::2] = mean + std * rng.normal(size=value[::2].shape)
        values.append(value)
    given = {leaf.named("obs"): value for leaf, value in zip(packing.leaves, values, strict=True)}
    mask = _masks(actions, rng) if packing.masked else None
    packed = torch.from_numpy(packing.pack(with_entries(packing.seen, iter(values)), mask))
    given |= {} if mask is None else {MASK: mask}
    if not network.state_size:
        return given, packed, None
    more, state = _recurrent(network, actions, rng)
    return given | more, packed, state


def _recurrent(network: ActorCritic, actions: Actions, rng: np.random.Generator) -> tuple[Arrays, RecurrentState]:
    state = rng.uniform(-1, 1, (ROWS, network.state_size)).astype(np.float32)
    first, rows = rng.random(ROWS) < 0.5, actions.random(rng, ROWS)
    reward = rng.normal(size=ROWS).astype(np.float32)
    recurrent = RecurrentState(*(torch.from_numpy(each) for each in (state, first, rows, reward)))
    given = {"state": state, "first": first}
    if network.reads_rewards:
        action, ends = actions.to_environment(rows), np.cumsum([leaf.size for leaf in actions.leaves])
        columns = np.split(rows.reshape(ROWS, -1), ends[:-1], axis=1)
        for leaf, drawn in zip(actions.leaves, columns, strict=True):
            given[leaf.named("last_action")] = (
                _unclipped(leaf.space, drawn) if lowest(leaf.space) is None else leaf.of(action)
            )
        given["last_reward"] = reward
    return given, recurrent


def _unclipped(space: Space, drawn: np.ndarray) -> np.ndarray:
    """In the unit of the file's `mean`, without rounding to the action's type."""
    assert isinstance(space, gym.spaces.Box)
    middle, unit = scale(space)
    return np.asarray(middle + drawn.reshape(len(drawn), *space.shape) * unit)


def difference(file: Path, given: Arrays, expected: Arrays, decided: Bool[np.ndarray, " N"]) -> str:
    """The first output that onnxruntime computes differently, in words; "" where all agree.

    Actions are compared in the rows where they are `decided`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for (name, wanted), actual in zip(expected.items(), session.run(list(expected), given), strict=True):
        if (actual.shape, actual.dtype) != (wanted.shape, wanted.dtype):
            return f"'{name}' is {actual.dtype} {actual.shape}, of the policy {wanted.dtype} {wanted.shape}"
        counted = decided[(...,) + (None,) * (wanted.ndim - 1)] if is_action(name) else True
        same = actual == wanted  # infinities too, whose difference is NaN
        off = np.subtract(actual, wanted, where=~same, out=np.zeros(wanted.shape), dtype=np.float64)
        most = np.abs(off * counted).max(initial=0.0)
        if not most <= _tolerance(wanted):
            return f"'{name}' differs from the policy's by {most:.3g}"
    return ""


def is_action(name: str) -> bool:
    """Whether an output of that name is (a leaf of) the action."""
    return name.partition(".")[0] == "action"


def _tolerance(wanted: np.ndarray) -> float:
    """Absolute tolerance: 0 for integers."""
    if wanted.dtype.kind != "f":
        return 0.0
    return max(TOLERANCE, float(np.finfo(wanted.dtype).eps)) * float(
        np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
    )


def _sampled(leaf: Leaf) -> np.ndarray:
    space = copy.deepcopy(leaf.space)
    space.seed(0)
    value = np.stack([np.asarray(space.sample(), space.dtype) for _ in range(ROWS)])
    return value.clip(-LARGEST, LARGEST) if value.dtype.kind == "f" else value


def _masks(actions: Actions, rng: np.random.Generator) -> Bool[np.ndarray, "N choices"]:
    """At least one option of each choice is allowed."""
    masks = rng.random((ROWS, actions.mask_size)) < 0.5
    start = 0
    for part in actions.parts:
        if part.choices:
            masks[np.arange(ROWS), start + rng.integers(part.choices, size=ROWS)] = True
            start += part.choices
    return masks


def _statistics(network: ActorCritic) -> dict[spaces.Path, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each leaf of numbers, where they are normalised."""
    normalizer, encoder = network.normalizer, getattr(network.body, "encoder", None)
    if normalizer is None or not isinstance(encoder, Encoder) or encoder.numbers is None:
        return {}
    leaves = encoder.numbers.leaves
    columns = torch.stack([normalizer.whole_mean, 1 / normalizer.scale]).split_with_sizes(
        [leaf.size for leaf in leaves], 1
    )
    return {
        leaf.path: tuple(each.numpy().reshape(leaf.space.shape or ()) for each in pair)
        for leaf, pair in zip(leaves, columns, strict=True)
    }
