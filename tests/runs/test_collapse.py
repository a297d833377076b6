"""When a run has collapsed: what counts as a fall, for how long, and from what."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.runs.evaluate.collapse import CollapseWatch, Score
from troupe.runs.store.state import SavedWatch


def collapses(
    scores: Sequence[float | tuple[float, float]], loss: float = 0.5, evaluations: int = 3, began: float | None = None
) -> list[int]:
    """The places of the scores with which the run collapsed; scores are means, or means and their errors."""
    watch = CollapseWatch(loss, evaluations)
    if began is not None:
        watch.begin(Score(began, 0.0))
    seen = [Score(*score) if isinstance(score, tuple) else Score(score, 0.0) for score in scores]
    return [index for index, score in enumerate(seen) if watch.see(score)]


# Worked examples


def test_a_return_that_lost_half_of_what_was_gained_three_times_in_a_row_is_a_collapse():
    assert collapses([20, 500, 259, 259, 259]) == [4]


def test_one_that_kept_half_of_it_is_none():
    assert collapses([20, 500, 261, 261, 261, 261]) == []


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_it_takes_as_many_evaluations_in_a_row_as_were_asked_for(evaluations):
    assert collapses([20, 500] + [20] * 7, evaluations=evaluations) == [1 + evaluations]


def test_a_return_near_the_best_ends_the_count():
    assert collapses([20, 500, 20, 20, 400, 20, 20, 400, 20, 20, 20]) == [10]


def test_a_collapse_that_lasts_is_reported_once_and_one_that_follows_a_recovery_again():
    assert collapses([20, 500] + [20] * 9 + [400] + [20] * 9) == [4, 14]


def test_a_collapse_that_was_answered_counts_anew():
    watch = CollapseWatch(0.5, 3)
    answers = []
    for mean in [20, 500] + [20] * 7:
        answers.append(watch.see(Score(mean, 0.0)))
        if answers[-1]:
            watch.reset()
    assert [index for index, collapsed in enumerate(answers) if collapsed] == [4, 7]


def test_the_fall_is_measured_against_the_gain_also_where_all_returns_are_negative():
    assert collapses([-500, -100, -299, -299, -299]) == []
    assert collapses([-500, -100, -301, -301, -301]) == [4]


def test_a_fall_below_where_the_run_began_counts_against_what_was_gained():
    assert collapses([0, 100, -900, -900, -900]) == [4]
    assert collapses([0, 100, -49, -49, -49], loss=1.5) == []
    assert collapses([0, 100, -51, -51, -51], loss=1.5) == [4]


def test_what_the_run_began_at_may_be_known_before_the_first_evaluation():
    """The first evaluation finds 400; measured against it alone, 440 would be a collapse of 490."""
    assert collapses([400, 490, 440, 440, 440]) == [4]
    assert collapses([400, 490, 440, 440, 440], began=20) == []


def test_only_the_first_word_on_where_the_run_began_counts():
    watch = CollapseWatch(0.5, 3)
    watch.see(Score(20, 0.0))
    watch.begin(Score(400, 0.0))
    assert watch.first == Score(20, 0.0)


def test_before_anything_has_been_learned_there_is_nothing_to_lose():
    assert collapses([500, 20, 20, 20, 20]) == []
    assert collapses([500, 500, 20, 20, 20, 20]) == []


def test_a_gain_within_the_noise_is_none():
    """Errors of 30 and 40 make one of 50 between the two: what is within 100 may be luck."""
    assert collapses([(0, 30), (99, 40), (0, 0), (0, 0), (0, 0)]) == []
    assert collapses([(0, 30), (101, 40), (0, 0), (0, 0), (0, 0)]) == [4]


def test_a_fall_within_the_noise_is_none():
    assert collapses([0, (100, 30), *[(1, 40)] * 3]) == []
    assert collapses([0, (100, 30), *[(-1, 40)] * 3]) == [4]


def test_the_best_is_chosen_by_its_lower_bound_as_the_best_weights_are():
    """A lucky 200 with an error of 60 promises 80 only: 100, of which one can be sure, stays the best."""
    watch = CollapseWatch(0.5, 3)
    for score in (Score(0, 0), Score(100, 1), Score(200, 60)):
        watch.see(score)
    assert watch.best == Score(100, 1)


def test_a_score_is_the_mean_and_its_standard_error():
    """Deviation 2, of 16 episodes: 2 / sqrt(16)."""
    assert Score.of(np.array([3.0, 7.0] * 8)) == Score(5.0, 0.5)


def test_a_watch_that_was_put_away_goes_on_where_it_was():
    scores = [Score(mean, 1.0) for mean in (20, 500, 20, 20, 20, 400, 20, 20, 20)]
    whole = CollapseWatch(0.5, 3)
    expected = [whole.see(score) for score in scores]
    answers = []
    state = CollapseWatch(0.5, 3).state()
    for score in scores:
        watch = CollapseWatch(0.5, 3)
        watch.restore(msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(state))), SavedWatch))
        answers.append(watch.see(score))
        state = watch.state()
    assert answers == expected


# Two kinds of return: of evaluations, and of the training episodes


def collapses_beside(training: Sequence[float]) -> list[int]:
    """Of a policy whose evaluations fall from 120 to 35 and stay there, beside these training returns."""
    watch = CollapseWatch(0.5, 3)
    evaluated = [20, 120, 35, 35, 35, 35, 35, 35]
    both = zip(evaluated, training, strict=True)
    seen = [watch.see(Score(mean, 0.0), Score(train, 0.0)) for mean, train in both]
    return [index for index, collapsed in enumerate(seen) if collapsed]


def test_evaluations_that_swing_while_the_training_return_rises_are_no_collapse():
    """The article's policy on CartPole-v0: its greedy return fell to 35.6 and was at its best half a second later."""
    assert collapses_beside([17, 20, 25, 31, 41, 52, 63, 75]) == []


