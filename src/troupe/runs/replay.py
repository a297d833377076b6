"""Replays a recorded run in one thread, to the same weights bit for bit.

The journal says which weights every rollout was made with and who touched the master's weights when;
everything else follows from the configuration and the seed. So a fault that happened once, in some
interleaving of threads and processes, happens again, where a debugger can look at it.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from troupe.agent import NetworkMaker
from troupe.config import TrainConfig, UsageError
from troupe.environments import of_run
from troupe.networks.flat import FlatWeights
from troupe.runs import checkpoint
from troupe.runtime.assembly import build_optimizer, make_learners, make_plans
from troupe.runtime.gate import Gate
from troupe.runtime.journal import FILE, checksum
from troupe.runtime.plan import ActorPlan, Player
from troupe.runtime.progress import Progress
from troupe.runtime.rollout import Rollout, allocate, stack
from troupe.runtime.shared import ByValue
from troupe.runtime.weights import Master, WeightStore
from troupe.trainer import first_network, one_torch_thread


@dataclass(frozen=True)
class Replayed:
    """What came of a replay; `diverged` is the first version whose weights were others than recorded."""

    rollouts: int  # that were learned from
    updates: int
    version: int  # the last one
    diverged: int | None
    vector: Float[Tensor, " P"]  # the weights it ended with


class _ReplayedMaster(Master):
    """Takes the step sizes from the journal: they went by counts that others were changing."""

    learning_rate: float | None = None

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:  # noqa: ARG002
        if self.learning_rate is None:
            raise UsageError("the journal does not fit: an update that was refused in the run is finite in the replay")
        super().apply(gradient, self.learning_rate)
        self.learning_rate = None


def replay(
    run: str | Path,
    *,
    env: Callable[..., gym.Env[Any, Any]] | None = None,
    network: nn.Module | NetworkMaker | None = None,
    on_version: Callable[[int], object] = lambda _: None,
) -> Replayed:
    """Runs a recorded run again. `on_version` is called after every publication: a place for a debugger.

    Raises UsageError where the run has no journal or is one that cannot be replayed.
    """
    place = Path(run)
    config = checkpoint.read_config(place)
    notes = _read(place)
    with one_torch_thread():
        return _Replay(config, place, notes, env, network).run(on_version)


def _read(place: Path) -> list[list[Any]]:
    file = place / FILE
    if not file.is_file():
        raise UsageError(f"'{place}' was not recorded: it has no {FILE} (troupe train ... --record keeps one)")
    notes = []
    for line in file.read_text().splitlines():
        try:
            notes.append(json.loads(line))
        except json.JSONDecodeError:  # what a killed run left of its last line
            break
    return notes


class _Replay:
    def __init__(
        self,
        config: TrainConfig,
        place: Path,
        notes: list[list[Any]],
        env: Callable[..., gym.Env[Any, Any]] | None,
        network: nn.Module | NetworkMaker | None,
    ):
        self._config, self._notes = config, notes
        self._source = of_run(place, config.env.id, env)
        built, seeds, _ = first_network(network, self._source, config)
        actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
        vector = FlatWeights(built).vector
        self._master = _ReplayedMaster(vector, build_optimizer(config.learner, vector), WeightStore(vector.cpu()))
        self._versions = {0: vector.cpu().clone()}
        actors = [_Actor(self._versions) for _ in range(config.actor.count)]
        local, self._gate = ByValue(copy.deepcopy(built).cpu()), Gate()
        self._plans = make_plans(
            config, self._source, actor_seeds, exploration_seed, len(actors), lambda number: (local, actors[number])
        )
        self._learners = make_learners(
            config, built, self._master, learner_seeds.spawn(config.learner.count), Progress(), self._gate
        )
        self._touches: dict[str, tuple[str, Iterator[str]]] = {}  # by learner: what it is about to do
        self._actors = actors
        self._wanted = {(actor, index) for kind, *facts in notes if kind == "batch" for actor, index in facts[1]}
        self._made: dict[tuple[int, int], Rollout] = {}  # and not yet learned from

    def run(self, on_version: Callable[[int], object]) -> Replayed:
        for kind, *facts in self._notes:
            if kind == "rollout":
                actor, *rest = facts
                self._actors[actor].script.append(rest)
        rollouts, updates, diverged = 0, 0, None
        for kind, *facts in self._notes:
            if kind == "batch":
                learner, wanted = facts
                rollouts += len(wanted)
                batch = stack([self._rollout(*each) for each in wanted])
                touches = self._learners[int(learner.rpartition("-")[2])].touches(batch)
                self._touches[learner] = next(touches), touches
            elif kind in ("copy", "apply", "publish"):
                if kind == "apply":
                    updates, self._master.learning_rate = updates + 1, facts[1]
                self._touch(facts[0], kind)
                if kind == "publish":
                    _, version, recorded = facts
                    self._keep(version)
                    if diverged is None and checksum(self._master.vector) != recorded:
                        diverged = version
                    on_version(version)
            elif kind == "end" and diverged is None and checksum(self._master.vector) != facts[0]:
                diverged = self._master.version + 1
        for actor in self._actors:
            actor.close()
        return Replayed(rollouts, updates, self._master.version, diverged, self._master.vector.cpu().clone())

    def _touch(self, learner: str, what: str) -> None:
        """Lets a learner go on until it has touched the master in this way."""
        while True:
            about_to, touches = self._touches[learner]
            self._touches[learner] = next(touches, "nothing"), touches
            if about_to == what:
                return
            if about_to != "apply":  # an update that was refused, then as now, touches nothing
                raise UsageError(f"the journal does not fit: {learner} does '{what}' where '{about_to}' comes next")

    def _rollout(self, actor: int, index: int) -> Rollout:
        """Rollout `index` of `actor`, after all those before it, which somebody may want later or nobody."""
        while (actor, index) not in self._made:
            made, rollout = self._actors[actor].play(self._plans[actor], self._gate, self._new_rollout())
            if (actor, made) in self._wanted:
                self._made[actor, made] = rollout
        return self._made.pop((actor, index))

    def _new_rollout(self) -> Rollout:
        actor = self._config.actor
        steps, environments = (1, 1) if actor.window_steps else (actor.rollout_steps, actor.environments)
        return allocate(self._source.observation_space, steps, environments)

    def _keep(self, version: int) -> None:
        """Remembers the weights just published, and forgets those no rollout goes by any more."""
        self._versions[version] = self._master.vector.cpu().clone()
        oldest = min((actor.next_version for actor in self._actors), default=version)
        for old in [old for old in self._versions if old < min(oldest, version)]:
            del self._versions[old]


class _Actor:
    """An actor's place, and the weights it goes by: those of which the journal says that it had them."""

    def __init__(self, versions: dict[int, Tensor]):
        self.script: list[tuple[int, int, list[tuple[int, int]]]] = []  # (generation, index, pulls)
        self._versions, self._progress = versions, Progress()
        self._made, self._generation = 0, -1
        self._player: Player | None = None
        self._pulls: Iterator[tuple[int, int]] = iter(())
        self.version = 0

    @property
    def next_version(self) -> float:
        left = (version for _, _, pulls in self.script[self._made :] for version, _ in pulls)
        return next(left, math.inf)

    def play(self, plan: ActorPlan, gate: Gate, rollout: Rollout) -> tuple[int, Rollout]:
        """The next rollout of the script, and its index."""
        generation, index, pulls = self.script[self._made]
        self._made, self._pulls = self._made + 1, iter(pulls)
        if generation != self._generation or self._player is None:
            self.close()
            self._generation = generation
            self._player = plan.build(generation, self._progress, gate, np.zeros(1))
        self._player.collect(rollout)
        return index, rollout

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:  # noqa: ARG002
        """The weights that were pulled then; and as many steps had been played as then."""
        self.version, self._progress.counts.played = next(self._pulls)
        into.copy_(self._versions[self.version])
        return self.version

    def close(self) -> None:
        if self._player is not None:
            self._player.close()
