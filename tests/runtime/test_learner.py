"""The learner: what a loss is given, and what may and may not reach the weights."""

import copy
import math
import threading
import time
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

from troupe.algorithm import losses
from troupe.algorithm.schedules import linear_decay
from troupe.config import Loss, Network, TroupeError
from troupe.networks.actor_critic import build
from troupe.runtime.data.rollout import RolloutSpec, allocate, columns, stack
from troupe.runtime.execution.gate import Closed
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.learner import Objective, Rewards, to_batch
from troupe.runtime.learning.loss_and_optimizer import build_loss
from troupe.runtime.metric_means import means_of

CPU = torch.device("cpu")


def mean_value(outputs, batch):
    """The gradient is 1 for v and 0 for w, where observations are 1."""
    return outputs.value[:-1].mean(), {}


def half_square(outputs, batch):
    """The gradient is v itself."""
    return 0.5 * outputs.value[:-1].square().mean(), {}


# What a loss is given


def test_the_discount_is_gamma_to_the_horizon_and_nothing_after_a_termination(blank):
    rollout = blank(1, 4, horizon=[[1, 8, 3, 1]], terminated=[[False, False, True, False]])
    rollout.truncated[0, 3] = True
    batch = to_batch(rollout, Rewards(0.9, 1.0), CPU)
    torch.testing.assert_close(batch.discount, torch.tensor([[0.9, 0.9**8, 0.0, 0.9]]))


def test_the_trace_ends_at_both_boundaries(blank):
    rollout = blank(1, 3, terminated=[[True, False, False]], truncated=[[False, True, False]])
    assert to_batch(rollout, Rewards(0.9, 1.0), CPU).trace.tolist() == [[0.0, 0.0, 1.0]]


def test_reward_scale_is_for_learning_only(learner_setup, blank):
    seen = []
    rollout = blank(2, 2, reward=30.0)
    made = learner_setup(
        lambda outputs, batch: seen.append(batch.reward) or mean_value(outputs, batch), rewards=Rewards(0.9, 0.1)
    )
    made.learner.learn(rollout)
    torch.testing.assert_close(seen[0], torch.full((2, 2), 3.0))
    assert (rollout.reward == 30.0).all()


def test_reported_returns_are_raw_whatever_the_scale(stage, counting):
    """Episodes are counted from what the actor recorded, which no learner's setting can reach."""
    staged = stage(counting, environments=1, epsilon=lambda played: 1.0)
    rollout = staged.collect(4)
    to_batch(rollout, Rewards(0.9, 0.001), CPU)
    assert staged.progress.take_episodes()[0].total == rollout.reward[:3].sum() >= 30.0


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        (Rewards(0.9), [-3.0, -0.25, 0.0, 0.25, 1.0, 4.0]),
        (Rewards(0.9, scale=2.0), [-6.0, -0.5, 0.0, 0.5, 2.0, 8.0]),
        (Rewards(0.9, clip=1.0), [-1.0, -0.25, 0.0, 0.25, 1.0, 1.0]),
        (Rewards(0.9, scale=2.0, clip=1.0), [-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]),  # clipped after scaling
        (Rewards(0.9, scale=0.5, clip=1.5), [-1.5, -0.125, 0.0, 0.125, 0.5, 1.5]),
    ],
)
def test_scaled_and_clipped_rewards_match_a_worked_example_and_the_raw_ones_stay(blank, rewards, expected):
    raw = np.array([-3.0, -0.25, 0.0, 0.25, 1.0, 4.0], np.float32)[:, None]
    rollout = blank(6, reward=raw)
    batch = to_batch(rollout, rewards, CPU)
    assert batch.reward.dtype == torch.float32
    assert batch.reward[:, 0].tolist() == expected
    assert (rollout.reward == raw).all()


def test_the_settings_of_the_loss_become_rewards():
    scaled, plain = Loss(gamma=0.7, reward_scale=0.5, reward_clip=3.0), Loss(gamma=0.7, normalize_reward=False)
    assert Objective.of(scaled).rewards == Rewards(0.7, 0.5, 3.0, normalize=True)
    assert Objective.of(plain).rewards == Rewards(0.7, 1.0, 0.0)


