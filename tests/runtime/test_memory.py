"""Memory in motion: in every topology what a rollout begins with is what its environments' whole past makes of nothing.

Weights stand still here (the step size vanishes), so that the state of every environment at every row can be worked
out from the stream of all rollouts: were any of it lost, mixed up or not forgotten, the two would differ.
"""

import copy
import os
import threading
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import slow_unless_in_turn
from helpers.rollouts import check
from troupe.algorithm.losses import Outputs
from troupe.config import Loss, Network
from troupe.environments.actions import Actions
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.acting.actor import StateTracker
from troupe.runtime.acting.inference import _REQUEST, BatchedInference, PredictionQueue, Predictor
from troupe.runtime.data.rollout import RolloutSpec, allocate, columns, stack
from troupe.runtime.execution.gate import Gate
from troupe.runtime.learning.loss_and_optimizer import build_loss
from troupe.runtime.learning.weights import WeightStore

FIVE = {
    "actor.environments": 5, "actor.rollout_steps": 6, "network.hidden": (4,), "network.core_units": 6,
    "network.core_inputs": True, "learner.learning_rate": 1e-30, "exploration.epsilon": 0.5,
    "learner.rollouts": 2,
}  # fmt: skip
ONE_PASS = {"learner.epochs": 1, "learner.minibatches": 1, "learner.rollouts": 1}
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "serial": {"topology": "serial", "actor.count": 1},
    "async, threads": {"actor.count": 2, "actor.placement": "thread"},
    "async, threads, parts": {"actor.count": 2, "actor.placement": "thread", "actor.parts": 2, "learner.threads": 2},
    "async, processes": {"actor.count": 2, "actor.placement": "process"},
    "queue": {"topology": "queue", "actor.count": 3, "learner.count": 2, "actor.placement": "thread"},
    "queue, predictors": {
        "topology": "queue", "actor.count": 3, "actor.placement": "thread", "inference.kind": "batched",
    },
    "ga3c, processes": {
        "topology": "ga3c", "actor.count": 3, "actor.placement": "process", "inference.kind": "batched",
        "inference.predictors": 2, "learner.count": 2,
    },
    "hogwild, threads": {"topology": "hogwild", "actor.count": 2, "actor.placement": "thread"} | ONE_PASS,
    "hogwild, processes": {"topology": "hogwild", "actor.count": 2, "actor.placement": "process"} | ONE_PASS,
}  # fmt: skip


@pytest.fixture
def small(counting):
    """Counting whose numbers do not saturate a memory: each is another one all the same."""

    class Small(counting):
        def _observation(self):
            return super()._observation() / 10

        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, reward / 10, *rest

    return Small


