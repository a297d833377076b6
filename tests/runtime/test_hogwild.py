"""A3C as published: its worker against algorithm S3 written out, and several workers on one set of weights."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

import troupe
from troupe.networks.actor_critic import build
from troupe.runs.store import checkpoint
from troupe.runtime.execution.processes import ActorProcess

A3C = {
    "topology": "hogwild", "network.hidden": (8,), "actor.count": 1, "actor.environments": 1, "actor.rollout_steps": 5,
    "env.backend": "sync", "loss.kind": "a3c", "loss.lam": 1.0, "loss.gamma": 0.9, "loss.entropy_coefficient": 0.02,
    "loss.value_coefficient": 0.25, "loss.reward_scale": 0.1, "learner.rollouts": 1, "learner.epochs": 1,
    "learner.minibatches": 1, "learner.optimizer": "rmsprop", "learner.decay": 0.9, "learner.epsilon": 0.01,
    "learner.learning_rate": 0.05, "learner.anneal_steps": 200, "learner.gradient_norm": 0.5,
    "actor.placement": "thread",
}  # fmt: skip


class Double(torch.nn.Module):
    """An encoder whose features are doubles."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, obs):
        return self.encoder(obs).double()


class WrittenOut:
    """Algorithm S3 of Mnih et al. 2016 in double precision, on trajectories that are given.

    The thread's parameters are copies of the shared ones; R goes back from the last state, from 0 after a
    terminal one and from V(s) otherwise; gradients of log pi(a|s) (R - V(s)), of (R - V(s))^2 and of the
    entropy are summed up, and the mean of them (the paper's sum, over t_max) steps by equations S2 and S3.
    """

    def __init__(self, network, config):
        self.network, self.loss, self.learner = copy.deepcopy(network).double(), config.loss, config.learner
        self.network.body.encoder = Double(self.network.body.encoder)
        self.theta = list(self.network.parameters())
        self.g = [torch.full_like(each, self.learner.initial_accumulator) for each in self.theta]
        self.steps = 0

    def policy(self, state):
        logits, value = self.network.body(torch.tensor(np.asarray(state))[None])
        return logits[0].log_softmax(-1), value[0]

    def learn(self, states, actions, rewards, terminated, truncated, valid):
        beta, c = self.loss.entropy_coefficient, self.loss.value_coefficient
        ascent = [torch.zeros_like(each) for each in self.theta]
        following = self.policy(states[-1])[1].item()
        for t in reversed(range(len(actions))):
            if terminated[t]:
                following = 0.0
            elif truncated[t]:
                following = self.policy(states[t + 1])[1].item()
            if not valid[t]:
                continue
            following = self.loss.reward_scale * rewards[t] + self.loss.gamma * following
            log_pi, value = self.policy(states[t])
            entropy = -(log_pi.exp() * log_pi).sum()
            gain = log_pi[actions[t]] * (following - value.item()) - c * (following - value) ** 2 + beta * entropy
            for total, part in zip(ascent, torch.autograd.grad(gain, self.theta), strict=True):
                total += part / valid.sum()
        norm = torch.cat([each.reshape(-1) for each in ascent]).norm()
        shrink = min(1.0, self.learner.gradient_norm / float(norm))
        self.steps += int(valid.sum())
        eta = self.learner.learning_rate * max(0.0, 1 - self.steps / self.learner.anneal_steps)
        with torch.no_grad():
            for theta, g, d in zip(self.theta, self.g, ascent, strict=True):
                d = d * shrink
                g.copy_(self.learner.decay * g + (1 - self.learner.decay) * d * d)  # S2
                theta += eta * d / torch.sqrt(g + self.learner.epsilon)  # S3, uphill
        return shrink

    def vector(self, parts):
        return torch.cat([each.detach().reshape(-1) for each in parts]).numpy()


