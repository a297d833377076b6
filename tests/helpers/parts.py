"""Actors, learners and whole runs on a bench: each made alone, with everything it needs in reach of the test."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from helpers import PATIENCE_SECONDS
from helpers.rollouts import check
from troupe.algorithm.schedules import CONSTANT, LinearSchedule
from troupe.config import Environment, Network, resolve
from troupe.config import Learner as LearnerConfig
from troupe.environments import EnvironmentSource, find
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import ActorCritic, build
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor import Actor
from troupe.runtime.acting.inference import LocalInference
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import FIELDS, Rollout, RolloutSpec, allocate
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.learner import Learner, Objective, Rewards
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

PLAIN = {"network.normalize": False, "loss.normalize_reward": False}  # what can be worked out by hand


@dataclass
class Stage:
    """One actor and all that it was made of."""

    source: EnvironmentSource
    actor: Actor
    network: ActorCritic  # with the weights that were published last
    store: WeightStore
    progress: Progress
    gate: Gate
    environments: list[Any]

    def collect(self, steps: int) -> Rollout:
        """A rollout of `steps` rows that keeps the contract."""
        rollout = allocate(RolloutSpec(self.source.observation_space, steps, len(self.environments)))
        self.actor.collect(rollout)
        check(rollout)
        return rollout

    def publish(self, **policy: Any) -> None:
        """Publishes the network with the policy head's `weight` or `bias` changed."""
        for name, value in policy.items():
            getattr(self.network.body.policy, name).data.copy_(torch.tensor(value))
        self.store.publish(torch.cat([each.detach().reshape(-1) for each in self.network.parameters()]))


def make_stage(
    env: Any,
    environments: int | Sequence[int] = 2,  # or those of each part
    *,
    epsilon: Callable[[int], float] = lambda played: 0.0,
    seed: int | np.random.SeedSequence = 0,
    backend: str = "auto",
    hidden: tuple[int, ...] = (8,),
    restarts: int | None = None,
) -> Stage:
    source = find(env)
    torch.manual_seed(0)
    network = build(source.observation_space, source.action_space, Network(hidden=hidden, normalize=False))
    store, progress, gate = WeightStore(FlatWeights(network).vector), Progress(), Gate()
    generator = torch.Generator().manual_seed(1)
    inference = LocalInference(FlatWeights(copy.deepcopy(network)), store, generator, gate)
    sizes = [environments] if isinstance(environments, int) else environments
    vectors = [source.make_vector(size, Environment(backend=backend)) for size in sizes]
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    actor = Actor(vectors, inference, epsilon, progress, seeds, np.zeros(1), restarts=restarts)
    inner = [each for part in vectors for each in getattr(part._vector, "envs", [part._vector] * part.count)]
    made = [getattr(each, "unwrapped", each) for each in inner]
    return Stage(source, actor, network, store, progress, gate, made)


class Line(nn.Module):
    """Logits [0, w x] and value v x of observations [N, 1]: gradients that can be worked out by hand."""

    def __init__(self, w: float = 0.0, v: float = 0.0):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(v))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        x = obs[:, 0]
        return torch.stack((torch.zeros_like(x), self.w * x), -1), self.v * x


@dataclass
class Descent:
    """w <- w - rate * g, and what it was given."""

    gradients: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        self.gradients.append(gradient.clone())
        self.rates.append(learning_rate)
        weights.sub_(gradient, alpha=learning_rate)

    def state(self) -> dict[str, Tensor]:
        return {}


@dataclass
class LearnerSetup:
    """One learner, on a Line if nothing else was asked for, and all that it was made of."""

    learner: Learner
    master: Master
    optimizer: Descent
    progress: Progress


def make_learner_setup(
    loss: Any,
    *,
    body: nn.Module | None = None,
    network: ActorCritic | None = None,
    master: Master | None = None,
    rewards: Rewards = Rewards(0.9),  # noqa: B008
    progress: Progress | None = None,
    entropy: tuple[float, LinearSchedule] = (0.0, CONSTANT),
    objective: Objective | None = None,  # instead of the loss and what it is computed with
    **settings: Any,
) -> LearnerSetup:
    actions = Actions(gym.spaces.Discrete(2))
    packing = Packing(gym.spaces.Box(-1e9, 1e9, (1,), np.float32), actions)
    network = network or ActorCritic(body or Line(), packing, actions)
    if master is None:
        vector = FlatWeights(copy.deepcopy(network)).vector
        master = Master(vector, lambda _: Descent(), WeightStore(vector))
    config = LearnerConfig(**{"epochs": 1, "minibatches": 1, "learning_rate": 1.0, "gradient_norm": 0.0} | settings)
    progress = progress or Progress()
    learner = Learner(
        network,
        master,
        objective or Objective(loss, rewards, {} if entropy[1] == CONSTANT else {"entropy_coefficient": entropy}),
        config,
        progress,
        Gate(),
        np.random.default_rng(0),
        annealing=LinearSchedule(0, config.anneal_steps, 1.0, 0.0) if config.anneal_steps else CONSTANT,
    )
    return LearnerSetup(learner, master, master.optimizer, progress)


def blank_rollout(steps: int = 1, environments: int = 1, **fields: Any) -> Rollout:
    """A rollout of ones and zeros: observations [1.0], actions 1, no rewards, no endings."""

    rollout = allocate(RolloutSpec(gym.spaces.Box(-1e9, 1e9, (1,), np.float32), steps, environments))
    rollout.obs[:] = 1.0
    rollout.action[:] = 1
    rollout.behaviour_log_prob[:] = np.log(0.5)
    for name, value in fields.items():
        getattr(rollout, name)[...] = value
    return rollout


