"""How actors get their actions: from a copy of the network of their own, or from predictors.

Predictors serve batched inference (GA3C, Babaeizadeh et al. 2017), in which actors have no network. An actor writes
its observations into shared memory (of a recurrent policy also the state) and its number into one pipe, the
prediction queue. A predictor takes all the numbers that are there, acts for all these actors in one pass of the
network, writes actions and next states back and wakes each actor through a pipe of its own. A write of a few bytes
into a pipe is atomic, so an actor that is killed at any moment leaves the queue in order.
"""

import os
import select
import struct
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from troupe.config import UsageError
from troupe.networks.actor_critic import ActorCritic, PolicyOutput
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution.gate import Closed, Gate, RemoteGate
from troupe.runtime.learning.weights import Weights
from troupe.runtime.progress import WAIT, Stopwatch

_REQUEST, _REPLY = struct.Struct("=II"), struct.Struct("=I")  # (actor, ticket), ticket
_CLOSED = 2**32 - 1  # instead of an actor's number
_POLL_SECONDS = 0.1


class InferenceOutput(NamedTuple):
    action: np.ndarray  # [B, ...], rows of numbers (environments/actions.py)
    log_prob: np.ndarray  # [B], under the policy that acted, exploration included
    version: int  # of the weights
    next_state: np.ndarray | None = None  # [B, S], of a recurrent policy


class Inference(Protocol):
    watch: Stopwatch  # the actor's: `act` starts the stage of whatever it waits for

    def refresh(self) -> int:
        """Called between rollouts: the only moment at which an actor's own weights change. Their version."""

    def act(self, obs: np.ndarray, epsilon: float, state: RecurrentState | None = None) -> InferenceOutput:
        """Samples from (1 - epsilon) pi + epsilon / A for each of [B] observations.

        The caller keeps the state of a recurrent policy.
        """


