"""Exports an agent to ONNX, for programs that use neither troupe nor PyTorch.

Its inputs are the leaves of an observation, named by their paths (`obs`, `obs.image`, `obs.pair.0`), and
`action_mask` where the run has masks. Its outputs are the greedy action, leaf by leaf (`action`, ...), as the
environment takes it; the distribution's parameters, for programs that sample (`probabilities` of choices, `mean` and
`log_std` of a Box, in the environment's unit); and `value`. The first axis of each is the batch, of any size.
Normalisation and masks are part of the graph, which computes in float32 whatever the run trained in; a mean is
subtracted in float64 where the run did that.

A policy with memory keeps nothing in the file: it is given `state` and `first`, and `last_action` (leaf by leaf) and
`last_reward` where it reads them, and returns `next_state`.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from troupe.algorithm.distributions import Categorical, Gaussian, Product
from troupe.config import TroupeError, UsageError, printable
from troupe.environments import spaces
from troupe.environments.actions import Actions, lowest, scale
from troupe.environments.spaces import Leaf, with_entries
from troupe.extras import need
from troupe.networks.actor_critic import ActorCritic, NetworkOutput, PolicyOutput
from troupe.networks.recurrent import RecurrentState
from troupe.runs.export.check import TOLERANCE, Arrays, difference, is_action, sample_inputs
from troupe.runs.store.directory import versions
from troupe.safe_files import output_file, writing

if TYPE_CHECKING:
    from troupe.agent import Agent

OPSET = 18  # the default of torch's exporter; onnxruntime reads such files since 1.18


@dataclass(frozen=True)
class Port:
    """One input or output of the file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one, without the batch

    @property
    def batch(self) -> str:
        """[N, ...]: the shape as one writes it."""
        return f"[{', '.join(map(str, ('N', *self.shape)))}]"


@dataclass(frozen=True)
class Exported:
    """What was written, and an example of its use."""

    file: Path
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    example: str  # a complete program


def export(agent: "Agent", file: Path) -> Exported:
    """Writes the agent as an ONNX file, completely or not at all, and only if onnxruntime computes the same.

    Raises UsageError where the extra `onnx` is missing or a custom network cannot be exported.
    """
    need("onnx")
    network = copy.deepcopy(agent.network).eval()
    network.precision, network.bonus_value = torch.float32, None
    policy = Policy(network, Actions(agent.action_space))
    _check_names(policy)
    about = {
        **agent.about,
        "troupe": versions()["troupe"],
        "observation_space": json.dumps(spaces.describe(agent.observation_space)),
        "action_space": json.dumps(spaces.describe(agent.action_space)),
    }
    with output_file(file, (".onnx",)) as unfinished, torch.no_grad():
        given, packed, state = sample_inputs(network, policy.actions)
        expected, decided = policy.expected(packed, state)
        converted = _converted(policy, given, list(expected), about)
        with writing(file):
            unfinished.write_bytes(converted)
        for count in (1, len(packed)):
            wrong = difference(unfinished, _first(count, given), _first(count, expected), decided[:count])
            if wrong:
                raise TroupeError(f"{file} is not written: in onnxruntime {wrong}")
    inputs, outputs = (
        [Port(name, each.dtype, each.shape[1:]) for name, each in side.items()] for side in (given, expected)
    )
    return Exported(file, inputs, outputs, _example(file, network.packing.leaves, inputs, outputs))