@pytest.mark.parametrize("env", ["counting", "echo", "CartPole-v1"])
@pytest.mark.parametrize("more", [{}, {"learner.gradient_norm": 40.0, "learner.initial_accumulator": 1.0}])
def test_one_worker_is_the_algorithm_written_out(request, assembled, watched, env, more):
    env = env if "-" in env else request.getfixturevalue(env)
    torch.manual_seed(5)
    parts = assembled(env, A3C | more, seed=5)
    (runner,) = parts.runners
    # The network that `assembled` built, with its first weights, in the hands of the oracle.
    network = copy.deepcopy(runner.actor._learner._network)
    oracle = WrittenOut(network, parts.config)
    (delivered,) = watched(parts).values()
    shrinks = []
    for update in range(1, 13):
        runner.collect(runner.queue.put)
        runner.queue.release(runner.queue.get(1))
        r = delivered[-1]
        # It acted with the weights of this moment, and says so.
        for t in range(5):
            expected = oracle.policy(r.obs[t, 0])[0][r.action[t, 0]].item()
            assert r.behaviour_log_prob[t, 0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert (r.policy_version == update - 1).all()
        shrinks.append(
            oracle.learn(
                r.obs[:, 0], r.action[:, 0], r.reward[:, 0], r.terminated[:, 0], r.truncated[:, 0], r.valid[:, 0]
            )
        )
        assert parts.master.version == update == parts.progress.counts.updates
        np.testing.assert_allclose(parts.master.vector.numpy(), oracle.vector(oracle.theta), rtol=1e-4, atol=1e-5)
        square = parts.master.optimizer.state()["square"].numpy()
        np.testing.assert_allclose(square, oracle.vector(oracle.g), rtol=1e-3, atol=1e-8)
    assert parts.progress.counts.steps == oracle.steps
    assert parts.progress.take_lag() == (0.0, 0)
    assert (min(shrinks) < 1) == (not more) or env == "counting"
    moved = oracle.vector(oracle.theta) - oracle.vector(network.parameters())
    assert np.abs(moved).max() > 0.01


def test_evaluations_see_the_weights_that_workers_change(assembled, counting):
    """The network that was given is a view of the shared weights, also where those are in shared memory."""
    for placement in ("thread", "process"):
        parts = assembled(counting, A3C | {"actor.placement": placement})
        source = counting()
        network = build(source.observation_space, source.action_space, parts.config.network)
        assert sum(each.numel() for each in network.parameters()) == len(parts.master.vector)
        before = parts.master.vector.clone()
        parts.master.apply(torch.ones_like(before), 0.1)
        assert not torch.equal(parts.master.vector, before)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_workers_change_one_set_of_weights_and_statistics(assembled, counting, run, placement):
    """Every worker's updates are in the version, and those reported are in it too."""
    settings = A3C | {"actor.placement": placement, "actor.count": 3, "threads": "free"}
    parts = assembled(counting, settings, version=70)
    before = parts.master.vector.clone()
    while not parts.master._updates[1:].all():
        parts = assembled(counting, settings, version=70) if parts.gate.stopped else parts
        run(parts, 60)
    counts = parts.progress.counts
    # Those whose report had not come when the run ended are in the version only: one in each worker's hands,
    # and one on its way.
    assert 60 <= counts.updates <= parts.master.version - 70 <= counts.updates + 2 * 3
    assert not torch.equal(parts.master.vector, before)
    assert (parts.master.optimizer.state()["square"] > 0).any()


def test_a_worker_learns_from_weights_that_others_change_meanwhile(assembled, watched, counting):
    """Two workers in turn: each plays with what both have made of the weights, and its lag is what the
    other did between its copy and its gradient: here nothing."""
    parts = assembled(counting, A3C | {"actor.count": 2})
    delivered = watched(parts)
    for _ in range(4):
        for runner in parts.runners:
            runner.collect(runner.queue.put)
            runner.queue.release(runner.queue.get(1))
    assert [int(each.policy_version[0, 0]) for each in delivered[0]] == [0, 2, 4, 6]
    assert [int(each.policy_version[0, 0]) for each in delivered[1]] == [1, 3, 5, 7]
    assert parts.master._updates.tolist() == [4, 4]
    assert parts.progress.counts.updates == 8


def test_lag_is_what_other_workers_did_since_the_copy(assembled, counting):
    """Five updates land while the one worker plays its rollout."""
    applied = []

    def meanwhile(episode, step):
        if not applied and episode == 0 and step == 2:
            for _ in range(5):
                parts.master.count(0)
                applied.append(1)

    parts = assembled(lambda: counting(before_step=meanwhile), A3C)
    (runner,) = parts.runners
    runner.collect(lambda rollout: None)
    assert parts.progress.take_lag() == (5.0, 5)
    assert parts.master.version == 6


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_gradient_that_is_not_finite_never_reaches_the_shared_weights(assembled, counting):
    parts = assembled(counting, A3C | {"loss.reward_scale": 3e38})
    before = parts.master.vector.clone()
    (runner,) = parts.runners
    for skipped in (1, 2, 3):
        runner.collect(lambda rollout: runner.queue.release([rollout]))
        assert parts.progress.counts.skipped_updates == skipped
    assert torch.equal(parts.master.vector, before)
    assert not parts.master.optimizer.state()["square"].any()
    assert parts.progress.counts.updates == 0


def test_a_worker_in_a_process_knows_how_many_updates_there_have_been(assembled, counting, run, monkeypatch):
    """The step size of a warm-up goes by that; each request says it."""
    sent: list[int] = []
    ask = ActorProcess.request

    def request(actor, rollout, counts):
        sent.append(counts.updates)
        ask(actor, rollout, counts)

    monkeypatch.setattr(ActorProcess, "request", request)
    settings = A3C | {
        "actor.placement": "process",
        "actor.count": 1,
        "threads": "free",
        "learner.warmup_updates": 10**9,
    }
    parts = assembled(counting, settings)
    before = parts.master.vector.clone()
    parts.progress.counts.updates = 10**9  # the warm-up is long over
    run(parts, 3)
    assert min(sent) >= 10**9
    assert (parts.master.vector - before).abs().max() > 1e-6


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_the_learning_rate_falls_by_the_steps_wherever_the_worker_is(tmp_path, counting, placement):
    """What an optimizer keeps is shared with the run and saved. A worker in a process is asked for its next rollout
    before the one in its hands is counted, so its steps may be those of a rollout less."""

    class Notes:
        def __init__(self, weights):
            self.rates, self.number = torch.zeros(200, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)

        def step(self, weights, gradient, learning_rate):
            self.rates[int(self.number)] = learning_rate
            self.number += 1

        def state(self):
            return {"rates": self.rates, "number": self.number}

    endless = partial(counting, script=[(10_000, "terminated")])
    settings = A3C | {
        "actor.placement": placement,
        "learner.anneal_steps": 100,
        "stop.steps": 60,
        "stop.target": "none",
    }
    settings |= {"evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "evaluation.max_steps": 1}
    settings.pop("learner.optimizer")
    run = troupe.train(endless, settings=settings, optimizer=Notes, run_dir=tmp_path / "run", tuned=False)
    kept = checkpoint.load(run.path, pytest.fail).optimizer
    rates = kept["rates"][: int(kept["number"])].numpy()
    assert len(rates) >= 12
    formula = 0.05 * (1 - 5 * np.arange(len(rates) + 2) / 100)
    for number, rate in enumerate(rates):
        exact = formula[[number + 1] if placement == "thread" else [number, number + 1]]
        assert np.abs(exact - rate).min() < 1e-12, (number, rate)


def test_every_worker_sums_up_its_own_rollouts_in_a_block_of_its_own(assembled, watched, counting):
    settings = {"actor.count": 2, "network.normalize": True, "loss.normalize_reward": True, "actor.environments": 2}
    parts = assembled(counting, A3C | settings)
    delivered = watched(parts)
    for turns in ((0, 1), (1,), (0, 1), (1,)):
        for number in turns:
            runner = parts.runners[number]
            runner.collect(runner.queue.put)
            runner.queue.release(runner.queue.get(1))
    assert {number: len(rollouts) for number, rollouts in delivered.items()} == {0: 2, 1: 4}
    for number, rollouts in delivered.items():
        rows = [np.column_stack((each.obs[:-1][each.valid], each.past_return[each.valid])) for each in rollouts]
        numbers = np.concatenate(rows).astype(np.float64)
        expected = np.stack([np.full(3, len(numbers)), numbers.mean(0), len(numbers) * numbers.var(0)])
        np.testing.assert_allclose(parts.master.statistics._moments[number].numpy(), expected, rtol=1e-6)
