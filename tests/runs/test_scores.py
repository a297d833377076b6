"""Returns and lengths of an evaluation: what is counted, and the figures of it."""

import numpy as np
import pytest

from troupe.runs.evaluate.scores import Scores, Tally, remarks

NONE = np.zeros(3, np.bool_)


def only(*numbers: int) -> np.ndarray:
    return np.isin(np.arange(3), numbers)


def test_figures_worked_out():
    scores = Scores(np.array([1.0, 3.0, 5.0, 7.0]), np.array([2, 4, 4, 6]), cut_off=1, unfinished=2)
    assert (scores.mean, scores.std) == (4.0, pytest.approx(5**0.5))
    assert scores.lower == pytest.approx(4 - 2 * 5**0.5 / 2)
    assert scores.lower_of(100) == pytest.approx(4 - 2 * 5**0.5 / 10)
    assert scores.summary() == {
        "episodes": 4, "mean_return": 4.0, "std_return": pytest.approx(5**0.5), "min_return": 1.0, "max_return": 7.0,
        "mean_length": 4.0, "cut_off": 1, "unfinished": 2,
    }  # fmt: skip
    assert (scores.greedy, scores.asked) == (True, 0)
    assert scores.remarks == remarks(1, 2) == ", 1 of them cut off, 2 of them unfinished"
    assert (remarks(0, 0), remarks(3, 0), remarks(0, 3)) == ("", ", 3 of them cut off", ", 3 of them unfinished")


def test_episodes_are_shared_out_and_who_has_played_its_share_no_longer_counts():
    """Five among three: two, two and one. Rewards are 1, 10 and 100 a step."""
    tally = Tally(3, 5, max_steps=9)
    tally.begin_round()
    rewards = np.array([1.0, 10.0, 100.0])
    assert tally.returns == []
    tally.add(rewards, NONE, only(0, 2))
    assert tally.returns == [1.0, 100.0]
    tally.add(rewards, only(0, 2), only(2))  # the third plays on, and does not count
    tally.add(rewards, only(2), only(0, 1))
    assert tally.returns == [1.0, 100.0, 2.0, 30.0]
    assert (tally.is_complete, tally.round_is_over) == (False, False)
    tally.add(rewards, only(0, 1), NONE)
    tally.add(rewards, NONE, only(0, 1))
    assert (tally.is_complete, tally.round_is_over) == (True, True)
    scores = tally.scores(greedy=False)
    assert scores.returns.tolist() == [1.0, 100.0, 2.0, 30.0, 20.0]
    assert scores.lengths.tolist() == [1, 1, 1, 3, 1]
    assert (scores.greedy, scores.cut_off, scores.unfinished, scores.asked) == (False, 0, 0, 0)


def test_an_episode_of_just_as_many_steps_is_not_cut_off():
    tally = Tally(3, 3, max_steps=2)
    tally.begin_round()
    tally.add(np.ones(3), NONE, only(0))
    tally.add(np.ones(3), only(0), only(1))
    scores = tally.scores(greedy=True)
    assert tally.is_complete
    assert (scores.lengths.tolist(), scores.cut_off) == ([1, 2, 2], 1)


def test_of_an_evaluation_that_ran_out_of_time_whole_rounds_count_or_what_was_begun():
    tally = Tally(3, 9, max_steps=99)
    tally.begin_round()
    tally.add(np.array([1.0, 2.0, 3.0]), NONE, only(0))
    so_far = tally.scores_so_far(greedy=False)
    assert (sorted(so_far.returns), so_far.unfinished, so_far.asked, so_far.greedy) == ([1.0, 2.0, 3.0], 2, 9, False)
    assert so_far.lengths.tolist() == [1, 1, 1]
    tally.add(np.ones(3), only(0), only(1, 2))
    tally.add(np.ones(3), only(1, 2), only(0))
    so_far = tally.scores_so_far(greedy=True)
    assert (so_far.returns.tolist(), so_far.unfinished) == ([1.0, 3.0, 4.0], 0)  # the first one's second does not count


def test_who_has_played_its_share_does_not_hold_the_others_rounds_up():
    tally = Tally(3, 4, max_steps=99)  # two, one and one
    tally.begin_round()
    tally.add(np.array([1.0, 2.0, 3.0]), NONE, only(1, 2))
    tally.add(np.ones(3), only(1, 2), only(0))
    assert tally.scores_so_far(greedy=True).returns.tolist() == [2.0, 3.0, 2.0]
