"""The bonus that a learner gives its batches, written out; who learns of what; and that nothing of it is lost."""

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

import troupe
from helpers import slow_unless_in_turn
from troupe.algorithm.losses import appo
from troupe.config import Network, Novelty, TrainConfig
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import build
from troupe.networks.novelty import with_bonus_value
from troupe.runs.store import checkpoint
from troupe.runtime.data.rollout import Rollout, RolloutSpec, allocate
from troupe.runtime.learning.curiosity import Curiosity
from troupe.runtime.learning.weights import HogwildMaster

CPU, PLANE = torch.device("cpu"), gym.spaces.Box(-10, 10, (2,), np.float32)
CONFIG = Novelty(coefficient=0.5, gamma=0.8, hidden=(8, 8), learning_rate=1e-2)


def packing(space: gym.Space) -> Packing:
    return Packing(space, Actions(gym.spaces.Discrete(2)))


def curiosity(config: Novelty = CONFIG, seed: int = 0) -> Curiosity:
    return Curiosity(packing(PLANE), config, np.random.SeedSequence(seed), CPU)


def played(seed: int, steps: int = 6, environments: int = 3, around: float = 0.0) -> Rollout:
    """Random observations; in the first column an episode ends with row 1, and row 2 is its reset row."""
    dice = np.random.default_rng(seed)
    rollout = allocate(RolloutSpec(PLANE, steps, environments))
    rollout.obs[:] = dice.normal(around, 1.0, rollout.obs.shape)
    rollout.action[:] = dice.integers(0, 2, rollout.action.shape)
    rollout.behaviour_log_prob[:] = np.log(0.5)
    rollout.reward[:] = dice.normal(size=rollout.reward.shape)
    rollout.terminated[1, 0], rollout.valid[2, 0], rollout.reward[2, 0], rollout.first[3, 0] = True, False, 0.0, True
    return rollout


def test_the_bonus_is_the_error_over_the_deviation_of_its_own_discounted_sum_written_out():
    """Over two batches, whose columns need not be the same environments: the second begins at the first one's level."""
    judge = curiosity()
    seen: list[np.ndarray] = []
    sums: list[float] = []
    level = 0.0
    for batch in (played(1), played(2, environments=2)):
        before = copy.deepcopy(judge.novelty)
        bonus = judge.bonus(batch)
        seen += [batch.obs[t + 1, b] for t, b in np.argwhere(batch.valid)]
        mean, deviation = np.mean(seen, 0, np.float64), np.std(seen, 0, np.float64)
        steps, environments = batch.reward.shape
        error, ends = np.zeros((steps, environments)), []
        for b in range(environments):
            total = level
            for t in range(steps):
                if batch.valid[t, b]:
                    whitened = torch.tensor((batch.obs[t + 1, b] - mean) / deviation).clamp(-5, 5).float()
                    off = before.predictor(whitened) - before.target(whitened)
                    error[t, b] = off.square().mean().item()
                    total = CONFIG.gamma * total + error[t, b]
                    sums.append(total)
            ends.append(total)
        level = float(np.mean(ends))
        np.testing.assert_allclose(bonus.reward, error / np.std(sums), rtol=1e-4)
        assert bonus.reward[2, 0] == 0.0  # the reset row
        assert torch.equal(bonus.discount, torch.where(torch.from_numpy(batch.valid), CONFIG.gamma, 1.0))
        assert bonus.coefficient == CONFIG.coefficient


def test_a_reset_row_changes_nothing():
    """The first observation of a rollout, and of an episode, follow no action of it."""
    bonuses = []
    for junk in (0.0, 7.0):
        batch = played(1)
        batch.obs[0], batch.obs[3, 0] = junk, junk
        bonuses.append(curiosity().bonus(batch).reward)
    assert torch.equal(*bonuses)


def test_what_has_been_seen_often_is_less_new_than_what_has_not():
    judge = curiosity()
    first = judge.bonus(played(0)).reward.mean()
    for seed in range(200):
        known = judge.bonus(played(seed)).reward.mean()
    assert known < 0.1 * first
    assert judge.bonus(played(0, around=3.0)).reward.mean() > 4 * known


def test_the_state_goes_on_bit_for_bit():
    one = curiosity()
    for seed in range(3):
        one.bonus(played(seed))
    other = curiosity(seed=9)
    other.restore(one.state())
    for seed in range(3, 6):
        assert torch.equal(one.bonus(played(seed)).reward, other.bonus(played(seed)).reward)


def test_a_state_does_not_change_while_the_learner_goes_on():
    judge = curiosity()
    judge.bonus(played(0))
    kept, before = judge.state(), copy.deepcopy(judge.state())
    judge.bonus(played(1))
    assert repr(kept) == repr(before)


def test_a_predictors_gradient_that_is_not_finite_is_refused():
    judge, batch = curiosity(), played(0)
    batch.obs[1, 1] = np.nan
    before = copy.deepcopy(judge.novelty.state_dict())
    judge.bonus(batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in judge.novelty.state_dict().items())


# In the learner