def test_a_lost_life_is_a_termination_for_learning(blank):
    """Six steps: a life is lost with the second, the game is cut off with the fourth, its reset row, a new one."""
    rollout = blank(6, 1)
    rollout.life_lost[1] = rollout.truncated[3] = rollout.first[5] = True
    rollout.valid[4] = False
    batch = to_batch(rollout, Rewards(0.5), CPU)
    assert batch.discount[:, 0].tolist() == [0.5, 0.0, 0.5, 0.5, 0.5, 0.5]
    assert batch.trace[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert batch.valid[:, 0].tolist() == [True, True, True, True, False, True]
    assert np.flatnonzero(rollout.life_lost).tolist() == [1]
    assert not rollout.terminated.any()


@pytest.mark.parametrize("kind", ["a3c", "impala", "appo"])
@pytest.mark.parametrize("lost", [(), (1,), (2, 4), (0, 1, 2)], ids=str)
def test_lost_lives_equal_a_batch_cut_by_hand(learner_setup, blank, kind, lost):
    """Losses are means over rows: the gradient of six rows is that of the pieces, each by its share of rows.

    All pieces but the last are terminated at their ends; V of what comes after enters nowhere.
    """
    loss = build_loss(Loss(kind=kind, lam=0.8, entropy_coefficient=0.1, normalize_advantage=False, clip=10.0))
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(7, 1, 1)), rng.integers(2, size=(6, 1))
    behaviour, reward = np.log(rng.uniform(0.3, 0.7, (6, 1))), rng.normal(size=(6, 1))

    def gradient(rollout):
        made = learner_setup(loss)
        made.learner.weights.vector.copy_(torch.tensor([0.7, -0.4]))
        return made.learner.compute_gradient(rollout)

    whole = blank(6, obs=obs, action=action, behaviour_log_prob=behaviour, reward=reward)
    whole.life_lost[list(lost)] = True
    pieces = torch.zeros(2)
    for begin, end in pairwise((0, *(t + 1 for t in lost), 6)):
        rows = slice(begin, end)
        piece = blank(
            end - begin, obs=obs[begin : end + 1], action=action[rows],
            behaviour_log_prob=behaviour[rows], reward=reward[rows],
        )  # fmt: skip
        piece.terminated[-1] = end < 6
        pieces += (end - begin) / 6 * gradient(piece)
    assert pieces.abs().min() > 1e-3
    torch.testing.assert_close(gradient(whole), pieces, rtol=1e-5, atol=1e-7)


def test_a_loss_sees_the_policy_of_t_rows_and_the_value_of_one_more(learner_setup, blank):
    shapes = []

    def loss(outputs, batch):
        shapes.append((outputs.distribution.log_probs.shape, outputs.value.shape, batch.action.shape))
        return mean_value(outputs, batch)

    learner_setup(loss).learner.learn(blank(5, 3))
    assert shapes == [((5, 3, 2), (6, 3), (5, 3))]


def test_minibatches_divide_whole_environments_in_another_order_in_every_epoch(learner_setup, blank):
    rollout = blank(3, 8, reward=np.arange(8) + 100 * np.arange(3)[:, None])
    parts = []
    made = learner_setup(
        lambda outputs, batch: parts.append(batch.reward) or mean_value(outputs, batch), epochs=2, minibatches=3
    )
    made.learner.learn(rollout)
    orders = []
    for epoch in (parts[:3], parts[3:]):
        assert [part.shape[1] for part in epoch] == [3, 3, 2]
        joined = torch.cat(epoch, 1)
        orders.append(joined[0].tolist())
        assert (joined == joined[0] + 100 * torch.arange(3)[:, None]).all()
        assert sorted(orders[-1]) == list(range(8))
    assert orders[0] != orders[1]
    assert made.progress.counts.updates == 6


def test_a_batch_of_fewer_environments_than_minibatches_gives_each_a_minibatch_and_none_an_empty_one(
    learner_setup, blank
):
    sizes = []
    made = learner_setup(
        lambda outputs, batch: sizes.append(batch.reward.shape[1]) or mean_value(outputs, batch), minibatches=5
    )
    made.learner.learn(blank(2, 3))
    assert sizes == [1, 1, 1]


# What reaches the weights


def test_gradients_never_accumulate(learner_setup, blank):
    made = learner_setup(mean_value, epochs=3)
    for _ in range(2):
        made.learner.learn(blank())
    assert [each.tolist() for each in made.optimizer.gradients] == [[0.0, 1.0]] * 6


