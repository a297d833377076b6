"""Where actions come from: the version, the time and the stream of each, with a network or without."""

import threading

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import PATIENCE_SECONDS
from troupe.config import Network
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting import inference as inference_module
from troupe.runtime.acting.inference import (
    BatchedInference,
    LocalInference,
    PredictionQueue,
    Predictor,
    Request,
    generator,
)
from troupe.runtime.data.rollout import RolloutSpec
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.learning.weights import WeightStore

SPACE = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)
OBS = np.ones((3, 2), np.float32)


def network():
    torch.manual_seed(0)
    made = build(SPACE, gym.spaces.Discrete(3), Network(hidden=(4,)))
    made.body.policy.bias.data.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return made


def local(seed: int = 1):
    store = WeightStore(FlatWeights(network()).vector, 5)
    return LocalInference(FlatWeights(network()), store, generator(np.random.SeedSequence(seed)), Gate()), store


def test_an_actors_own_weights_change_between_rollouts_only():
    made, store = local()
    assert made.refresh() == 5
    store.publish(torch.zeros(store.size))
    first = made.act(OBS, 0.0)
    assert first.version == 5
    assert not np.allclose(first.log_prob, np.log(1 / 3))
    assert made.refresh() == 6
    second = made.act(OBS, 0.0)
    assert second.version == 6
    np.testing.assert_allclose(second.log_prob, np.log(1 / 3), rtol=1e-5)
    assert second.next_state is None
    assert second.action.shape == second.log_prob.shape == (3,)


def test_the_stream_of_actions_is_that_of_its_seed_and_goes_on_where_it_was():
    obs = np.zeros((200, 2), np.float32)
    made, again, other = local(1)[0], local(1)[0], local(2)[0]
    for each in (made, again, other):
        each.refresh()
    first = made.act(obs, 1.0).action
    assert (first == again.act(obs, 1.0).action).all()
    assert (first != other.act(obs, 1.0).action).any()
    other.restore(made.state())
    assert (made.act(obs, 1.0).action == other.act(obs, 1.0).action).all()


def test_acting_needs_no_gradients_and_a_turn():
    made, _ = local()
    made.refresh()
    turns = []
    turn = made._gate.turn
    made._gate.turn = lambda watch: turns.append(watch) or turn(watch)
    forward = made._network.forward

    def look(*given):
        assert torch.is_inference_mode_enabled()
        return forward(*given)

    made._network.forward = look
    made.act(OBS, 0.0)
    assert turns == [made.watch]
    made._gate.stop()
    with pytest.raises(Closed):
        made.act(OBS, 0.0)


class Asked:
    """A prediction queue with three environments for each of four actors, and a predictor of it."""

    def __init__(self, most: int = 4):
        self.gate = Gate()
        self.store = WeightStore(FlatWeights(network()).vector, 5)
        self.queue = PredictionQueue(RolloutSpec(SPACE, 1, 3), 4, shared=False)
        self.predictor = Predictor(self.queue, network(), self.store, torch.Generator(), self.gate, most)

    def inference(self, actor: int) -> BatchedInference:
        return BatchedInference(self.queue.client(actor), self.gate)


@pytest.mark.usefixtures("never_preempted")
def test_the_time_in_which_predictors_act_is_a_wait_of_the_actors():
    asked, stages = Asked(), []
    actor = asked.inference(2)
    actor.watch.start("act")
    start = actor.watch.start
    actor.watch.start = lambda stage: stages.append(stage) or start(stage)
    predicted = threading.Thread(target=asked.predictor.predict, daemon=True)
    predicted.start()
    output = actor.act(OBS, 0.0)
    predicted.join(PATIENCE_SECONDS)
    assert stages == ["wait", "act"]
    assert (output.version, output.next_state) == (5, None)
    assert actor.refresh() == -1
    assert asked.predictor.watch.stage == "wait"
    assert set(asked.predictor.watch.seconds) == {"wait", "pause", "turn", "predict"}


def test_predictors_have_the_newest_weights_at_every_batch():
    asked = Asked()
    for version in (6, 7):
        asked.store.publish(torch.full((asked.store.size,), float(version)))
        predicted = threading.Thread(target=asked.predictor.predict, daemon=True)
        predicted.start()
        assert asked.inference(0).act(OBS, 0.0).version == version
        predicted.join(PATIENCE_SECONDS)
    assert (asked.predictor.served, asked.predictor.batches) == (2, 2)
    assert torch.equal(asked.predictor._flat.vector, torch.full((asked.store.size,), 7.0))


def test_a_predictor_serves_no_more_at_a_time_than_it_may():
    asked = Asked(most=2)
    for actor in range(3):
        client = asked.queue.client(actor)
        inference_module.os.write(client.requests.fileno(), inference_module._REQUEST.pack(actor, 7))
    asked.predictor.predict()
    assert (asked.predictor.served, asked.predictor.batches) == (2, 1)
    assert asked.queue.get(4) == [Request(2, 7)]


def test_an_actor_that_waits_hears_of_the_end_of_the_run(monkeypatch):
    monkeypatch.setattr(inference_module, "_POLL_SECONDS", 0.001)
    asked = Asked()
    actor = asked.inference(0)
    asked.gate.stop()
    with pytest.raises(Closed):
        actor.act(OBS, 0.0)


def test_epsilon_and_observations_are_those_of_the_actor_that_asks():
    asked, seen = Asked(), {}
    actor = asked.inference(1)

    def answer():
        requests = asked.queue.get(4)
        seen["requests"] = [request.actor for request in requests]
        seen["obs"], seen["epsilon"] = asked.queue.arrays["obs"].copy(), asked.queue.arrays["epsilon"].copy()
        asked.queue.arrays["action"][1], asked.queue.arrays["log_prob"][1] = [2, 0, 1], [-1.0, -2.0, -3.0]
        asked.queue.arrays["version"][1] = 9
        asked.queue.answer(requests)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    output = actor.act(OBS * 4.0, 0.25)
    thread.join(PATIENCE_SECONDS)
    assert seen["requests"] == [1]
    assert (seen["obs"][1] == 4.0).all()
    assert not seen["obs"][[0, 2, 3]].any()
    assert seen["epsilon"].tolist() == [0.0, 0.25, 0.0, 0.0]
    assert (output.action.tolist(), output.log_prob.tolist(), output.version) == ([2, 0, 1], [-1.0, -2.0, -3.0], 9)


def test_a_generator_has_the_seed_of_its_sequence():
    one, again = (generator(np.random.SeedSequence(3)) for _ in range(2))
    assert one.initial_seed() == again.initial_seed() == int(np.random.SeedSequence(3).generate_state(1, np.uint64)[0])
    assert one.device == torch.device("cpu")
