"""Batched inference: the prediction queue, those who ask and those who answer."""

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import PATIENCE_SECONDS
from troupe.config import Environment, Network, UsageError
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor import Actor
from troupe.runtime.acting.inference import (
    _REPLY,
    _REQUEST,
    BatchedInference,
    PredictionQueue,
    Predictor,
    Request,
)
from troupe.runtime.data.rollout import RolloutSpec, allocate
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Progress

SPACE = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)


class BatchedSetup:
    """A prediction queue, a network with a published store, and one predictor that serves on request."""

    def __init__(self, actors: int = 3, environments: int = 2, space: Any = SPACE, actions: int = 3):
        torch.manual_seed(0)
        self.network = build(space, gym.spaces.Discrete(actions), Network(hidden=(8,)))
        self.weights = FlatWeights(self.network)
        self.store, self.gate = WeightStore(self.weights.vector), Gate()
        self.queue = PredictionQueue(RolloutSpec(space, 1, environments), actors, shared=True)
        copy = build(space, gym.spaces.Discrete(actions), Network(hidden=(8,)))
        self.predictor = Predictor(
            self.queue, copy, self.store, torch.Generator().manual_seed(0), self.gate, actors
        )  # fmt: skip

    def inference(self, actor: int) -> BatchedInference:
        return BatchedInference(self.queue.client(actor), self.gate)

    def ask(self, actor: int, ticket: int, obs: float = 0.0) -> None:
        """What an actor does before it waits."""
        client = self.queue.client(actor)
        client.arrays["obs"][actor] = obs
        os.write(client.requests.fileno(), _REQUEST.pack(actor, ticket))

    def answered(self, actor: int) -> list[int]:
        """The tickets that are answered and not fetched."""
        replies, tickets = self.queue.client(actor).replies, []
        while replies.poll():
            tickets += _REPLY.unpack(os.read(replies.fileno(), _REPLY.size))
        return tickets

    @contextmanager
    def serving(self):
        def serve() -> None:
            with suppress(Closed):
                while True:
                    self.predictor.predict()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            self.gate.stop()
            self.queue.close()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def log_pi(self, obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits, _ = self.network.body(torch.from_numpy(obs).reshape(-1, *obs.shape[2:]))
        return logits.log_softmax(-1).numpy().reshape(*obs.shape[:2], -1)


# The queue


def test_a_batch_is_what_is_there_oldest_first_and_no_more_than_asked_for():
    setup = BatchedSetup(actors=5)
    for actor in (3, 0, 4, 1):
        setup.ask(actor, 10 + actor)
    assert setup.queue.get(3) == [(3, 13), (0, 10), (4, 14)]
    setup.ask(2, 12)
    assert setup.queue.get(5) == [(1, 11), (2, 12)]


def test_who_finds_nothing_waits_for_the_first():
    setup, got = BatchedSetup(), []
    thread = threading.Thread(target=lambda: got.append(setup.queue.get(3)))
    thread.start()
    thread.join(0.05)
    assert not got
    setup.ask(1, 7)
    thread.join(PATIENCE_SECONDS)
    assert got == [[(1, 7)]]


def test_all_that_ask_are_served_in_one_pass_and_each_gets_its_own():
    setup = BatchedSetup(actors=4)
    for actor in (2, 0, 3):
        setup.ask(actor, 100 + actor, obs=actor)
    setup.predictor.predict()
    assert (setup.predictor.batches, setup.predictor.served) == (1, 3)
    assert [setup.answered(actor) for actor in range(4)] == [[100], [], [102], [103]]
    arrays = setup.queue.arrays
    expected = setup.log_pi(arrays["obs"])
    for actor in (0, 2, 3):
        chosen = np.take_along_axis(expected[actor], arrays["action"][actor][:, None], -1)[:, 0]
        np.testing.assert_allclose(arrays["log_prob"][actor], chosen, rtol=1e-5)
    assert not arrays["log_prob"][1].any()  # who did not ask is given nothing


def test_closing_wakes_all_that_wait_and_later_calls_do_not_wait():
    setup = BatchedSetup()
    ended: list[str] = []

    def until_closed(name: str, wait: Callable[[], object]) -> None:
        try:
            wait()
        except Closed:
            ended.append(name)

    waits = {f"predictor {number}": lambda: setup.queue.get(3) for number in range(3)}
    inferences = [setup.inference(actor) for actor in range(2)]
    waits |= {
        f"actor {number}": lambda each=each: each.act(np.zeros((2, 2), np.float32), 0.0)
        for number, each in enumerate(inferences)
    }
    setup.queue._lock.acquire()  # so that no predictor takes what the actors ask for
    threads = [threading.Thread(target=until_closed, args=each, daemon=True) for each in waits.items()]
    for thread in threads:
        thread.start()
    setup.gate.stop()
    setup.queue.close()
    setup.queue._lock.release()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert {name for name in ended if name.startswith("actor")} == {"actor 0", "actor 1"}
    assert len([name for name in ended if name.startswith("predictor")]) >= 2  # one may have got the requests
    for _ in range(3):
        with pytest.raises(Closed):
            setup.queue.get(3)


def test_an_actor_whose_predictors_are_gone_ends():
    """The pipe's other end is closed when the process that had it dies."""
    setup = BatchedSetup()
    setup.queue._replies[0][1].close()
    with pytest.raises(Closed):
        setup.inference(0).act(np.zeros((2, 2), np.float32), 0.0)


def test_a_killed_actor_leaves_the_queue_in_order(elsewhere):
    """It is killed while it waits; its request is served, and the one that comes after it gets its own answer."""

    def wait(client, gate):
        from troupe.runtime.acting.inference import BatchedInference
        from troupe.runtime.execution.gate import RemoteGate

        BatchedInference(client, RemoteGate(gate)).act(np.ones((2, 2), np.float32), 0.0)

    setup = BatchedSetup()
    call = elsewhere(wait, setup.queue.client(1), setup.gate.switches)
    requests = setup.queue.get(3)  # so it has asked
    assert [request.actor for request in requests] == [1]
    call.kill()
    setup.queue.answer(requests)  # nobody fetches this
    with setup.serving():
        for obs in (5.0, -5.0):
            obs = np.full((2, 2), obs, np.float32)
            for actor in (1, 0):
                decision = setup.inference(actor).act(obs, 0.0)
                expected = np.take_along_axis(setup.log_pi(obs[None])[0], decision.action[:, None], -1)[:, 0]
                np.testing.assert_allclose(decision.log_prob, expected, rtol=1e-5)


def test_answers_to_a_predecessor_are_not_taken_for_ones_own():
    setup = BatchedSetup()
    setup.queue.answer([Request(0, ticket) for ticket in range(50)])
    setup.queue.arrays["action"][0] = 99
    with setup.serving():
        decision = setup.inference(0).act(np.zeros((2, 2), np.float32), 0.0)
        assert (decision.action < 3).all()
    assert setup.answered(0) == []


def test_two_lives_of_one_actor_do_not_begin_with_the_same_ticket():
    """Else the answer to the first one's request would be taken for one to the second's."""
    setup = BatchedSetup()
    assert len({setup.inference(0)._ticket for _ in range(20)}) > 15


def test_a_ticket_that_has_reached_its_largest_number_starts_at_zero():
    setup = BatchedSetup()
    inference = setup.inference(0)
    with setup.serving():
        for ticket in (2**32 - 1, 2**32 - 2):
            inference._ticket = ticket
            inference.act(np.zeros((2, 2), np.float32), 0.0)
            assert inference._ticket == (ticket + 1) % 2**32


def test_where_there_are_no_such_pipes_batched_inference_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("troupe.runtime.acting.inference.os", SimpleNamespace(name="nt"))
    with pytest.raises(UsageError, match=r"^inference\.kind = 'batched': .*Linux or macOS; use local$"):
        BatchedSetup()


# What it plays


@pytest.mark.parametrize("epsilon", [0.0, 0.25])
def test_what_is_recorded_is_log_mu_of_the_version_recorded(counting, matches_script, script, epsilon):
    """New weights are published at every third step, in the middle of rollouts: each row says which acted."""
    source = find(counting)
    setup = BatchedSetup(1, 2, source.observation_space)
    vectors = [setup.weights.vector.clone()]

    def publish(episode: int, step: int) -> None:
        if step % 3 == 0:
            vectors.append(vectors[0] * (1 + 0.5 * len(vectors)))
            setup.store.publish(vectors[-1])

    vector = find(lambda: counting(before_step=publish)).make_vector(2, Environment(backend="sync"))
    with setup.serving():
        actor = Actor(
            [vector], setup.inference(0), lambda played: epsilon, Progress(), np.random.SeedSequence(1), np.zeros(1)
        )
        rollouts = []
        for _ in range(4):
            rollout = allocate(RolloutSpec(source.observation_space, 9, 2))
            actor.collect(rollout)
            rollouts.append(rollout)
    matches_script(rollouts, script)
    for rollout in rollouts:
        for t in range(9):
            version = rollout.policy_version[t]
            assert version[0] == version[1]
            setup.weights.vector.copy_(vectors[version[0]])
            pi = np.exp(setup.log_pi(rollout.obs[t][None])[0])
            mu = (1 - epsilon) * pi + epsilon / 3
            expected = np.log(np.take_along_axis(mu, rollout.action[t][:, None], -1)[:, 0])
            np.testing.assert_allclose(rollout.behaviour_log_prob[t], expected, rtol=1e-4, atol=1e-6)
    versions = np.concatenate([rollout.policy_version[:, 0] for rollout in rollouts])
    assert (np.diff(versions) >= 0).all()
    assert len(np.unique(versions)) > 10


def test_observations_may_be_numbers(echo):
    """A Discrete space has no shape: cells hold [actors, environments]."""
    source = find(echo)
    setup = BatchedSetup(2, 3, source.observation_space, 4)
    with setup.serving():
        for actor, obs in ((1, [3, 0, 2]), (0, [1, 1, 0])):
            obs = np.array(obs, np.int64)
            decision = setup.inference(actor).act(obs, 0.0)
            expected = np.take_along_axis(setup.log_pi(obs[None])[0], decision.action[:, None], -1)[:, 0]
            np.testing.assert_allclose(decision.log_prob, expected, rtol=1e-5)


def test_actions_are_drawn_from_the_policy(counting):
    """2,000 draws in the same state: the frequencies are those of the network's own softmax."""
    setup = BatchedSetup(1, 2000)
    obs = np.ones((2000, 2), np.float32)
    setup.weights.vector.mul_(3)
    setup.store.publish(setup.weights.vector)
    with setup.serving():
        decision = setup.inference(0).act(obs, 0.0)
    drawn = np.bincount(decision.action, minlength=3) / 2000
    assert decision.version == 1
    np.testing.assert_allclose(drawn, np.exp(setup.log_pi(obs[None])[0, 0]), atol=0.04)  # 3.6 deviations


def test_every_actor_explores_by_its_own_epsilon():
    """The policy is nearly certain; an actor with epsilon 1 plays anything, one with 0 does not."""
    setup = BatchedSetup(2, 300)
    setup.weights.vector.zero_()
    setup.network.body.policy.bias.data.copy_(torch.tensor([50.0, 0.0, 0.0]))
    setup.store.publish(setup.weights.vector)
    obs = np.zeros((300, 2), np.float32)
    greedy, random = setup.inference(0), setup.inference(1)
    decisions = {}
    setup.queue._lock.acquire()  # until both have asked: one batch
    threads = [
        threading.Thread(target=lambda name=name, each=each, e=e: decisions.update({name: each.act(obs, e)}))
        for name, each, e in (("greedy", greedy, 0.0), ("random", random, 1.0))
    ]
    for thread in threads:
        thread.start()
    threads[1].join(0.2)
    setup.queue._lock.release()
    with setup.serving():
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert (decisions["greedy"].action == 0).all()
    np.testing.assert_allclose(decisions["greedy"].log_prob, 0.0, atol=1e-6)
    assert np.bincount(decisions["random"].action).min() > 50
    np.testing.assert_allclose(decisions["random"].log_prob, np.log(1 / 3), rtol=1e-5)