def test_every_update_is_computed_at_the_weights_the_one_before_it_left(learner_setup, blank):
    """v <- v - 0.1 v, six times."""
    made = learner_setup(half_square, learning_rate=0.1, epochs=3, minibatches=2)
    made.master.vector[1] = 1.0
    made.learner.learn(blank(1, 2))
    assert made.master.vector[1].item() == pytest.approx(0.9**6)


def test_a_batch_is_published_once_when_all_its_updates_are_made(learner_setup, blank):
    made = learner_setup(mean_value, epochs=4)
    made.learner.learn(blank())
    pulled = torch.zeros(2)
    assert made.master.store.pull(pulled, 0) == made.master.store.version == 1
    assert pulled.tolist() == made.master.vector.tolist() == [0.0, -4.0]


@pytest.mark.parametrize("way", ["nan loss", "infinite loss with a finite gradient", "infinite gradient"])
def test_what_is_not_finite_never_reaches_the_weights(learner_setup, blank, way):
    def loss(outputs, batch):
        value = outputs.value[:-1].mean()
        spoilt = {
            "nan loss": value * math.nan,
            "infinite loss with a finite gradient": value + math.inf,
            "infinite gradient": value * math.inf,
        }
        return (spoilt[way] if batch.reward[0, 0] else value), {}

    made = learner_setup(loss)
    made.learner.learn(blank(reward=1.0))
    assert made.master.vector.tolist() == [0.0, 0.0]
    assert not made.optimizer.gradients  # nor the optimizer's own statistics
    made.learner.learn(blank())
    assert made.master.vector.tolist() == [0.0, -1.0]
    assert (made.progress.counts.updates, made.progress.counts.skipped_updates) == (1, 1)


def test_a_hundred_refused_updates_in_a_row_end_the_run_with_a_word_of_advice(learner_setup, blank):
    def loss(outputs, batch):
        return outputs.value.sum() * (math.nan if batch.reward[0, 0] else 1.0), {}

    made = learner_setup(loss)
    for _ in range(99):
        made.learner.learn(blank(reward=1.0))
    made.learner.learn(blank())  # one good batch, and patience begins anew
    for _ in range(99):
        made.learner.learn(blank(reward=1.0))
    with pytest.raises(TroupeError, match=r"learning diverged: 100 gradients in a row .* learner\.learning_rate"):
        made.learner.learn(blank(reward=1.0))
    assert torch.isfinite(made.master.vector).all()


def test_a_restored_learner_has_refused_as_many_updates_in_a_row(learner_setup, blank):
    def loss(outputs, batch):
        return outputs.value.sum() * math.nan, {}

    made, restored = learner_setup(loss), learner_setup(loss)
    for _ in range(60):
        made.learner.learn(blank())
    restored.learner.restore(made.learner.state())
    for _ in range(39):
        restored.learner.learn(blank())
    with pytest.raises(TroupeError, match="100 gradients in a row"):
        restored.learner.learn(blank())


def test_a_restored_learner_normalizes_advantages_by_the_same_averages(learner_setup, blank):
    def setup():
        return learner_setup(losses.appo, objective=Objective.of(Loss(kind="appo")), advantage_decay=0.9)

    rng = np.random.default_rng(0)
    batches = [blank(4, 2, reward=rng.normal(size=(4, 2))) for _ in range(4)]
    made, restored = setup(), setup()
    for batch in batches[:3]:
        made.learner.learn(batch)
    state, (started,) = made.learner.state(), {each.learner.state()["lately"][2] for each in [setup()]}
    assert started == 0.0 < state["lately"][2]
    restored.learner.restore(state)
    assert restored.learner.state() == state
    restored.master.vector.copy_(made.master.vector)
    for each in (made, restored):
        each.learner.learn(batches[3])
    assert torch.equal(made.optimizer.gradients[-1], restored.optimizer.gradients[-1])
    assert made.learner.state() == restored.learner.state() != state


@pytest.mark.parametrize(("limit", "length"), [(0.0, 1.0), (0.25, 0.25), (5.0, 1.0)])
def test_a_gradient_is_cut_to_the_norm_that_is_allowed(learner_setup, blank, limit, length):
    made = learner_setup(mean_value, gradient_norm=limit)
    made.learner.learn(blank())
    assert made.optimizer.gradients[0].norm().item() == pytest.approx(length)