def generator(seed: np.random.SeedSequence, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator with the seed of a NumPy seed sequence."""
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0]))


class LocalInference:
    """The actor's own copy of the network, refreshed between rollouts only."""

    def __init__(
        self, network: FlatWeights[ActorCritic], weights: Weights, generator: torch.Generator, gate: Gate | RemoteGate
    ):
        self._pulled, self._network = network.vector, network.module
        self._weights, self._generator, self._gate = weights, generator, gate
        self._device = network.vector.device
        self._version = -1
        self.watch = Stopwatch()

    def refresh(self) -> int:
        self._version = self._weights.pull(self._pulled, self._version)
        return self._version

    def act(self, obs: np.ndarray, epsilon: float, state: RecurrentState | None = None) -> InferenceOutput:
        with self._gate.turn(self.watch), torch.inference_mode():
            seen = torch.from_numpy(obs).to(self._device, non_blocking=True)
            output: PolicyOutput = self._network(seen, state and state.to(self._device))
            behaviour = output.distribution.with_epsilon(epsilon)
            action = behaviour.sample(self._generator)
            log_prob = behaviour.log_prob(action).cpu().numpy()
            next_state = None if output.next_state is None else output.next_state.cpu().numpy()
            return InferenceOutput(action.cpu().numpy(), log_prob, self._version, next_state)

    def state(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state().numpy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(torch.from_numpy(state["generator"]))


class Request(NamedTuple):
    actor: int
    ticket: int  # the actor's own count, by which it ignores answers to an actor that it has replaced


class PredictionQueue:
    """Carries the observations of `actors` actors to predictors, and actions back."""

    def __init__(self, spec: RolloutSpec, actors: int, *, shared: bool):
        if os.name != "posix":
            raise UsageError("inference.kind = 'batched': its queue needs the pipes of Linux or macOS; use local")

        def like(name: str, axes: int) -> tuple[tuple[int, ...], Any]:
            """One entry for each actor: `name` of a rollout without the axes before B, of which there are `axes`."""
            shape, dtype = spec.arrays[name]
            return (actors, *shape[axes:]), dtype

        state = like("initial_state", 0)
        self.arrays = Block(
            {
                "obs": like("obs", 1),
                "epsilon": ((actors,), np.float32),
                "action": like("action", 1),
                "log_prob": like("behaviour_log_prob", 1),
                "version": ((actors,), np.int64),
                "state": state,
                "resets": like("first", 1),
                "last_action": like("initial_action", 0),
                "last_reward": like("initial_reward", 0),
                "next_state": state,  # not `state` itself: a request that is answered twice advances it once
            },
            shared=shared,
        )
        self._reader, self._writer = Pipe(duplex=False)
        self._replies = [Pipe(duplex=False) for _ in range(actors)]
        self._lock = threading.Lock()
        self._closed = False

    def client(self, actor: int) -> "PredictionClient":
        return PredictionClient(actor, self.arrays, self._writer, self._replies[actor][0])

    def get(self, most: int) -> list[Request]:
        """All requests that are there, up to `most`; waits for the first one."""
        with self._lock:
            if self._closed:
                raise Closed
            waiting = os.read(self._reader.fileno(), most * _REQUEST.size)
            requests = [Request(*request) for request in _REQUEST.iter_unpack(waiting)]
            if any(request.actor == _CLOSED for request in requests):
                self._closed = True
                raise Closed
            return requests

    def answer(self, requests: Sequence[Request]) -> None:
        """Wakes these actors, whose actions are in the arrays."""
        for request in requests:
            os.write(self._replies[request.actor][1].fileno(), _REPLY.pack(request.ticket))

    def close(self) -> None:
        """Makes `get` raise Closed, also where a predictor is waiting in it."""
        os.write(self._writer.fileno(), _REQUEST.pack(_CLOSED, 0))


class PredictionClient:
    """An actor's end of the prediction queue; it can be sent to the process that the actor lives in."""

    def __init__(self, actor: int, arrays: Block, requests: Connection, replies: Connection):
        self.actor, self.arrays, self.requests, self.replies = actor, arrays, requests, replies


class BatchedInference:
    """An actor's side of batched inference: `act` sends a request and waits for the answer."""

    def __init__(self, client: PredictionClient, gate: Gate | RemoteGate):
        self._client, self._gate = client, gate
        self._ticket = int.from_bytes(os.urandom(4), "little")
        self._replied = select.poll()
        self._replied.register(client.replies.fileno(), select.POLLIN)
        self.watch = Stopwatch()

    def refresh(self) -> int:
        """The predictors hold the weights, and may change them at any step."""
        return -1

    def act(self, obs: np.ndarray, epsilon: float, state: RecurrentState | None = None) -> InferenceOutput:
        client, arrays, number = self._client, self._client.arrays, self._client.actor
        arrays["obs"][number], arrays["epsilon"][number] = obs, epsilon
        if state is not None:
            for name, value in state._asdict().items():
                arrays[name][number] = value
        self._ticket = (self._ticket + 1) % 2**32
        os.write(client.requests.fileno(), _REQUEST.pack(number, self._ticket))
        stage = self.watch.stage
        self.watch.start(WAIT)
        while True:
            while not self._replied.poll(_POLL_SECONDS * 1000):
                if self._gate.stopped:
                    raise Closed
            reply = os.read(client.replies.fileno(), _REPLY.size)
            if not reply:  # the other end is gone
                raise Closed
            if _REPLY.unpack(reply)[0] == self._ticket:
                self.watch.start(stage)
                next_state = None if state is None else arrays["next_state"][number]
                version = int(arrays["version"][number])
                return InferenceOutput(arrays["action"][number], arrays["log_prob"][number], version, next_state)


class Predictor:
    """Acts for all actors that wait, in one pass of its own copy of the network."""

    def __init__(
        self,
        queue: PredictionQueue,
        network: ActorCritic,
        weights: Weights,
        generator: torch.Generator,
        gate: Gate,
        most: int,
    ):
        self._queue, self._network, self._flat = queue, network, FlatWeights(network)
        self._weights, self._generator, self._gate, self._most = weights, generator, gate, most
        self._version = -1
        self.watch = Stopwatch()
        self.served, self.batches = 0, 0

    @torch.inference_mode()
    def predict(self) -> None:
        """Serves one batch of requests, with the newest weights."""
        self.watch.start(WAIT)
        requests = self._queue.get(self._most)
        self.watch.start("predict")
        with self._gate.turn(self.watch):
            self._version = self._weights.pull(self._flat.vector, self._version)
            arrays, actors = self._queue.arrays, [request.actor for request in requests]
            device = self._flat.vector.device
            obs = torch.from_numpy(arrays["obs"][actors]).to(device)
            epsilon = torch.from_numpy(arrays["epsilon"][actors]).to(device)
            output: PolicyOutput = self._network(obs.flatten(0, 1), self._state(actors))  # [requests * environments]
            policy, environments = output.distribution, obs.shape[1]
            behaviour = (
                policy.with_epsilon(epsilon.repeat_interleave(environments)[:, None]) if epsilon.any() else policy
            )
            action = behaviour.sample(self._generator)
            self._write("action", actors, action)
            self._write("log_prob", actors, behaviour.log_prob(action))
            if output.next_state is not None:
                self._write("next_state", actors, output.next_state)
            arrays["version"][actors] = self._version
        self._queue.answer(requests)
        self.served, self.batches = self.served + len(requests), self.batches + 1
        self.watch.start(WAIT)

    def _state(self, actors: list[int]) -> RecurrentState | None:
        if not self._network.state_size:
            return None
        arrays = (torch.from_numpy(self._queue.arrays[name][actors]) for name in RecurrentState._fields)
        return RecurrentState(*(array.flatten(0, 1) for array in arrays)).to(self._flat.vector.device)

    def _write(self, name: str, actors: list[int], rows: torch.Tensor) -> None:
        array = self._queue.arrays[name]
        array[actors] = rows.cpu().numpy().reshape(len(actors), *array.shape[1:])