class Policy(nn.Module):
    """The module that is exported: from the file's inputs to its outputs, in their order."""

    def __init__(self, network: ActorCritic, actions: Actions):
        super().__init__()
        self.network, self.actions = network, actions
        self._leaves = [_Box(leaf.space) if lowest(leaf.space) is None else _Choices(leaf) for leaf in actions.leaves]
        self._modules_of_leaves = nn.ModuleList(self._leaves)  # torch does not look into lists

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        network, inputs = self.network, iter(given)
        seen = with_entries(network.packing.seen, inputs)
        mask = next(inputs) if network.packing.masked else None
        recurrent = (self._state(*inputs),) if network.state_size else ()
        parameters, value, *next_state = network.body(seen, *recurrent)
        raw = NetworkOutput(parameters.float(), value.float(), mask, next_state=next(iter(next_state), None))
        return tuple(self.outputs(network.policy(raw)).values())

    def _state(self, state: Tensor, first: Tensor, *last: Tensor) -> RecurrentState:
        """The recurrent state from the inputs that follow the observation's."""
        if not last:
            return RecurrentState(state, first, first, state[:, 0])  # nothing reads the action and the reward
        *action, reward = last
        row = torch.cat([of_leaf.row(each) for of_leaf, each in zip(self._leaves, action, strict=True)], 1)
        return RecurrentState(state, first, row[:, 0] if self.actions.single else row, reward)

    def outputs(self, output: PolicyOutput) -> dict[str, Tensor]:
        """By name: the action, its distribution's parameters, the value, the next state of a recurrent policy."""
        parts = iter(_parts(output))
        outputs = {
            leaf.named(root): each
            for leaf, of_leaf in zip(self.actions.leaves, self._leaves, strict=True)
            for root, each in of_leaf(parts).items()
        }
        ordered = sorted(outputs, key=lambda name: not is_action(name))
        state = {} if output.next_state is None else {"next_state": output.next_state}
        return {name: outputs[name] for name in ordered} | {"value": output.value} | state

    def expected(
        self, packed: Shaped[Tensor, "N *shape"], state: RecurrentState | None
    ) -> tuple[Arrays, Bool[np.ndarray, " N"]]:
        """The outputs as an agent makes them, which sees packed observations and turns rows into actions in NumPy;
        and the rows in which no two choices are so nearly equally probable that rounding decides."""
        output: PolicyOutput = self.network(packed, state)
        action = self.actions.to_environment(output.distribution.mode().numpy())
        made = {leaf.named("action"): leaf.of(action) for leaf in self.actions.leaves}
        decided = torch.ones(len(packed), dtype=torch.bool)
        for part in _parts(output):
            if isinstance(part, Categorical) and part.log_probs.shape[-1] > 1:
                best, second = part.log_probs.exp().topk(2).values.unbind(1)
                decided &= best - second > TOLERANCE
        return {name: each.numpy() for name, each in self.outputs(output).items()} | made, decided.numpy()


Parts = Iterator[Categorical | Gaussian]  # of a policy: one for each Box of floats and each choice


class _Box(nn.Module):
    """A Box of floats: mean and log standard deviation in the environment's unit, before clipping; and the action."""

    middle: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, space: spaces.Space):
        super().__init__()
        assert isinstance(space, gym.spaces.Box)
        self._shape, self._dtype = space.shape, _dtype(space)
        middle, unit = scale(space)
        for name, each in (("middle", middle), ("unit", unit), ("low", space.low), ("high", space.high)):
            self.register_buffer(name, torch.tensor(each))

    def forward(self, parts: Parts) -> dict[str, Tensor]:
        part = next(parts)
        assert isinstance(part, Gaussian)
        mean, log_std = (each.reshape(each.shape[0], *self._shape) for each in (part.mean, part.log_std))
        mean = self.middle + mean * self.unit
        action = mean.clamp(self.low, self.high).to(self._dtype)
        return {"action": action, "mean": mean, "log_std": log_std + self.unit.log()}

    def row(self, action: Tensor) -> Tensor:
        """An unclipped action in the policy's unit."""
        return ((action - self.middle) / self.unit).flatten(1).float()


class _Choices(nn.Module):
    """A Discrete, MultiDiscrete, MultiBinary or Box of integers: probabilities, choice after choice; and the action."""

    start: Tensor

    def __init__(self, leaf: Leaf):
        super().__init__()
        self._shape, self._dtype = leaf.space.shape or (), _dtype(leaf.space)
        self._count = max(1, leaf.size)
        self.register_buffer("start", torch.tensor(lowest(leaf.space)))

    def forward(self, parts: Parts) -> dict[str, Tensor]:
        choices = [part for part in islice(parts, self._count) if isinstance(part, Categorical)]
        chosen = torch.stack([part.mode() for part in choices], 1)
        action = (chosen.reshape(chosen.shape[0], *self._shape) + self.start).to(self._dtype)
        return {"action": action, "probabilities": torch.cat([part.log_probs.exp() for part in choices], 1)}

    def row(self, action: Tensor) -> Tensor:
        """Choices counted from 0."""
        return (action.long() - self.start).reshape(action.shape[0], self._count)