def test_an_annealed_learning_rate_falls_to_nothing_with_the_steps_learned_from(learner_setup, blank):
    made = learner_setup(mean_value, learning_rate=0.8, anneal_steps=1000)
    for steps in (0, 250, 1000, 3000):
        made.progress.counts.steps = steps
        made.learner.learn(blank())
    assert made.optimizer.rates == pytest.approx([0.8, 0.6, 0.0, 0.0])


@pytest.mark.parametrize(("asked", "limit", "factors"), [
    ("auto", 900, [1.0, 0.75, 0.5, 0.25, 0.25]), ("auto", 0, [1.0] * 5), (600, 900, [1.0, 0.5, 0.0, 0.0, 0.0]),
    (0, 900, [1.0] * 5),
])  # fmt: skip
@pytest.mark.parametrize("topology", ["serial", "hogwild"])
def test_the_learning_rate_falls_to_zero_at_a_step_or_to_a_quarter_at_the_limit(
    assembled, counting, asked, limit, factors, topology
):
    settings = {"topology": topology, "actor.count": 1, "learner.epochs": 1, "learner.minibatches": 1}
    settings |= {"actor.placement": "thread", "stop.steps": limit, "learner.anneal_steps": asked}
    parts = assembled(counting, settings)
    learner = parts.runners[0].actor._learner if topology == "hogwild" else parts.learners[0]
    rate = parts.config.learner.learning_rate
    assert [learner._annealing(steps) for steps in (0, 300, 600, 900, 1000)] == pytest.approx(factors)
    for steps, factor in zip((0, 300, 600), factors, strict=False):
        parts.progress.counts.steps = steps
        assert parts.learning_rate == pytest.approx(rate * factor)
    parts.close()


def test_an_annealed_entropy_bonus_falls_to_nothing_with_the_steps_learned_from(learner_setup, blank):
    weights = []

    def loss(outputs, batch, *, entropy_coefficient):
        weights.append(entropy_coefficient)
        return mean_value(outputs, batch)

    made = learner_setup(loss, entropy=(0.01, linear_decay(1000)))
    for steps in (0, 250, 1000, 3000):
        made.progress.counts.steps = steps
        made.learner.learn(blank())
    assert weights == pytest.approx([0.01, 0.0075, 0.0, 0.0])