def test_a_training_return_that_has_fallen_as_well_makes_it_one():
    assert collapses_beside([17, 100, 98, 97, 95, 20, 20, 20]) == [5]
    assert collapses_beside([17, 100, 20, 20, 20, 70, 20, 20]) == [4]


# Laws

# Whole numbers, powers of two and halves, so that shifting and scaling round nothing.
means, errors = st.integers(-1000, 1000), st.integers(0, 100)
runs = st.lists(st.tuples(means, errors), min_size=1, max_size=30)


@given(runs, st.integers(-(10**6), 10**6), st.integers(-20, 20))
def test_what_collapses_depends_on_neither_the_shift_nor_the_scale_of_rewards(scores, shift, exponent):
    scale = 2.0**exponent
    moved = [(scale * (mean + shift), scale * error) for mean, error in scores]
    assert collapses(moved) == collapses(scores)


@given(runs, st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 4))
def test_nothing_but_a_clear_and_lasting_fall_from_a_clear_gain_is_a_collapse(scores, loss, evaluations):
    """Written out: the run of scores before each collapse, looked at as a whole."""
    for index in collapses(scores, loss, evaluations):
        first = scores[0]
        for here in range(index - evaluations + 1, index + 1):
            best = max(reversed(scores[: here + 1]), key=lambda score: score[0] - 2 * score[1])
            gain, fall = best[0] - first[0], best[0] - scores[here][0]
            assert gain > 2 * math.hypot(best[1], first[1])
            assert fall > max(loss * gain, 2 * math.hypot(best[1], scores[here][1]))


@given(runs, st.integers(1, 4))
def test_two_collapses_are_as_far_apart_as_a_recovery_and_a_collapse_take(scores, evaluations):
    answers = collapses(scores, evaluations=evaluations)
    assert all(later - earlier > evaluations for earlier, later in pairwise(answers))


@given(st.lists(st.tuples(means, errors), min_size=1, max_size=30).map(sorted))
def test_a_run_that_never_gets_worse_never_collapses(scores):
    assert collapses(scores, evaluations=1) == []