def test_the_policy_does_not_teach_the_predictor_nor_the_predictor_the_policy(learner_setup):
    """A learner's predictor is that of a curiosity alone, whatever the loss, and shares no weight with the network."""
    torch.manual_seed(0)
    network = with_bonus_value(build(PLANE, gym.spaces.Discrete(2), Network(hidden=(8,))), TrainConfig(novelty=CONFIG))
    alone, ours = curiosity(), curiosity()
    made = learner_setup(partial(appo, entropy_coefficient=3.0), network=network, epochs=3, minibatches=2)
    made.learner.curiosity = ours
    for seed in range(3):
        bonus = alone.bonus(played(seed))
        assert not bonus.reward.requires_grad
        made.learner.learn(played(seed))
    expected = alone.novelty.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in ours.novelty.state_dict().items())
    addresses = {each.data_ptr() for each in network.parameters()}
    assert addresses.isdisjoint(each.data_ptr() for each in ours.novelty.parameters())


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_gradient_shared_out_is_the_whole_gradient_with_bonuses_too(learner_setup, threads):
    torch.manual_seed(0)
    network = with_bonus_value(build(PLANE, gym.spaces.Discrete(2), Network(hidden=(8,))), TrainConfig(novelty=CONFIG))
    found = []
    for number in (1, threads):
        learner = learner_setup(appo, network=copy.deepcopy(network), threads=number).learner
        found.append(learner.compute_gradient(played(0), curiosity().bonus(played(0))))
        learner.close()
    torch.testing.assert_close(*found)


def test_each_minibatch_has_the_bonuses_of_its_own_environments(learner_setup):
    seen = []

    def watched(outputs, batch):
        seen.append((batch.reward, batch.bonus.reward, batch.bonus.discount))
        return outputs.value.sum(), {}

    made = learner_setup(watched, network=build(PLANE, gym.spaces.Discrete(2), Network(hidden=(8,))), minibatches=3)
    made.learner.curiosity = curiosity()
    made.learner.learn(played(0))
    whole, batch = curiosity().bonus(played(0)), torch.from_numpy(played(0).reward).float()
    assert len(seen) == 3
    for reward, bonus, discount in seen:
        (b,) = [b for b in range(3) if torch.equal(batch[:, b], reward[:, 0])]
        assert torch.equal(bonus[:, 0], whole.reward[:, b])
        assert torch.equal(discount[:, 0], whole.discount[:, b])


# In a run


SMALL = {
    "actor.count": 2, "actor.environments": 2, "actor.rollout_steps": 8, "actor.placement": "thread",
    "network.hidden": (8,), "learner.rollouts": 2, "queue.capacity": 4, "evaluation.every_seconds": 0.0,
    "evaluation.final_episodes": 1, "evaluation.max_steps": 5, "stop.target": "none", "novelty.coefficient": 0.5,
    "novelty.hidden": (8,),
}  # fmt: skip
TOPOLOGIES = {
    "serial": {"topology": "serial", "actor.count": 1, "learner.rollouts": 1},
    "async": {"topology": "async"},
    "queue": {"topology": "queue", "learner.count": 2},
    "ga3c": {"topology": "ga3c", "inference.kind": "batched", "learner.count": 2},
    "processes": {"topology": "async", "actor.placement": "process"},
}


@pytest.mark.parametrize(("topology", "loss"), slow_unless_in_turn(TOPOLOGIES, ["a3c", "impala", "appo"], 1))
def test_every_topology_and_loss_gives_bonuses_and_goes_on_with_what_was_new(tmp_path, topology, loss):
    settings = SMALL | TOPOLOGIES[topology] | {"loss.kind": loss}
    run = troupe.train("MountainCar-v0", run_dir=tmp_path / "run", settings=settings, steps=300, tuned=False)
    kept = checkpoint.load(run.path, pytest.fail).novelty
    assert len(kept) == settings.get("learner.count", 1)
    assert sum(each["observations"][0, 0] for each in kept) > 250
    assert run.agent.act(np.zeros(2, np.float32)) in (0, 1, 2)
    assert troupe.load(run.path).act(np.zeros(2, np.float32)) in (0, 1, 2)
    resumed = checkpoint.load(troupe.resume(run.path, steps=600).path, pytest.fail).novelty
    for before, after in zip(kept, resumed, strict=True):
        assert after["observations"][0, 0] >= before["observations"][0, 0]
        for name, tensor in before["novelty"].items():  # the random network is what it was
            assert not name.startswith("target.") or np.array_equal(tensor, after["novelty"][name])
    assert sum(each["observations"][0, 0] for each in resumed) > 550


def test_returns_that_are_reported_know_nothing_of_bonuses(tmp_path):
    settings = SMALL | TOPOLOGIES["serial"] | {"novelty.coefficient": 100.0}
    run = troupe.train("MountainCar-v0", run_dir=tmp_path / "run", settings=settings, steps=500, tuned=False)
    assert (run.scores.returns == -run.scores.lengths).all()  # its reward is -1 whatever one does


def test_a_worker_of_hogwild_has_no_curiosity(assembled):
    settings = {"topology": "hogwild", "learner.epochs": 1, "learner.minibatches": 1, "actor.placement": "thread"}
    parts = assembled("CartPole-v1", settings)
    assert isinstance(parts.master, HogwildMaster)
    assert parts.snapshot().novelty == []
    parts.close()