@pytest.mark.parametrize("kind", ["a3c", "impala", "appo"])
def test_the_decayed_entropy_coefficient_replaces_that_of_the_settings(learner_setup, blank, kind):
    """Halfway it is the same update as with half the weight."""
    settings = {"kind": kind, "normalize_advantage": False}
    full, half = (build_loss(Loss(**settings, entropy_coefficient=weight)) for weight in (0.1, 0.05))
    gradients = []
    for made in (learner_setup(full, entropy=(0.1, linear_decay(1000))), learner_setup(half), learner_setup(full)):
        made.master.vector[0] = 1.0  # else the policy is uniform, and its entropy has no slope
        made.progress.counts.steps = 500
        made.learner.learn(blank(reward=1.0))
        gradients += made.optimizer.gradients
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_a_learning_rate_that_warms_up_rises_with_the_updates_made(learner_setup, blank):
    made = learner_setup(mean_value, learning_rate=0.8, warmup_updates=4)
    for _ in range(6):
        made.learner.learn(blank())
    assert made.optimizer.rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_two_learners_on_one_master_lose_no_update(learner_setup, blank):
    """The optimizer dawdles between reading and writing: without the lock an update would be overwritten."""
    first = learner_setup(mean_value)

    def dawdle(weights, gradient, learning_rate):
        moved = weights - learning_rate * gradient
        time.sleep(1e-4)
        weights.copy_(moved)

    first.optimizer.step = dawdle
    second = learner_setup(mean_value, master=first.master, progress=first.progress)
    rollout = blank()
    threads = [
        threading.Thread(target=lambda made=made: [made.learner.learn(rollout) for _ in range(50)])
        for made in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.master.vector.tolist() == [0.0, -100.0]
    assert first.progress.counts.updates == first.master.store.version == 100


def test_a_learner_builds_on_what_another_learned(learner_setup, blank):
    first = learner_setup(half_square, learning_rate=0.5)
    second = learner_setup(half_square, learning_rate=0.5, master=first.master)
    first.master.vector[1] = 1.0
    for made in (first, second, first):
        made.learner.learn(blank())
    assert first.master.vector[1].item() == 0.125


# Threads that share one learner's passes

SCRIPTS = [
    [(3, "terminated"), (2, "truncated")], [(1, "terminated")], [(4, "truncated"), (1, "both")], [(30, "terminated")],
    [(2, "truncated")],
]  # fmt: skip
LOSSES = {
    "a3c": Loss(kind="a3c", lam=0.9, gamma=0.9),
    "impala": Loss(kind="impala", lam=0.9, gamma=0.9),
    "appo": Loss(kind="appo", lam=0.9, gamma=0.9, normalize_advantage=True),
}


@pytest.fixture(scope="module")
def played(stage, counting):
    """Twelve rows of five environments whose episodes end at different times, with their reset rows."""
    stages = [stage(partial(counting, script=each), environments=1, epsilon=lambda _: 1.0, seed=1) for each in SCRIPTS]
    rollout = stack([each.collect(12) for each in stages])
    assert rollout.steps < rollout.valid.size
    assert len({tuple(column) for column in rollout.valid.T}) == 5
    rollout.life_lost[6, 3] = True
    return rollout


def thinking(precision="float32"):
    torch.manual_seed(3)
    space = gym.spaces.Box(-1.0, 1e6, (2,), np.float32)
    network = build(space, gym.spaces.Discrete(3), Network(hidden=(8, 8), precision=precision))
    network.body.policy.weight.data.normal_()
    return network


def learned(learner_setup, network, loss, rollout, threads, rewards=Rewards(0.9, 0.01)):  # noqa: B008
    made = learner_setup(loss, network=copy.deepcopy(network), threads=threads, rewards=rewards)
    gradient = made.learner.compute_gradient(rollout)
    made.learner.close()
    return gradient, means_of(made.progress.metrics.take())


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("threads", [2, 3, 5, 8])  # the last: more than there are environments
def test_a_gradient_shared_out_is_the_whole_gradient(learner_setup, played, kind, threads):
    network, loss = thinking(), build_loss(LOSSES[kind])
    (expected, means), (gradient, metrics) = (learned(learner_setup, network, loss, played, n) for n in (1, threads))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert metrics == pytest.approx(means, rel=1e-5, abs=1e-6)
    assert len(metrics) >= 3
    assert expected.abs().min() < expected.abs().max() < math.inf


def test_the_loss_is_one_of_all_environments_and_not_a_mean_of_shares(learner_setup, played):
    """Shares have different numbers of valid rows, and advantages are normalised over all of them."""
    network, loss = thinking(), build_loss(LOSSES["appo"])
    shares = [learned(learner_setup, network, loss, columns(played, np.arange(b, b + 1)), 1)[0] for b in range(5)]
    gradient, _ = learned(learner_setup, network, loss, played, 5)
    assert not torch.allclose(gradient, torch.stack(shares).mean(0), rtol=0.01)


def test_one_environment_is_nothing_to_share_out(learner_setup, played):
    network, loss, one = thinking(), build_loss(LOSSES["impala"]), columns(played, np.array([0]))
    (expected, _), (gradient, _) = (learned(learner_setup, network, loss, one, threads) for threads in (1, 4))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_a_frozen_layer_and_a_loss_of_values_only_are_shared_out_too(learner_setup, played):
    network = thinking()
    network.body.trunk[0].weight.requires_grad_(False)
    (expected, _), (gradient, _) = (learned(learner_setup, network, mean_value, played, threads) for threads in (1, 3))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert expected.any()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_reward_that_is_no_number_spoils_the_gradient_whoever_computes_it(learner_setup, played, kind, threads):
    spoilt = copy.deepcopy(played)
    spoilt.reward[0, 4] = math.nan
    made = learner_setup(build_loss(LOSSES[kind]), network=thinking(), threads=threads)
    before = made.master.vector.clone()
    assert not torch.isfinite(made.learner.compute_gradient(spoilt)).all()
    made.learner.learn(spoilt)
    assert torch.equal(made.master.vector, before)
    assert made.progress.counts.skipped_updates == 1
    made.learner.learn(played)
    assert not torch.equal(made.master.vector, before)
    assert made.progress.counts.updates == 1
    made.learner.close()


def test_an_error_in_a_share_is_raised_and_the_learner_goes_on(learner_setup, blank):
    class Fails(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.v = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, obs):
            if (obs == 7).any():
                raise ValueError("seven")
            return torch.zeros(len(obs), 2), self.v * obs[:, 0]

    made = learner_setup(mean_value, body=Fails(), threads=3)
    bad = blank(2, 3)
    bad.obs[:, 2] = 7
    with pytest.raises(ValueError, match="seven"):
        made.learner.compute_gradient(bad)
    assert made.learner.compute_gradient(blank(2, 3)).tolist() == [1.0]
    made.learner.close()


@pytest.mark.parametrize("threads", [2, 3])
def test_convolutions_in_bfloat16_are_shared_out_with_float32_gradients(learner_setup, threads):
    """Passes in several threads meet in torch's store of weights it has cast; here each sum is rounded anew."""
    torch.manual_seed(0)
    space, rng = gym.spaces.Box(0, 255, (36, 36, 2), np.uint8), np.random.default_rng(0)
    network = build(space, gym.spaces.Discrete(3), Network(encoder="a3c", precision="bfloat16"))
    rollout = allocate(RolloutSpec(space, 4, 5))
    rollout.obs[:] = rng.integers(256, size=rollout.obs.shape)
    rollout.action[:], rollout.behaviour_log_prob[:] = rng.integers(3, size=(4, 5)), np.log(1 / 3)
    rollout.reward[:] = rng.normal(size=(4, 5))
    loss = build_loss(LOSSES["impala"])
    made = [learned(learner_setup, network, loss, rollout, n, Rewards(0.9)) for n in (1, *[threads] * 5)]
    (expected, means), *others = made
    for gradient, metrics in others:
        assert gradient.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(gradient, expected, dim=0) > 0.999
        assert gradient.norm() == pytest.approx(float(expected.norm()), rel=0.02)
        assert metrics == pytest.approx(means, rel=0.02, abs=1e-3)


# Where a learner's time goes, and what it asks of others


@pytest.mark.usefixtures("never_preempted")
def test_a_learner_says_when_it_learns_and_ends_elsewhere(learner_setup, blank):
    stages = []

    def loss(outputs, batch):
        stages.append(made.learner.watch.stage)
        return mean_value(outputs, batch)

    made = learner_setup(loss)
    made.learner.learn(blank())
    assert stages == ["learn"]
    assert made.learner.watch.stage == "other"
    assert made.learner.watch.seconds.keys() >= {"pause", "turn", "learn", "other"}


def test_no_update_is_made_after_the_end_of_the_run(learner_setup, blank):
    made = learner_setup(mean_value)
    made.learner._gate.stop()
    with pytest.raises(Closed):
        made.learner.learn(blank())
    assert made.optimizer.gradients == []
    assert made.master.store.version == 0


def test_metrics_of_a_loss_are_weighted_by_the_rows_that_it_is_a_mean_of(learner_setup, blank):
    def loss(outputs, batch):
        return outputs.value.sum(), {"reward": batch.reward[batch.valid].mean()}

    made = learner_setup(loss, rewards=Rewards(0.9))
    short = blank(3, 1, reward=1.0)
    short.valid[1] = False
    made.learner.learn(short)
    made.learner.learn(blank(3, 2, reward=5.0))
    assert made.progress.metrics.take()["reward"] == [2 * 1.0 + 6 * 5.0, 8]


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1.0), ("sum", 5.0)])
def test_a_sum_is_the_mean_times_the_rows_that_count(learner_setup, blank, reduction, factor):
    rollout = blank(3, 2)
    rollout.valid[1, 0] = False
    made = learner_setup(mean_value, objective=Objective(mean_value, Rewards(0.9), reduction=reduction))
    assert made.learner.compute_gradient(rollout).tolist() == [0.0, factor]


def test_a_group_of_one_asks_nobody_and_a_larger_one_for_every_gradient(learner_setup, blank):
    asked = []

    class Two(Alone):
        rank, size = 0, 2

        def total(self, values):
            asked.append(("total", made.learner.watch.stage))
            return values * 10

        def mean(self, values, rows):
            asked.append(("mean", rows, made.learner.watch.stage))
            return values * 100

    for reduction, call, factor in (("sum", ("total", "average"), 60.0), ("mean", ("mean", 6, "average"), 100.0)):
        made = learner_setup(mean_value, objective=Objective(mean_value, Rewards(0.9), reduction=reduction))
        made.learner._group = Two()
        assert made.learner.compute_gradient(blank(3, 2)).tolist() == [0.0, factor]
        assert asked.pop() == call
        assert made.learner.watch.stage == "learn"
