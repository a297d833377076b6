"""Batched inference (GA3C, Babaeizadeh et al. 2017): actors without a network, and predictors that serve them.

An actor writes its observations into shared memory and its number into one pipe, the prediction queue. With a
policy that remembers it writes there what that reads, too, and finds the new state beside its actions.
A predictor takes all the numbers that are there, acts for all these actors in one pass of the network,
writes the actions back and wakes each actor through a pipe of its own. A write of a few bytes into a
pipe is whole or not at all, so an actor that is killed at any moment leaves the queue in order.
"""

import os
import select
import struct
import threading
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from troupe.config import UsageError
from troupe.networks.actor_critic import ActorCritic, PolicyOutput
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.acting.inference import InferenceOutput
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution.gate import Closed, Gate, RemoteGate
from troupe.runtime.learning.weights import Weights
from troupe.runtime.progress import WAIT, Stopwatch

_REQUEST, _REPLY = struct.Struct("=II"), struct.Struct("=I")  # (actor, ticket), ticket
_NOBODY = 2**32 - 1  # instead of an actor's number: the queue is closed
_LOOK_SECONDS = 0.1


class Request(NamedTuple):
    actor: int
    ticket: int  # the actor's own count: no answer to a predecessor is taken for one to itself


class PredictionQueue:
    """Carries the observations of `actors` actors to predictors, and actions back."""

    def __init__(
        self,
        spec: RolloutSpec,
        actors: int,
        *,
        shared: bool,
    ):
        if os.name != "posix":
            raise UsageError("inference.kind = 'batched': its queue needs the pipes of Linux or macOS; use local")
        rows, n = spec.arrays, actors

        def like(name: str, axes: int) -> tuple[tuple[int, ...], Any]:
            """One row for each actor of the rollout's array `name`, which has so many axes before B."""
            shape, dtype = rows[name]
            return (n, *shape[axes:]), dtype

        state = like("initial_state", 0)
        self.cells = Block(
            {
                "obs": like("obs", 1),
                "epsilon": ((n,), np.float32),
                "action": like("action", 1),
                "log_prob": like("behaviour_log_prob", 1),
                "version": ((n,), np.int64),
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
        return PredictionClient(actor, self.cells, self._writer, self._replies[actor][0])

    def get(self, most: int) -> list[Request]:
        """Waits for an actor that needs actions, and gives all those that do, up to `most`."""
        with self._lock:
            if self._closed:
                raise Closed
            waiting = os.read(self._reader.fileno(), most * _REQUEST.size)
            requests = [Request(*request) for request in _REQUEST.iter_unpack(waiting)]
            if any(request.actor == _NOBODY for request in requests):
                self._closed = True
                raise Closed
            return requests

    def answer(self, requests: Sequence[Request]) -> None:
        """The actions for these actors are in their cells."""
        for request in requests:
            os.write(self._replies[request.actor][1].fileno(), _REPLY.pack(request.ticket))

    def close(self) -> None:
        """Wakes whoever waits in `get`, into Closed."""
        os.write(self._writer.fileno(), _REQUEST.pack(_NOBODY, 0))


class PredictionClient:
    """An actor's end of the prediction queue; it can be sent to the process that the actor lives in."""

    def __init__(self, actor: int, cells: Block, requests: Connection, replies: Connection):
        self.actor, self.cells, self.requests, self.replies = actor, cells, requests, replies


class BatchedInference:
    """How an actor without a network acts: it asks, and waits for the answer."""

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
        client, cells, number = self._client, self._client.cells, self._client.actor
        cells["obs"][number], cells["epsilon"][number] = obs, epsilon
        if state is not None:
            for name, value in state._asdict().items():
                cells[name][number] = value
        self._ticket = (self._ticket + 1) % 2**32
        os.write(client.requests.fileno(), _REQUEST.pack(number, self._ticket))
        stage = self.watch.stage
        self.watch.start(WAIT)
        while True:
            while not self._replied.poll(_LOOK_SECONDS * 1000):
                if self._gate.stopped:
                    raise Closed
            reply = os.read(client.replies.fileno(), _REPLY.size)
            if not reply:  # the other end is gone
                raise Closed
            if _REPLY.unpack(reply)[0] == self._ticket:
                self.watch.start(stage)
                next_state = None if state is None else cells["next_state"][number]
                version = int(cells["version"][number])
                return InferenceOutput(cells["action"][number], cells["log_prob"][number], version, next_state)


class Predictor:
    """Acts for all actors that wait, in one pass of a copy of the network of its own."""

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
            cells, actors = self._queue.cells, [request.actor for request in requests]
            device = self._flat.vector.device
            obs = torch.from_numpy(cells["obs"][actors]).to(device)
            epsilon = torch.from_numpy(cells["epsilon"][actors]).to(device)
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
            cells["version"][actors] = self._version
        self._queue.answer(requests)
        self.served, self.batches = self.served + len(requests), self.batches + 1
        self.watch.start(WAIT)

    def _state(self, actors: list[int]) -> RecurrentState | None:
        if not self._network.state_size:
            return None
        cells = (torch.from_numpy(self._queue.cells[name][actors]) for name in RecurrentState._fields)
        return RecurrentState(*(cell.flatten(0, 1) for cell in cells)).to(self._flat.vector.device)

    def _write(self, name: str, actors: list[int], rows: torch.Tensor) -> None:
        cell = self._queue.cells[name]
        cell[actors] = rows.cpu().numpy().reshape(len(actors), *cell.shape[1:])
