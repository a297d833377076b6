"""Replays a recorded run in one thread, to the same weights bit for bit.

The journal records which weights each rollout was made with, and the order of the operations on the master's weights;
everything else follows from the configuration and the seed. So a fault that occurred in some interleaving of threads
and processes is reproduced where a debugger can examine it.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from troupe.config import TrainConfig, TroupeError, UsageError
from troupe.config import replace as replace_settings
from troupe.environments import EnvironmentSource, of_run, quiet_gymnasium
from troupe.hints import CODE
from troupe.networks.custom import AnyNetwork, NetworkMaker, network_of_run
from troupe.networks.flat import FlatWeights
from troupe.networks.user_encoder import ENCODERS
from troupe.runs.recording import Entry, mismatch, read
from troupe.runs.store import checkpoint, weights
from troupe.runtime import choices
from troupe.runtime.acting.actor_plan import ActorPlan, Rollouter
from troupe.runtime.assembly import build_statistics, make_learners, make_plans
from troupe.runtime.data.rollout import Rollout, RolloutSpec, allocate, stack
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.gate import Gate
from troupe.runtime.initial_network import first_network, with_any_weights
from troupe.runtime.journal import checksum
from troupe.runtime.learning.learner import Learner
from troupe.runtime.learning.loss_and_optimizer import optimizer_maker
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Progress
from troupe.torch_threads import one_torch_thread
from troupe.user_code.trust import check as check_trust


@dataclass(frozen=True)
class Replayed:
    """The result of a replay; `diverged` is the first version whose weights differ from those recorded.

    The replay continues from there as far as the journal still fits.
    """

    rollouts: int  # that were learned from
    updates: int
    version: int  # the last one
    diverged: int | None
    vector: Float[Tensor, " P"]  # the weights it ended with


class _Diverged(TroupeError):
    """The replay deviates from the journal before it has published another version to compare."""


class _ReplayedMaster(Master):
    """Takes the learning rates from the journal: they depend on counts that other threads were changing."""

    learning_rate: float | None = None

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:  # noqa: ARG002
        if self.learning_rate is None:
            raise _Diverged("an update that was refused in the run is finite in the replay")
        super().apply(gradient, self.learning_rate)
        self.learning_rate = None


@quiet_gymnasium()
def replay(
    run: str | os.PathLike[str],
    *,
    env: str | Callable[..., gym.Env[Any, Any]] | None = None,
    network: AnyNetwork | None = None,
    loss: str | Callable[..., Any] | None = None,
    optimizer: str | Callable[..., Any] | None = None,
    encoder: str | Callable[..., Any] | None = None,
    backend: str | Callable[..., Any] | None = None,
    trust: bool = False,
    on_version: Callable[[int], object] = lambda _: None,
) -> Replayed:
    """Replays a recorded run. `on_version` is called after each version is published: set a breakpoint there.

    Files and modules that you have not trained with are imported only with `trust` (SECURITY.md). Raises UsageError
    where the run has no journal or is one that cannot be replayed.
    """
    directory = Path(run)
    own = choices.named({}, loss=loss, optimizer=optimizer, encoder=encoder, backend=backend)
    config = replace_settings(checkpoint.read_config(directory), own)
    passed = [CODE[name] for name, value in (("env", env), ("network", network)) if value is not None]
    check_trust(directory, config, [*own, *passed], trust=trust)
    choices.check_code(directory, config)
    entries = read(directory)
    saved = None
    with suppress(UsageError):  # a run may have been killed before its first checkpoint
        saved = checkpoint.load(directory, warn=lambda _: None)
    made = network_of_run(directory, config, network, trained_with_one=saved is not None and saved.state.custom_network)
    source = of_run(directory, config.env, env)
    if saved and made is None and ENCODERS.is_builtin(config.network.encoder):
        weights.check_sizes(directory, saved.model, lambda: with_any_weights(None, source, config))
    with one_torch_thread():
        return _Replay(config, source, entries, made).run(on_version)


class _Replay:
    def __init__(
        self,
        config: TrainConfig,
        source: EnvironmentSource,
        entries: list[Entry],
        network: nn.Module | NetworkMaker | None,
    ):
        config = replace_settings(config, {"env.delay_seconds": 0.0})  # it affects only the time
        self._config, self._entries = config, entries
        self._source = source
        built, seeds, _ = first_network(network, self._source, config)
        actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
        flat = FlatWeights(built)
        vector = flat.vector
        self._master = _ReplayedMaster(
            vector,
            optimizer_maker(config.learner, flat.fixed),
            WeightStore(vector.cpu()),
            build_statistics(config, flat),
        )
        self._versions = {0: vector.cpu().clone()}
        actors = [_Actor(self._versions) for _ in range(config.actor.count)]
        local, self._gate = ByValue(copy.deepcopy(built).cpu()), Gate()
        self._plans = make_plans(
            config, self._source, actor_seeds, exploration_seed, len(actors), lambda number: (local, actors[number]),
            state_size=built.state_size,
        )  # fmt: skip
        self._progress = Progress()  # of the steps that schedules go by
        each_seed = learner_seeds.spawn(config.learner.count)
        learners = make_learners(config, self._source, built, self._master, each_seed, self._progress, self._gate)
        self._learners = {f"learner-{number}": learner for number, learner in enumerate(learners)}
        self._operations: dict[str, tuple[str, Iterator[str]]] = {}  # by learner: its next operation on the weights
        self._actors = actors
        self._wanted = {(actor, index) for kind, *facts in entries if kind == "batch" for actor, index in facts[1]}
        self._made: dict[tuple[int, int], Rollout] = {}  # and not yet learned from

    def run(self, on_version: Callable[[int], object]) -> Replayed:
        for kind, *facts in self._entries:
            if kind == "rollout":
                actor, generation, index, pulls = facts
                self._actor(actor).script.append((generation, index, pulls))
        rollouts, updates, diverged = 0, 0, None
        try:
            for kind, *facts in self._entries:
                try:
                    self._follow(kind, facts)
                except TroupeError as error:
                    if diverged is None and not isinstance(error, _Diverged):
                        raise
                    diverged = diverged or self._master.version + 1
                    break
                rollouts += len(facts[1]) if kind == "batch" else 0
                updates += kind == "apply"
                if kind in ("publish", "end") and diverged is None and checksum(self._master.vector) != facts[-1]:
                    diverged = self._master.version + (kind == "end")
                if kind == "publish":
                    on_version(self._master.version)
        finally:
            for each in self._actors:
                each.close()
        return Replayed(rollouts, updates, self._master.version, diverged, self._master.vector.cpu().clone())

    def _follow(self, kind: str, facts: list[Any]) -> None:
        """Repeats one recorded operation."""
        if kind == "batch":
            learner, wanted = facts
            if learner not in self._learners:
                raise mismatch(f"this run has no {learner}")
            rollouts = [self._rollout(*each) for each in wanted]
            self._progress.consume(rollouts, self._master.version)
            batch = stack(rollouts)
            operations = _operations(self._learners[learner], self._master, batch)
            self._operations[learner] = next(operations), operations
        elif kind in ("observe", "copy", "apply", "publish"):
            self._master.learning_rate = facts[1] if kind == "apply" else None
            self._repeat(facts[0], kind)
            if kind == "publish":
                self._keep(self._master.version)

    def _repeat(self, learner: str, what: str) -> None:
        """Lets a learner continue up to and including this operation on the weights."""
        while True:
            following, operations = self._operations.get(learner, ("nothing", iter(())))
            self._operations[learner] = next(operations, "nothing"), operations
            if following == what:
                return
            if following != "apply":  # an update that was refused, as in the run, is not in the journal
                raise mismatch(
                    f"{learner} does '{what}' where '{following}' is expected (version {self._master.version})"
                )

    def _rollout(self, actor: int, index: int) -> Rollout:
        """Rollout `index` of `actor`; those before it are made first, and kept if a later batch has them."""
        while (actor, index) not in self._made:
            made, rollout = self._actor(actor).play(self._plans[actor], self._gate, self._new_rollout())
            if (actor, made) in self._wanted:
                self._made[actor, made] = rollout
        return self._made.pop((actor, index))

    def _actor(self, number: int) -> "_Actor":
        if number >= len(self._actors):
            raise mismatch(f"this run has no actor {number}")
        return self._actors[number]

    def _new_rollout(self) -> Rollout:
        shape, state_size = self._config.actor.rollout_shape, self._plans[0].state_size
        return allocate(RolloutSpec(self._source.packing.space, *shape, self._source.actions, state_size))

    def _keep(self, version: int) -> None:
        """Keeps the weights just published, and drops those that no further rollout is made with."""
        self._versions[version] = self._master.vector.cpu().clone()
        oldest = min((actor.next_version for actor in self._actors), default=version)
        for old in [old for old in self._versions if old < min(oldest, version)]:
            del self._versions[old]


def _operations(learner: Learner, master: Master, batch: Rollout) -> Iterator[str]:
    """`Learner.learn`, pausing before each operation on the master's weights and naming it: so the operations of
    several learners can be put into the order in which they were made."""
    if master.statistics:
        yield "observe"
        learner.observe(batch)
    for minibatch, bonus in learner.minibatches(batch):
        yield "copy"
        master.copy_to(learner.weights.vector)
        gradient = learner.compute_gradient(minibatch, bonus)
        yield "apply"
        learner.apply_gradient(gradient)
    yield "publish"
    master.publish()


class _Actor:
    """One actor, and the weights its rollouts are made with: those recorded in the journal."""

    def __init__(self, versions: dict[int, Tensor]):
        self.script: list[tuple[int, int, list[tuple[int, int]]]] = []  # (generation, index, pulls)
        self._versions, self._progress = versions, Progress()
        self._made, self._generation = 0, -1
        self._rollouter: Rollouter | None = None
        self._pulls: Iterator[tuple[int, int]] = iter(())
        self.version = 0

    @property
    def next_version(self) -> float:
        left = (self.script[number][2] for number in range(self._made, len(self.script)))
        return next((version for pulls in left for version, _ in pulls), math.inf)

    def play(self, plan: ActorPlan, gate: Gate, rollout: Rollout) -> tuple[int, Rollout]:
        """The next rollout of the script, and its index."""
        generation, index, pulls = self.script[self._made]
        self._made, self._pulls = self._made + 1, iter(pulls)
        if generation != self._generation or self._rollouter is None:
            self.close()
            self._generation = generation
            self._rollouter = plan.build(generation, self._progress, gate, np.zeros(1))
        self._rollouter.collect(rollout)
        return index, rollout

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:  # noqa: ARG002
        """The recorded weights, and the number of steps that had been played when they were pulled."""
        pulled = next(self._pulls, None)
        if pulled is None:
            raise _Diverged("a rollout takes more steps than in the run")
        self.version, self._progress.counts.played = pulled
        into.copy_(self._versions[self.version])
        return self.version

    def close(self) -> None:
        if self._rollouter is not None:
            self._rollouter.close()
