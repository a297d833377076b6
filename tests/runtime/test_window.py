"""The sliding window: one n-step sample for every step, over the horizon that is really there."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.rollouts import check
from troupe.runtime.acting.n_step_window import NStepActor, NStepSample, NStepWindow, write_sample
from troupe.runtime.data.rollout import Rollout, RolloutSpec, allocate

Episodes = Sequence[tuple[Sequence[float], str]]  # rewards, and how it ended
REWARDS = st.lists(st.integers(-9, 9).map(float), max_size=12)


def played(blank: Callable[..., Rollout], episodes: Episodes, window: NStepWindow) -> list[NStepSample]:
    """What a window makes of episodes, each step a row whose observation is [100 * episode + step]."""
    samples = []
    for number, (rewards, ending) in enumerate(episodes):
        for step, reward in enumerate(rewards):
            last = step == len(rewards) - 1
            row = blank(
                reward=reward, policy_version=step, action=step % 2,
                terminated=last and ending == "terminated", truncated=last and ending == "truncated",
            )  # fmt: skip
            row.obs[:, 0, 0] = 100 * number + step, 100 * number + step + 1
            row.first[0] = step == 0
            samples += window.push(row)
        if ending != "open":
            samples += window.push(blank(valid=False, reward=0.0))
    return samples


def written_out(episodes: Episodes, n: int, gamma: float) -> list[dict[str, Any]]:
    """The samples by definition: R = sum over min(n, steps left) of gamma^k r_{t+k}, in the order of t."""
    expected = []
    for number, (rewards, ending) in enumerate(episodes):
        for t in range(len(rewards)):
            horizon = min(n, len(rewards) - t)
            if horizon < n and ending == "open":
                break  # its end has not been seen yet
            at_end = t + horizon == len(rewards)
            expected.append({
                "reward": sum(gamma**k * rewards[t + k] for k in range(horizon)), "horizon": horizon,
                "obs": [100 * number + t, 100 * number + t + horizon], "first": [t == 0, False],
                "terminated": at_end and ending == "terminated", "truncated": at_end and ending == "truncated",
                "action": t % 2, "policy_version": t, "valid": True,
            })  # fmt: skip
    return expected


def contents(rollout: Rollout, names: Sequence[str]) -> dict[str, Any]:
    flat = {name: getattr(rollout, name).reshape(-1).tolist() for name in names}
    return {name: values if name in ("obs", "first") else values[0] for name, values in flat.items()}


def test_worked_example_three_unit_rewards(blank):
    """2.9701, 1.99 and 1: the article's recurrence, dividing as if eight rewards were there, gives 2.825 and so on."""
    samples = played(blank, [([1.0, 1.0, 1.0], "terminated")], NStepWindow(8, 0.99))
    assert [each.total for each in samples] == pytest.approx([2.9701, 1.99, 1.0])
    assert [each.horizon for each in samples] == [3, 2, 1]


@given(
    episodes=st.lists(
        st.tuples(REWARDS.filter(len), st.sampled_from(["terminated", "truncated"])),
        max_size=4,
    ),
    still_open=REWARDS,
    n=st.integers(1, 6),
    gamma=st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]),
)
def test_every_step_gives_the_sample_of_the_definition(blank, episodes, still_open, n, gamma):
    episodes = [*episodes, (still_open, "open")]
    samples = played(blank, episodes, NStepWindow(n, gamma))
    expected = written_out(episodes, n, gamma)
    assert len(samples) == len(expected)
    for sample, wanted in zip(samples, expected, strict=True):
        rollout = blank()
        write_sample(sample, rollout)
        check(rollout)
        actual = contents(rollout, list(wanted))
        assert actual.pop("reward") == pytest.approx(wanted.pop("reward"), rel=1e-6, abs=1e-6)
        assert actual == wanted


@pytest.mark.parametrize(("n", "gamma"), [(8, 0.99), (8, 0.5), (50, 0.9), (8, 0.001), (3, 1.0)])
def test_the_incremental_sum_does_not_drift_in_a_long_episode(blank, n, gamma):
    """Subtracting and dividing by gamma would magnify rounding by 1 / gamma with every step."""
    rng = random.Random(1)
    rewards = [rng.uniform(-1, 1) for _ in range(4000)]
    samples = played(blank, [(rewards, "terminated")], NStepWindow(n, gamma))
    rewards = np.array(rewards, np.float32).astype(float)
    expected = [sum(gamma**k * r for k, r in enumerate(rewards[t : t + n])) for t in range(len(rewards))]
    np.testing.assert_allclose([sample.total for sample in samples], expected, rtol=1e-5, atol=1e-5)


def test_a_lost_life_empties_the_window_and_the_next_step_begins_another(blank):
    """Rewards 1, n = 3, gamma 0.9, the second of four steps loses a life, and no reset row follows."""
    window, samples = NStepWindow(3, 0.9), []
    for step in range(4):
        samples += window.push(blank(reward=1.0, life_lost=step == 1, obs=float(step)))
    assert [sample.horizon for sample in samples] == [2, 1]
    assert [sample.total for sample in samples] == pytest.approx([1.9, 1.0])
    for sample in samples:
        rollout = blank()
        write_sample(sample, rollout)
        assert rollout.life_lost.all()
        assert not rollout.terminated.any()
    (following,) = window.push(blank(reward=1.0, obs=4.0))
    assert (following.start.obs[0, 0, 0], following.horizon, following.total) == (2.0, 3, pytest.approx(2.71))
    rollout = blank(life_lost=True)
    write_sample(following, rollout)
    assert not rollout.life_lost.any()


def test_an_actor_with_a_window_gives_one_sample_for_every_step(stage, counting, script):
    staged = stage(counting, environments=1)
    rows = [allocate(RolloutSpec(staged.source.observation_space, 1, 1)) for _ in range(4)]
    actor = NStepActor(staged.actor, NStepWindow(3, 0.9), rows)
    samples = []
    while staged.progress.counts.episodes < 5:
        rollout = allocate(RolloutSpec(staged.source.observation_space, 1, 1))
        actor.collect(rollout)
        check(rollout)
        samples.append(rollout)
    seen = [tuple(each.obs[0, 0]) for each in samples]
    steps = [(episode, step) for episode, (length, _) in enumerate(script) for step in range(length)]
    assert seen == steps[: len(seen)]
    assert len(steps) - len(seen) <= 3  # those of the last ending are handed out one by one
    assert staged.progress.counts.played == len(steps)
    rewards = {(int(e), int(s)): 10.0 * s for e, s in steps}
    for each in samples:
        (start, final), horizon = each.obs[:, 0].astype(int), int(each.horizon[0, 0])
        assert final.tolist() == [start[0], start[1] + horizon]
        discounted = sum(0.9**k * rewards[start[0], start[1] + k] for k in range(horizon))
        assert discounted <= each.reward[0, 0] <= discounted + 2 * 3  # and the actions, 0 to 2 each