def _parts(output: PolicyOutput) -> tuple[Categorical | Gaussian, ...]:
    policy = output.distribution
    assert isinstance(policy, Categorical | Gaussian | Product)
    return policy.parts if isinstance(policy, Product) else (policy,)


def _dtype(space: spaces.Space) -> torch.dtype:
    return torch.from_numpy(np.empty(0, space.dtype)).dtype


def _first(count: int, arrays: Arrays) -> Arrays:
    return {name: each[:count] for name, each in arrays.items()}


def _check_names(policy: Policy) -> None:
    """Keys with dots in them may give two leaves one name."""
    for root, leaves in (("obs", policy.network.packing.leaves), ("action", policy.actions.leaves)):
        names = [leaf.named(root) for leaf in leaves]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two parts of the space would both be called '{name}' in the file: rename a key")


def _converted(policy: Policy, given: Arrays, outputs: Sequence[str], about: Mapping[str, str]) -> bytes:
    """The policy in ONNX, converted by way of torch.export.

    torch's other way, through TorchScript, would not need onnxscript (10 MB), but since torch 2.9 it calls itself
    legacy at every call, and TorchScript is deprecated.
    """
    example = tuple(torch.from_numpy(each[:2]) for each in given.values())
    with _quietly():
        try:
            program = torch.onnx.export(
                policy,
                example,
                input_names=list(given),
                dynamic_shapes=(tuple({0: "batch"} for _ in example),),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise UsageError(f"network: it cannot be exported to ONNX: {_cause(error)}") from error
        assert program is not None
        model = program.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # the lines of source it came from, with paths of this machine
            for value in node.outputs:
                value.name = f"_{value.name}"  # torch calls a mean `mean`, and that may be an output's name
        for value, name in zip(model.graph.outputs, outputs, strict=True):
            value.name = name
        model.metadata_props.update(about)
        data: bytes = program.model_proto.SerializeToString()
    return data


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences the exporter's warnings about deprecations in its own libraries and about packages not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: Exception) -> str:
    """The original error, which torch wraps in pages of advice, several times over."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return printable(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}")


def _example(file: Path, leaves: Sequence[Leaf], inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Five lines that run the file on one observation, the first of an episode."""
    names = [port.name for port in outputs if is_action(port.name) or port.name in ("value", "next_state")]
    values = [_zeros(leaf) for leaf in leaves]
    # A mask allows all; where `first` is true, the previous state, action and reward are ignored.
    values += [
        f"np.{'ones' if port.dtype == np.bool_ else 'zeros'}({(1, *port.shape)}, {_type(port.dtype)})"
        for port in inputs[len(leaves) :]
    ]
    state = ", state" if names[-1] == "next_state" else ""
    feed = ", ".join(f'"{port.name}": {value}' for port, value in zip(inputs, values, strict=True))
    return f"""\
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession({json.dumps(str(file))})
*action, value{state} = session.run({json.dumps(names)}, {{{feed}}})
print(*[each[0] for each in action], value[0])
"""


def _type(dtype: np.dtype[Any]) -> str:
    """As an expression for every version of NumPy: some have no `np.bool`."""
    return "bool" if dtype == np.bool_ else f"np.{dtype.name}"


def _zeros(leaf: Leaf) -> str:
    """A NumPy expression for a batch of one in the space, whose choices may start at another number than 0."""
    start = np.asarray(getattr(leaf.space, "start", 0))
    zeros = f"np.zeros({(1, *(leaf.space.shape or ()))}, {_type(np.dtype(leaf.space.dtype))})"
    return f"{zeros} + {start.tolist()}" if start.any() else zeros
