"""Every kind of space from the environment to the gradient: what is played is allowed, what is learned is right."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers.rollouts import check
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import ActorCritic, build
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

SPACES = gym.spaces
SMALL = {
    "topology": "serial", "actor.count": 1, "actor.environments": 8, "actor.rollout_steps": 16, "learner.rollouts": 1,
    "learner.minibatches": 1, "network.hidden": (16,), "learner.learning_rate": 1e-2, "loss.gamma": 0.5,
    "loss.entropy_coefficient": 0.001,
}  # fmt: skip


class Ask(gym.Env[Any, Any]):
    """Shows a nested riddle and pays for its answer in every part of the action; some alternatives are forbidden.

    An action that is forbidden, or that the space does not have, raises.
    """

    observation_space = SPACES.Dict(
        {
            "number": SPACES.Box(-np.inf, np.inf, (1,), np.float64),
            "rest": SPACES.Tuple([SPACES.Discrete(3, start=5), SPACES.MultiBinary(2)]),
        }
    )
    action_space = SPACES.Dict(
        {"box": SPACES.Box(-2, 2, (1,)), "card": SPACES.Discrete(3, start=-1), "bits": SPACES.MultiBinary(2)}
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 8
        return self._ask(), self._allowed()

    def step(self, action: dict[str, Any]) -> Any:
        assert self.action_space.contains(action), action
        card = int(action["card"]) + 1
        assert card != (self.card + 1) % 3, "forbidden"
        reward = float(card == self.card) + (action["bits"] == self.bits).mean()
        reward -= float((action["box"][0] - self.number) ** 2)
        self.left -= 1
        return self._ask(), 10 * reward, False, self.left == 0, self._allowed()

    def _ask(self) -> Any:
        self.number, self.card = self.np_random.uniform(-1, 1), int(self.np_random.integers(3))
        self.bits = self.np_random.integers(0, 2, 2).astype(np.int8)
        return {"number": np.array([1000 + 50 * self.number]), "rest": (self.card + 5, self.bits)}

    def _allowed(self) -> dict[str, Any]:
        cards = np.ones(3, np.int8)
        cards[(self.card + 1) % 3] = 0
        return {"action_mask": np.concatenate([[1, 1, 1, 1], cards])}


class Steer(gym.Env[np.ndarray, np.ndarray]):
    """Pays most for the action that is half the observation: known optimum, continuous."""

    observation_space, action_space = SPACES.Box(-1, 1, (1,)), SPACES.Box(-3, 3, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 10
        return self._show(), {}

    def step(self, action: np.ndarray) -> Any:
        reward = -abs(float(action[0]) - 2 * self.x)
        self.left -= 1
        return self._show(), reward, False, self.left == 0, {}

    def _show(self) -> np.ndarray:
        self.x = float(self.np_random.uniform(-1, 1))
        return np.array([self.x], np.float32)


@pytest.fixture
def worked(run: Callable[..., Topology]) -> Callable[..., tuple[ActorCritic, Topology]]:
    """Parts that have learned from so many batches, and the network."""

    def work(env: Callable[[], Any], batches: int, **settings: Any) -> tuple[ActorCritic, Topology]:
        source = find(env)
        config = resolve(source.id, settings=SMALL | settings)
        torch.manual_seed(0)
        network = build(source.observation_space, source.action_space, config.network, source.masked)
        return network, run(assemble(config, source, network, np.random.SeedSequence(0), Progress()), batches)

    return work


@pytest.mark.slow
def test_nested_riddles_are_answered_in_every_part_of_a_nested_action(worked):
    network, parts = worked(Ask, 250)
    returns = [episode.total for episode in list(parts.progress.recent)[-50:]]
    assert np.mean(returns) > 0.8 * 8 * 10 * 2  # of at most 2 a step
    source = find(Ask)
    obs = {"number": np.array([1000 + 50 * 0.4]), "rest": (6, np.array([0, 1], np.int8))}
    allowed = source.packing.mask(np.array([1, 1, 1, 1, 1, 1, 0]))
    packed = source.packing.pack_one(obs, allowed)
    with torch.no_grad():
        row = network(torch.from_numpy(packed[None])).distribution.mode()[0].numpy()
    action = source.actions.one(row)
    assert action["card"] == 0
    assert action["bits"].tolist() == [0, 1]
    assert action["box"][0] == pytest.approx(0.4, abs=0.35)


@pytest.mark.parametrize("topology", ["async", "queue", "ga3c", "hogwild"])
@pytest.mark.parametrize("placement", ["thread", "process"])
def test_no_topology_plays_a_masked_action(worked, topology, placement):
    """The environment would raise, and the run fail."""
    more: dict[str, Any] = {"inference.kind": "batched"} if topology == "ga3c" else {}
    if topology == "hogwild":
        more = {"learner.epochs": 1, "loss.kind": "a3c"}
    settings = {"topology": topology, "actor.count": 2, "actor.environments": 4, "actor.placement": placement, **more}
    _, parts = worked(Ask, 6, **settings)
    assert parts.progress.counts.steps > 0
    assert parts.progress.counts.skipped_updates == 0


@pytest.mark.slow
def test_a_continuous_action_is_learned_to_its_known_optimum(worked):
    network, _ = worked(Steer, 250)
    obs = torch.linspace(-0.9, 0.9, 7)[:, None]
    with torch.no_grad():
        played = find(Steer).actions.to_environment(network(obs).distribution.mode().numpy())
    np.testing.assert_allclose(played, 2 * obs, atol=0.3)


def test_masks_reach_the_learner_with_the_observations():
    """A ratio pi/mu of the policy that acted is 1 only if both sides knew what was forbidden."""
    source = find(Ask)
    config = resolve(source.id, settings=SMALL)
    torch.manual_seed(0)
    network = build(source.observation_space, source.action_space, config.network, source.masked)
    parts = assemble(config, source, network, np.random.SeedSequence(0), Progress())
    (runner,) = parts.runners
    rollouts: list[Rollout] = []
    runner.collect(rollouts.append)
    parts.close()
    (rollout,) = rollouts
    check(rollout)
    with torch.no_grad():
        policy = network(torch.from_numpy(rollout.obs)).distribution[: len(rollout.action)]
        log_prob = policy.log_prob(torch.from_numpy(rollout.action)).numpy()
    np.testing.assert_allclose(log_prob, rollout.behaviour_log_prob, atol=1e-5)


# Statistics


class Sawtooth(gym.Env[np.ndarray, int]):
    """Observes what nobody expects: 1000 + 10 k in step k of an episode of five; pays k."""

    observation_space, action_space = SPACES.Box(0, 1e6, (1,)), SPACES.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.k = 0
        return self._show(), {}

    def step(self, action: int) -> Any:
        self.k += 1
        return self._show(), float(self.k), self.k == 5, False, {}

    def _show(self) -> np.ndarray:
        return np.array([1000 + 10 * self.k], np.float32)


class Nested(Sawtooth):
    observation_space = SPACES.Dict({"x": SPACES.Box(0, 1e6, (1,))})

    def _show(self) -> Any:
        return {"x": super()._show()}


@pytest.mark.parametrize("topology", ["serial", "async", "queue", "hogwild"])
@pytest.mark.parametrize("placement", ["thread", "process"])
def test_statistics_are_those_of_every_valid_row_however_many_actors_there_are(worked, topology, placement):
    """Five observations 1000 to 1040 and the last, which nobody acts on: it stands in the row that is not valid.

    Whole episodes of six rows: 30 rows are five episodes.
    """
    if topology == "serial" and placement == "process":
        pytest.skip("serial has one thread for everything")
    count = 1 if topology == "serial" else 3
    more = {"learner.epochs": 1, "loss.kind": "a3c"} if topology == "hogwild" else {}
    settings = {
        "topology": topology, "actor.count": count, "actor.environments": 2, "actor.rollout_steps": 30,
        "actor.placement": "auto" if topology == "serial" else placement, "learner.learning_rate": 1e-6, **more,
    }  # fmt: skip
    _, parts = worked(Sawtooth, 5, **settings)
    count, mean, squares = parts.master.statistics.state()["moments"]
    steps = parts.progress.counts.steps
    assert count.tolist() == [steps, steps]
    x = 1000 + 10 * np.arange(5)
    returns = [1.0]
    for reward in (2, 3, 4, 5):
        returns.append(0.5 * returns[-1] + reward)
    np.testing.assert_allclose(mean, [x.mean(), np.mean(returns)], rtol=1e-6)
    np.testing.assert_allclose((squares / steps).sqrt(), [x.std(), np.std(returns)], rtol=1e-4)
    normalizer = parts.master.statistics
    assert normalizer.return_std == pytest.approx(np.std(returns), rel=1e-4)


@pytest.mark.parametrize("env", [Sawtooth, Nested])
def test_a_batch_of_reset_rows_alone_changes_no_statistics(worked, env):
    """Rollouts of one step, of environments whose episodes end together."""
    settings = {"actor.environments": 2, "actor.rollout_steps": 1}
    _, parts = worked(env, 12, **settings)
    assert parts.progress.counts.steps == 20  # two of twelve batches were resets
    assert parts.master.statistics.state()["moments"][0].tolist() == [20, 20]


def test_actors_see_numbers_through_the_statistics_of_the_weights_they_have(worked):
    network, _ = worked(Sawtooth, 3)
    obs = torch.tensor([[1000.0], [1040.0]])
    normalized = network.body.encoder.normalizer(obs)
    torch.testing.assert_close(normalized, torch.tensor([[-2.0], [2.0]]) / 2**0.5, atol=1e-3, rtol=0)
    assert network.normalizer.mean.item() == pytest.approx(1020, abs=2)


def test_statistics_survive_in_the_state_of_the_master(worked):
    _, parts = worked(Sawtooth, 3)
    state = {name: tensor.clone() for name, tensor in parts.master.state().items()}
    before = parts.master.statistics.return_std
    parts.master.statistics.add(torch.ones(5, 1), torch.full((5,), 1e6))
    assert parts.master.statistics.return_std != before
    parts.master.load(state)
    assert parts.master.statistics.return_std == before


def test_rewards_are_divided_by_the_deviation_for_learning_and_reported_raw():
    seen: list[torch.Tensor] = []
    source = find(partial(Sawtooth))
    config = resolve(source.id, settings=SMALL | {"learner.epochs": 1, "loss.reward_scale": 2.0})
    network = build(source.observation_space, source.action_space, config.network)
    parts = assemble(config, source, network, np.random.SeedSequence(0), Progress())
    (runner,), (learner,) = parts.runners, parts.learners
    inner = learner._objective.loss
    watched = lambda outputs, batch, **keywords: seen.append(batch.reward) or inner(outputs, batch, **keywords)  # noqa: E731
    learner._objective = replace(learner._objective, loss=watched)
    rollouts: list[Rollout] = []
    runner.collect(rollouts.append)
    learner.learn(rollouts[0])
    parts.close()
    deviation = parts.master.statistics.return_std
    np.testing.assert_allclose(seen[0].numpy(), rollouts[0].reward * 2.0 / deviation, rtol=1e-6)
    assert {episode.total for episode in parts.progress.recent} == {15.0}