class Watched(Progress):
    """Remembers what was consumed, in order: actor, its rollout's index, its version, the newest version."""

    def __init__(self) -> None:
        super().__init__()
        self.consumed: list[tuple[int, int, int, int]] = []

    def consume(self, rollouts: Sequence[Rollout], version: int) -> None:
        self.consumed += [(each.actor, each.index, int(each.policy_version[0, 0]), version) for each in rollouts]
        super().consume(rollouts, version)


def assemble_run(env: Any, settings: dict[str, Any], seed: int = 1, preset: str = "appo", version: int = 0) -> Topology:
    """The parts of a run, nobody at work yet."""

    source = find(env)
    config = resolve(source.id, preset, PLAIN | settings, tuned=False)
    torch.manual_seed(seed)
    network = build(source.observation_space, source.action_space, config.network)
    return assemble(config, source, network, np.random.SeedSequence(seed), Watched(), version)


def run_batches(parts: Topology, batches: int, during: Callable[[], object] = lambda: None) -> Topology:
    """Lets the parts work until so many batches have been learned from."""

    learned = []

    def after_batch() -> None:
        learned.append(1)
        during()
        if len(learned) == batches:
            supervisor.end()

    with Supervisor(parts.gate, parts.wake) as supervisor:
        parts.start(supervisor, after_batch)
        assert supervisor.wait(PATIENCE_SECONDS), "it waits for ever"
        assert supervisor.stop(PATIENCE_SECONDS) == []
    assert supervisor.failure is None
    parts.close()
    return parts


class Carried:
    """A function that a process can be started with, wherever it was defined."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (cloudpickle.dumps(self.function),)


@dataclass
class Elsewhere:
    """A call under way in another process."""

    process: Any
    _connection: Any

    def result(self) -> Any:
        """What the call returned; EOFError where it did not."""
        assert self._connection.poll(PATIENCE_SECONDS), "it never returned"
        return self._connection.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def copied(rollout: Rollout) -> Rollout:
    arrays: dict[str, Any] = {name: getattr(rollout, name).copy() for name in FIELDS}
    return Rollout(**arrays, actor=rollout.actor, index=rollout.index)


def watch_deliveries(parts: Topology) -> dict[int, list[Rollout]]:
    """Copies of all that actors deliver, by actor, in order: filled while the parts work."""

    delivered: dict[int, list[Rollout]] = {runner.number: [] for runner in parts.runners}
    put = parts.queue.put

    def keep(rollout: Rollout) -> None:
        delivered[rollout.actor].append(copied(rollout))

    def keep_and_put(rollout: Rollout) -> None:
        keep(rollout)
        put(rollout)

    parts.queue.put = keep_and_put  # type: ignore[method-assign]
    if parts.config.topology == "hogwild":  # its rollouts go from the worker back to the worker
        for runner in parts.runners:
            release = runner.queue.release

            def keep_and_release(rollouts: Sequence[Rollout], release: Any = release) -> None:
                for rollout in rollouts:
                    if rollout.actor >= 0:
                        keep(rollout)
                release(rollouts)

            runner.queue.release = keep_and_release  # type: ignore[method-assign]
    return delivered


def join(rollouts: Sequence[Rollout]) -> dict[str, np.ndarray]:
    """All rows of consecutive rollouts in line, each observation once."""
    rows: dict[str, np.ndarray] = {
        name: np.concatenate([getattr(each, name) for each in rollouts])
        for name in ("action", "reward", "terminated", "truncated", "valid", "behaviour_log_prob")
    }
    for name in ("obs", "first"):
        parts = [getattr(each, name) for each in rollouts]
        rows[name] = np.concatenate([part[:-1] for part in parts] + [parts[-1][-1:]])
    return rows


def expected_rows(script: Sequence[Any], rows: int) -> dict[str, list[Any]]:
    """What the script says an environment shows, row by row, with a reset row after every episode."""
    expected: dict[str, list[Any]] = {"obs": [], "first": [], "valid": [], "terminated": [], "truncated": []}
    episode = 0
    while len(expected["obs"]) < rows:
        length, ending = script[episode % len(script)]
        for step in range(length + 1):
            ends, final = step == length - 1, step == length
            expected["obs"].append([episode, step])
            expected["first"].append(step == 0)
            expected["valid"].append(not final)
            expected["terminated"].append(ends and ending != "truncated")
            expected["truncated"].append(ends and ending != "terminated")
        episode += 1
    return {name: values[:rows] for name, values in expected.items()}


def matches_script(rollouts: Sequence[Rollout], script: Sequence[Any]) -> None:
    """Asserts that consecutive rollouts of Counting environments tell all that happened, once, and nothing else:
    final observations stand in line, reset rows are invalid, first flags are right, across every seam."""
    rows = join(rollouts)
    expected = expected_rows(script, len(rows["obs"]))
    for b in range(rows["obs"].shape[1]):
        assert rows["obs"][:, b].tolist() == expected["obs"]
        assert rows["first"][:, b].tolist() == expected["first"]
        for name in ("valid", "terminated", "truncated"):
            assert rows[name][:, b].tolist() == expected[name][:-1]
    assert (rows["reward"] == np.where(rows["valid"], 10 * rows["obs"][:-1, :, 1] + rows["action"], 0.0)).all()
    for before, after in pairwise(rollouts):
        assert (before.obs[-1] == after.obs[0]).all()
        assert (before.first[-1] == after.first[0]).all()