def stepped(network: Any, rollouts: list[Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What the network makes of consecutive rollouts, row by row from an empty memory: for each rollout the states
    before it, and the values and log mu of its rows."""
    made = []
    state = torch.zeros(rollouts[0].obs.shape[1], network.state_size)
    action, reward = np.zeros_like(rollouts[0].action[0]), np.zeros_like(rollouts[0].reward[0])
    for rollout in rollouts:
        before, values, log_probs = state, [], []
        for t in range(len(rollout.obs)):
            inputs = (torch.from_numpy(each) for each in (rollout.first[t], action, reward.astype(np.float32)))
            with torch.no_grad():
                output = network(torch.from_numpy(rollout.obs[t]), RecurrentState(state, *inputs))
            values.append(output.value.numpy())
            if t < len(rollout.action):  # the last observation is the next rollout's first
                action, reward, state = rollout.action[t], rollout.reward[t], output.next_state
                log_probs.append(output.distribution.with_epsilon(0.5).log_prob(torch.from_numpy(action)).numpy())
        made.append((before.numpy(), np.stack(values), np.stack(log_probs)))
    return made


@pytest.mark.parametrize(("name", "core"), slow_unless_in_turn(TOPOLOGIES, ["lstm", "gru"], 1))
def test_every_rollout_begins_with_the_state_after_its_environments_whole_past(
    assembled, run, watched, small, name, core
):
    parts = assembled(small, FIVE | TOPOLOGIES[name] | {"network.core": core})
    torch.manual_seed(1)
    network = build(small.observation_space, gym.spaces.Discrete(3), parts.config.network)  # as it was assembled
    delivered = watched(parts)
    run(parts, 8)
    torch.testing.assert_close(parts.master.vector, FlatWeights(network).vector, rtol=0, atol=1e-20)
    assert max(map(len, delivered.values())) > 2
    for rollouts in filter(None, delivered.values()):
        for before, after in pairwise(rollouts):
            assert (before.obs[-1] == after.obs[0]).all()
            assert after.initial_state.any(1).all()
        for rollout, (state, value, log_prob) in zip(rollouts, stepped(network, rollouts), strict=True):
            np.testing.assert_allclose(rollout.initial_state, state, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(rollout.behaviour_log_prob, log_prob, rtol=1e-4, atol=1e-5)
            with torch.no_grad():  # what a learner reads, the value of the last observation included
                unrolled = network(torch.from_numpy(rollout.obs), rollout.recurrent_state()).value
            np.testing.assert_allclose(unrolled, value, rtol=1e-4, atol=1e-5)


def remembering(core: str = "lstm", **more: Any) -> Any:
    torch.manual_seed(3)
    space = gym.spaces.Box(-1.0, 1e6, (2,), np.float32)
    config = Network(hidden=(8,), core=core, core_units=6, core_inputs=True, **more)
    network = build(space, gym.spaces.Discrete(3), config)
    network.body.policy.weight.data.normal_()
    return network


def played(network: Any, steps: int = 12, environments: int = 5) -> Any:
    """A rollout of random numbers in which episodes begin here and there."""
    rng = np.random.default_rng(0)
    rollout = allocate(RolloutSpec(network.packing.space, steps, environments, state_size=network.state_size))
    rollout.obs[:], rollout.action[:] = rng.normal(size=rollout.obs.shape), rng.integers(3, size=(steps, environments))
    rollout.reward[:], rollout.behaviour_log_prob[:] = rng.normal(size=rollout.reward.shape), np.log(1 / 3)
    rollout.terminated[:-1] = rng.random((steps - 1, environments)) < 0.2
    rollout.terminated[1:] &= ~rollout.terminated[:-1]
    rollout.valid[1:] = ~rollout.terminated[:-1]
    rollout.reward[~rollout.valid] = 0.0
    rollout.terminated &= rollout.valid
    rollout.first[1:] = ~rollout.valid
    rollout.initial_state[:] = rng.normal(size=rollout.initial_state.shape)
    rollout.initial_action[:], rollout.initial_reward[:] = (
        rng.integers(3, size=environments),
        rng.normal(size=environments),
    )
    check(rollout)
    return rollout


@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("kind", ["a3c", "impala", "appo"])
def test_environments_divided_among_threads_keep_their_recurrent_states(learner_setup, core, kind):
    network, loss = remembering(core), build_loss(Loss(kind=kind))
    rollout, gradients = played(network), []
    for threads in (1, 2, 3, 8):
        made = learner_setup(loss, network=copy.deepcopy(network), threads=threads)
        gradients.append(made.learner.compute_gradient(rollout))
        made.learner.close()
    assert gradients[0].abs().max() > 1e-3
    for shared_out in gradients[1:]:
        torch.testing.assert_close(shared_out, gradients[0], rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_batch_is_that_of_its_environments_each_with_its_own_state(learner_setup):
    """Of a sum over all rows: whichever environments stand together, in whatever order, and cut out again."""
    network = remembering()
    rollout = played(network)

    def gradient(given: Any) -> torch.Tensor:
        def total(outputs: Outputs, batch: Any) -> Any:
            return outputs.value.sum() + outputs.distribution.log_prob(batch.action).sum(), {}

        return learner_setup(total, network=copy.deepcopy(network)).learner.compute_gradient(given)

    apart = [columns(rollout, np.array([b])) for b in range(5)]
    expected = torch.stack([gradient(each) for each in apart]).sum(0)
    torch.testing.assert_close(gradient(rollout), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(stack([apart[b] for b in (3, 0, 4, 1, 2)])), expected, rtol=1e-4, atol=1e-4)
    other = copy.deepcopy(rollout)
    other.initial_state[:] = rollout.initial_state[::-1]
    assert not torch.allclose(gradient(other), expected, rtol=1e-2)


def test_a_rollout_cut_in_two_is_the_same_if_the_second_begins_with_the_state_that_the_first_ends_with():
    network = remembering()
    whole = played(network)
    first, second = (
        allocate(RolloutSpec(network.packing.space, 6, 5, state_size=network.state_size)) for _ in range(2)
    )
    for part, begin in ((first, 0), (second, 6)):
        for name in ("obs", "first"):
            getattr(part, name)[:] = getattr(whole, name)[begin : begin + 7]
        part.action[:], part.reward[:] = whole.action[begin : begin + 6], whole.reward[begin : begin + 6]
    for name in ("initial_state", "initial_action", "initial_reward"):
        getattr(first, name)[:] = getattr(whole, name)
    tracker = StateTracker(5, network.state_size, Actions(gym.spaces.Discrete(3)))
    tracker.update(first.initial_state, slice(None))
    with torch.no_grad():
        for t in range(6):
            output = network(torch.from_numpy(first.obs[t]), tracker.before(first, t, slice(None)))
            tracker.update(output.next_state.numpy(), slice(None))
        tracker.end(first)
        tracker.begin(second)
        values = [network(torch.from_numpy(each.obs), each.recurrent_state()).value for each in (whole, first, second)]
    torch.testing.assert_close(torch.cat([values[1][:-1], values[2]]), values[0], rtol=1e-4, atol=1e-5)


def test_a_predictor_advances_each_actors_state_once_however_often_it_answers():
    """A successor of a killed actor finds its predecessor's request still there: both are answered from one state."""
    network = remembering()
    store, gate = WeightStore(FlatWeights(network).vector), Gate()
    queue = PredictionQueue(RolloutSpec(network.packing.space, 1, 5, state_size=network.state_size), 2, shared=True)
    predictor = Predictor(queue, copy.deepcopy(network), store, torch.Generator(), gate, 2)
    rollout = played(network)
    states = rollout.recurrent_state()
    row = RecurrentState(states.state, *(each[3] for each in states[1:]))
    actor = BatchedInference(queue.client(1), gate)
    for ticket in (8, 9):
        os.write(actor._client.requests.fileno(), _REQUEST.pack(1, ticket))
    answers = []
    asked = threading.Thread(target=lambda: answers.append(actor.act(rollout.obs[3], 0.0, row)))
    asked.start()
    while asked.is_alive():
        predictor._most = 1
        predictor.predict()
        asked.join(0.05)
    with torch.no_grad():
        expected = network(torch.from_numpy(rollout.obs[3]), row).next_state
    np.testing.assert_allclose(answers[0].next_state, expected, rtol=1e-5, atol=1e-6)
    assert not queue.arrays["next_state"][0].any()
    assert predictor.served == 3
