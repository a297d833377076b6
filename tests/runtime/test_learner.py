"""The learner: what a loss is given, and what may and may not reach the weights."""

import math
import threading
import time

import numpy as np
import pytest
import torch

from troupe.config import TroupeError
from troupe.runtime.learner import to_batch

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
    batch = to_batch(rollout, 0.9, 1.0, CPU)
    torch.testing.assert_close(batch.discount, torch.tensor([[0.9, 0.9**8, 0.0, 0.9]]))


def test_the_trace_ends_at_both_boundaries(blank):
    rollout = blank(1, 3, terminated=[[True, False, False]], truncated=[[False, True, False]])
    assert to_batch(rollout, 0.9, 1.0, CPU).trace.tolist() == [[0.0, 0.0, 1.0]]


def test_reward_scale_is_for_learning_only(school, blank):
    seen = []
    rollout = blank(2, 2, reward=30.0)
    made = school(lambda outputs, batch: seen.append(batch.reward) or mean_value(outputs, batch), reward_scale=0.1)
    made.learner.learn(rollout)
    torch.testing.assert_close(seen[0], torch.full((2, 2), 3.0))
    assert (rollout.reward == 30.0).all()


def test_reported_returns_are_raw_whatever_the_scale(stage, counting):
    """Episodes are counted from what the actor recorded, which no learner's setting can reach."""
    staged = stage(counting, environments=1, epsilon=lambda played: 1.0)
    rollout = staged.collect(4)
    to_batch(rollout, 0.9, 0.001, CPU)
    assert staged.progress.take_episodes()[0].total == rollout.reward[:3].sum() >= 30.0


def test_a_loss_sees_the_policy_of_t_rows_and_the_value_of_one_more(school, blank):
    shapes = []

    def loss(outputs, batch):
        shapes.append((outputs.distribution.log_probs.shape, outputs.value.shape, batch.action.shape))
        return mean_value(outputs, batch)

    school(loss).learner.learn(blank(5, 3))
    assert shapes == [((5, 3, 2), (6, 3), (5, 3))]


def test_minibatches_share_out_whole_environments_anew_in_every_epoch(school, blank):
    rollout = blank(3, 8, reward=np.arange(8) + 100 * np.arange(3)[:, None])
    parts = []
    made = school(
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


def test_a_batch_of_fewer_environments_than_minibatches_gives_each_a_minibatch_and_none_an_empty_one(school, blank):
    sizes = []
    made = school(
        lambda outputs, batch: sizes.append(batch.reward.shape[1]) or mean_value(outputs, batch), minibatches=5
    )
    made.learner.learn(blank(2, 3))
    assert sizes == [1, 1, 1]


# What reaches the weights


def test_gradients_are_assigned_anew_and_never_add_up(school, blank):
    made = school(mean_value, epochs=3)
    for _ in range(2):
        made.learner.learn(blank())
    assert [each.tolist() for each in made.optimizer.gradients] == [[0.0, 1.0]] * 6


def test_every_update_is_computed_at_the_weights_the_one_before_it_left(school, blank):
    """v <- v - 0.1 v, six times."""
    made = school(half_square, learning_rate=0.1, epochs=3, minibatches=2)
    made.master.vector[1] = 1.0
    made.learner.learn(blank(1, 2))
    assert made.master.vector[1].item() == pytest.approx(0.9**6)


def test_a_batch_is_published_once_when_all_its_updates_are_made(school, blank):
    made = school(mean_value, epochs=4)
    made.learner.learn(blank())
    pulled = torch.zeros(2)
    assert made.master.store.pull(pulled, 0) == made.master.store.version == 1
    assert pulled.tolist() == made.master.vector.tolist() == [0.0, -4.0]


@pytest.mark.parametrize("way", ["nan loss", "infinite loss with a finite gradient", "infinite gradient"])
def test_what_is_not_finite_never_reaches_the_weights(school, blank, way):
    def loss(outputs, batch):
        value = outputs.value[:-1].mean()
        spoilt = {
            "nan loss": value * math.nan,
            "infinite loss with a finite gradient": value + math.inf,
            "infinite gradient": value * math.inf,
        }
        return (spoilt[way] if batch.reward[0, 0] else value), {}

    made = school(loss)
    made.learner.learn(blank(reward=1.0))
    assert made.master.vector.tolist() == [0.0, 0.0]
    assert not made.optimizer.gradients  # nor the optimizer's own statistics
    made.learner.learn(blank())
    assert made.master.vector.tolist() == [0.0, -1.0]
    assert (made.progress.counts.updates, made.progress.counts.skipped_updates) == (1, 1)


def test_a_hundred_refused_updates_in_a_row_end_the_run_with_a_word_of_advice(school, blank):
    def loss(outputs, batch):
        return outputs.value.sum() * (math.nan if batch.reward[0, 0] else 1.0), {}

    made = school(loss)
    for _ in range(99):
        made.learner.learn(blank(reward=1.0))
    made.learner.learn(blank())  # one good batch, and patience begins anew
    for _ in range(99):
        made.learner.learn(blank(reward=1.0))
    with pytest.raises(TroupeError, match=r"learning diverged: 100 gradients in a row .* learner\.learning_rate"):
        made.learner.learn(blank(reward=1.0))
    assert torch.isfinite(made.master.vector).all()


@pytest.mark.parametrize(("limit", "length"), [(0.0, 1.0), (0.25, 0.25), (5.0, 1.0)])
def test_a_gradient_is_cut_to_the_norm_that_is_allowed(school, blank, limit, length):
    made = school(mean_value, gradient_norm=limit)
    made.learner.learn(blank())
    assert made.optimizer.gradients[0].norm().item() == pytest.approx(length)


def test_an_annealed_step_size_falls_to_nothing_with_the_steps_learned_from(school, blank):
    made = school(mean_value, learning_rate=0.8, anneal_steps=1000)
    for steps in (0, 250, 1000, 3000):
        made.progress.counts.steps = steps
        made.learner.learn(blank())
    assert made.optimizer.rates == pytest.approx([0.8, 0.6, 0.0, 0.0])


def test_two_learners_on_one_master_lose_no_update(school, blank):
    """The optimizer dawdles between reading and writing: without the lock an update would be overwritten."""
    first = school(mean_value)

    def dawdle(weights, gradient, learning_rate):
        moved = weights - learning_rate * gradient
        time.sleep(1e-4)
        weights.copy_(moved)

    first.optimizer.step = dawdle
    second = school(mean_value, master=first.master, progress=first.progress)
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


def test_a_learner_builds_on_what_another_learned(school, blank):
    first = school(half_square, learning_rate=0.5)
    second = school(half_square, learning_rate=0.5, master=first.master)
    first.master.vector[1] = 1.0
    for made in (first, second, first):
        made.learner.learn(blank())
    assert first.master.vector[1].item() == 0.125
