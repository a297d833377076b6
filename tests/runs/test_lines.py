"""What pictures of runs show: smoothed lines, groups, their targets, and whether an axis is logarithmic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from troupe.runs.report.curves import Curve, Points
from troupe.runs.report.labels import labels
from troupe.runs.report.lines import (
    Line,
    differ_much,
    grouped,
    smoothed,
    target_of_each,
    targets_of,
    usual_target,
)

NOTHING = *[Points(*[np.zeros(0)] * 4)] * 3, np.zeros((0, 4)), np.zeros((0, 2))


def line(*steps: int, seconds: Any = None, target: float | None = 5.0, **settings: Any) -> Line:
    numbers = np.array(steps or (1, 2))
    seconds = numbers / 10 if seconds is None else np.array(seconds)
    curve = Curve(numbers, seconds, numbers * 1.0, numbers, *NOTHING)
    return Line(Path("run"), settings, (), curve, numbers * 1.0, target)


def test_a_line_has_its_environment_seed_and_actions_as_far_as_they_are_known():
    known = line(**{"env.id": "X-v0", "seed": 3, "evaluation.greedy": False})
    assert (known.environment, known.seed, known.greedy) == ("X-v0", "3", False)
    assert (line().environment, line().seed, line().greedy) == ("", "", True)
    assert (known.by("steps").tolist(), known.by("seconds").tolist()) == ([1, 2], [0.1, 0.2])


def test_runs_of_one_name_are_a_group_in_their_order():
    one, two, three = line(), line(), line()
    assert grouped([one, two, three], ["a", "b", "a"]) == {"a": [one, three], "b": [two]}


@pytest.mark.parametrize(
    ("targets", "usual"), [([1.0, 2.0, 2.0], 2.0), ([None, None, 1.0], None), ([None, 1.0], 1.0), ([3.0], 3.0)]
)
def test_the_usual_target_is_the_most_frequent_and_rather_one_than_none(targets, usual):
    assert usual_target(targets) == usual


def test_targets_are_those_of_the_groups_and_of_runs_that_have_another():
    groups = {
        "a": [line(target=5.0, seed=1), line(target=5.0, seed=2), line(target=None, seed=3)],
        "b": [line(target=7.25, seed=1)],
        "c": [line(target=None, seed=1)],
    }
    assert targets_of(groups) == {5.0: ["a"], None: ["a", "c"], 7.25: ["b"]}
    assert list(target_of_each(groups)) == [
        ("a", "5"), ("a", "5"), ("a, seed 3", "none"), ("b", "7.25"), ("c", "none"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((10, 1000), (10, 99), True), ((10, 1000), (10, 100), False), ((0, 1000), (10, 99), False),
        ((10, 1000), (0, 99), False), ((10, 1000), (10, 1000), False),
    ],
)  # fmt: skip
def test_lines_differ_much_where_the_shortest_is_less_than_a_tenth_of_the_longest_and_none_begins_at_nothing(
    one, other, expected
):
    for axis in ("steps", "seconds"):
        assert differ_much([[line(*one)], [line(*other)]], axis) == expected
        assert differ_much([[line(*one)], [line(*other), line(20, 30)]], axis) == expected
    assert differ_much([[line(10, 1000)], [line(10, 20), line(10, 900)]], "steps") is False  # the group's longest


def test_lines_are_compared_by_the_axis_that_is_asked_for():
    one, other = line(10, 1000, seconds=(1.0, 2.0)), line(10, 99, seconds=(1.0, 3.0))
    assert (differ_much([[one], [other]], "steps"), differ_much([[one], [other]], "seconds")) == (True, False)
    one, other = line(10, 1000, seconds=(1.0, 2.0)), line(10, 900, seconds=(0.0, 30.0))
    assert (differ_much([[one], [other]], "steps"), differ_much([[one], [other]], "seconds")) == (False, False)
    one, other = line(0, 1000, seconds=(1.0, 2.0)), line(10, 900, seconds=(1.0, 30.0))
    assert (differ_much([[one], [other]], "steps"), differ_much([[one], [other]], "seconds")) == (False, True)


def test_smoothing_takes_a_twentieth_of_the_range_to_either_side_and_less_towards_the_ends():
    x, y = np.arange(101.0), np.zeros(101)
    y[50] = 1.0
    smooth = smoothed(x, y, np.ones(101))
    assert np.flatnonzero(smooth).tolist() == list(range(45, 56))
    assert smooth[50] == pytest.approx(1 / 11)
    first, last = np.zeros(101), np.zeros(101)
    first[0] = last[100] = 1.0
    assert np.flatnonzero(smoothed(x, first, np.ones(101))).tolist() == [0, 1, 2, 3, 4, 5]
    assert smoothed(x, first, np.ones(101))[:2] == pytest.approx([1, 1 / 3])
    at_end = smoothed(x, last, np.ones(101))
    assert np.flatnonzero(at_end).tolist() == [95, 96, 97, 98, 99, 100]
    assert at_end[100] == pytest.approx(1 / 2)  # the last report may be of a single episode
    weighted = smoothed(x, y, np.where(x == 50, 3.0, 1.0))
    assert weighted[50] == pytest.approx(3 / 13)


# Labels


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([{"preset": "a"}], ["a"]),
        ([{"preset": "a", "seed": 1}, {"preset": "a", "seed": 2}], ["a", "a"]),
        ([{"env.id": "X", "preset": "a"}, {"env.id": "Y", "preset": "a"}], ["X", "Y"]),
        ([{"env.id": "X", "preset": "a"}, {"env.id": "Y", "preset": "b"}], ["X · a", "Y · b"]),
        ([{"preset": "a", "tuned": True}, {"preset": "a", "tuned": False}], ["a · tuned", "a · untuned"]),
        ([{"preset": "a", "tuned": True}, {"preset": "b", "tuned": False}], ["a", "b"]),
        (
            [{"preset": "a", "network.shared": True, "network.hidden": [1, 2]}, {"preset": "a", "loss.gamma": 0.5}],
            ["a · network.shared=true · network.hidden=1,2 · loss.gamma=0.99",
             "a · network.shared=false · network.hidden=64,64 · loss.gamma=0.5"],
        ),
        ([{"preset": "a", "own": 1}, {"preset": "a"}], ["a · own=1", "a · own=None"]),
        (
            [{"preset": "a", "w": n % 2, "x": n, "y": n, "z": n, "v": n} for n in (1, 2)],
            [f"a · w={n % 2} · x={n} · y={n} · 2 more" for n in (1, 2)],
        ),
        (
            [*({"preset": "a", **dict.fromkeys("wxy", 1), "z": z} for z in (1, 2, 1)),
             {"preset": "a", "w": 2, "x": 2, "y": 2}],
            ["a · w=1 · x=1 · y=1 · 1 more", "a · w=1 · x=1 · y=1 · 1 more (2)", "a · w=1 · x=1 · y=1 · 1 more",
             "a · w=2 · x=2 · y=2 · 1 more"],
        ),
    ],
)  # fmt: skip
def test_a_label_names_what_differs_and_the_same_label_means_the_same_settings(runs, expected):
    assert labels(runs) == expected


def test_a_setting_that_is_not_a_number_ends_no_labels():
    """NaN differs from itself: somebody else's config.toml may have it."""
    assert labels([{"preset": "appo", "x": float("nan")}, {"preset": "appo", "x": float("nan")}]) == ["appo", "appo"]
    assert labels([{"preset": "appo", "x": float("nan")}, {"preset": "appo", "x": 1}]) == ["appo · x=nan", "appo · x=1"]
