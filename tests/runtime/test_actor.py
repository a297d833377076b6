"""The rollout contract, proven with an environment that counts: everything in a rollout can be retraced."""

from functools import partial

import numpy as np
import pytest
import torch

from troupe.runtime.gate import Closed
from troupe.runtime.progress import Episode


@pytest.mark.parametrize("cuts", [[24], [1] * 24, [7, 1, 5, 11], [3, 3, 3, 3, 3, 3, 3, 3]])
def test_rollouts_tell_the_script_however_time_is_cut_into_them(stage, counting, script, tells, cuts):
    staged = stage(counting)
    rollouts = [staged.collect(steps) for steps in cuts]
    assert sum(len(each.reward) for each in rollouts) == 24
    tells(rollouts, script)


def test_the_reward_of_a_row_is_that_of_its_own_action(stage, counting):
    rollout = stage(counting, epsilon=lambda played: 1.0).collect(60)
    expected = np.where(rollout.valid, 10 * rollout.obs[:-1, :, 1] + rollout.action, 0.0)
    assert (rollout.reward == expected).all()
    assert len(np.unique(rollout.action)) == 3


def test_a_reset_row_is_no_step_has_no_reward_and_is_in_no_episode(stage, counting, script):
    staged = stage(counting, environments=1)
    rows = sum(length + 1 for length, _ in script)
    rollout = staged.collect(rows)
    steps = sum(length for length, _ in script)
    assert rollout.steps == staged.progress.counts.played == steps
    assert not rollout.reward[~rollout.valid].any()
    assert [each.length for each in staged.progress.take_episodes()] == [length for length, _ in script]


@pytest.mark.parametrize("cuts", [[48], [1] * 48, [5, 43], [11, 13, 24]])
def test_episodes_have_their_exact_raw_return_and_length_across_seams(stage, counting, join, cuts):
    staged = stage(counting, epsilon=lambda played: 1.0)
    rollouts = [staged.collect(steps) for steps in cuts]
    rows = join(rollouts)
    expected = []
    totals, lengths = np.zeros(2), np.zeros(2, int)
    for t in range(sum(cuts)):
        for b in range(2):
            totals[b] += rows["reward"][t, b]
            lengths[b] += rows["valid"][t, b]
            if rows["terminated"][t, b] or rows["truncated"][t, b]:
                expected.append(Episode(totals[b], lengths[b]))
                totals[b], lengths[b] = 0, 0
    assert staged.progress.take_episodes() == expected
    assert staged.progress.counts.episodes == len(expected) > 10


def test_weights_published_in_the_middle_of_a_rollout_act_only_in_the_next(stage, counting):
    """Whatever is published while environments step, the recorded log mu is of the weights at the start."""
    biases = [[0.0, 0.0, 0.0]]

    def publish(episode: int, step: int) -> None:
        biases.append([0.1 * len(biases), -0.3 * len(biases), 0.0])
        staged.publish(bias=biases[-1])

    staged = stage(lambda: counting(before_step=publish), hidden=())
    staged.network.body.policy.weight.data.zero_()
    staged.publish(bias=biases[0])
    biases.insert(0, biases[0])  # what the store began with is version 0
    for _ in range(3):
        version = staged.store.version
        rollout = staged.collect(6)
        assert (rollout.policy_version == version).all()
        assert staged.store.version > version
        expected = torch.tensor(biases[version]).log_softmax(-1).numpy()[rollout.action]
        np.testing.assert_allclose(rollout.behaviour_log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_recorded_log_mu_is_that_of_the_epsilon_mixture(stage, counting, epsilon):
    staged = stage(counting, epsilon=lambda played: epsilon)
    staged.publish(bias=[2.0, 0.0, -2.0])
    rollout = staged.collect(20)
    with torch.no_grad():
        logits, _ = staged.network.body(torch.from_numpy(rollout.obs[:-1]).flatten(0, 1))
    pi = logits.softmax(-1).view(20, 2, 3).numpy()
    chosen = np.take_along_axis(pi, rollout.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(rollout.behaviour_log_prob), (1 - epsilon) * chosen + epsilon / 3, rtol=1e-5)


def test_epsilon_is_a_function_of_the_steps_of_all_actors_when_the_rollout_begins(stage, counting):
    asked = []
    staged = stage(counting, epsilon=lambda played: asked.append(played) or 0.0)
    staged.progress.play(1000)  # another actor's
    first = staged.collect(4).steps
    staged.collect(4)
    assert asked == [1000, 1000 + first]


def test_an_action_space_may_start_anywhere(stage, counting):
    """Rollouts hold actions from 0; the environment gets those from its start, or it would object."""
    rollout = stage(partial(counting, start=-7), epsilon=lambda played: 1.0).collect(40)
    assert set(np.unique(rollout.action)) == {0, 1, 2}
    assert (rollout.reward == np.where(rollout.valid, 10 * rollout.obs[:-1, :, 1] + rollout.action, 0.0)).all()


def test_a_stopped_run_ends_a_rollout_at_the_next_step(stage, counting):
    staged = stage(lambda: counting(before_step=lambda episode, step: staged.gate.stop()), environments=1)
    with pytest.raises(Closed):
        staged.collect(10)
    assert staged.environments[0].played == 1
    assert staged.progress.counts.played == 0


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_both_backends_keep_the_contract_on_cartpole(stage, join, backend):
    """CartPole pays 1 for every step, so returns equal lengths, and lengths fill the valid rows."""
    staged = stage("CartPole-v1", environments=4, backend=backend, epsilon=lambda played: 1.0)
    rollouts = [staged.collect(50) for _ in range(4)]
    rows = join(rollouts)
    assert (rows["reward"] == rows["valid"]).all()
    ended = rows["terminated"] | rows["truncated"]
    assert (rows["valid"][1:] == ~ended[:-1]).all()
    assert (np.abs(rows["obs"][rows["first"]]) <= 0.05).all()
    assert (np.abs(rows["obs"][1:][rows["terminated"]]) > [2.4, 1e9, 0.2095, 1e9]).any(-1).all()
    episodes = staged.progress.take_episodes()
    assert all(each.total == each.length for each in episodes)
    assert len(episodes) == ended.sum() > 10
    still_open = [rows["valid"][np.flatnonzero(rows["first"][:-1, b])[-1] :, b].sum() for b in range(4)]
    still_open = [0 if ended[-1, b] else length for b, length in enumerate(still_open)]
    assert sum(each.length for each in episodes) + sum(still_open) == rows["valid"].sum()


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_cartpoles_time_limit_truncates_and_does_not_terminate(stage, backend):
    """A policy that leans against the pole stands for the 500 steps that v1 allows."""
    staged = stage("CartPole-v1", environments=1, backend=backend, hidden=())
    staged.publish(weight=[[0.0] * 4, [1e3, 2e3, 3e4, 1e4]])
    rollout = staged.collect(502)
    assert np.flatnonzero(rollout.truncated).tolist() == [499]
    assert not rollout.terminated.any()
    assert staged.progress.take_episodes() == [Episode(500.0, 500)]
