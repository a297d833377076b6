"""Interquartile mean, probability of improvement and their intervals: worked numbers, and compare's tables."""

import json
import re

import numpy as np
import pytest

from troupe.runs.report.statistics import (
    interquartile_mean,
    interval,
    latex,
    markdown,
    of_variants,
    probability_of_improvement,
)


def column(*values):
    return np.array(values, float)[:, None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1, 9), 4.5),  # of 3, 4, 5, 6
        ((0, 100, 7, 8, 9), 8.0),  # a quarter of five runs, rounded down, is one
        ((1, 2, 9), 4.0),  # none of three
        ((3,), 3.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values, expected):
    assert interquartile_mean(column(*values)) == expected


def test_it_is_of_all_runs_of_all_tasks_together():
    assert interquartile_mean(np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]])) == 4.5


def test_the_interquartile_mean_is_scipys_trimmed_mean():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(seed + 1, 3))
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((1, 2, 3), (2, 2), 0.5),  # 1 loses, 2 ties, 3 wins
        ((3, 4), (1, 2), 1.0),
        ((1, 2), (3, 4), 0.0),
        ((1, 4), (0, 2, 3), 4 / 6),
    ],
)
def test_the_probability_of_improvement_counts_pairs_and_ties_by_half(ours, theirs, expected):
    assert probability_of_improvement(column(*ours), column(*theirs)) == pytest.approx(expected)


def test_it_is_the_mean_over_tasks_and_compares_within_a_task():
    ours, theirs = np.array([[2.0, 10.0]]), np.array([[1.0, 20.0]])
    assert probability_of_improvement(ours, theirs) == 0.5


def test_the_bootstrap_of_two_runs_has_means_of_0_a_half_and_1():
    """A quarter, a half and a quarter of all resamples: 95 % lie between 0 and 1."""
    assert interval(lambda scores: scores.mean(axis=(-2, -1)), column(0, 1)) == (0.0, 1.0)


def test_runs_are_resampled_within_their_task():
    """Tasks of constant scores: across tasks the mean of a resample would vary."""
    scores = np.array([[0.0, 10.0]] * 4)
    assert interval(lambda resampled: resampled.mean(axis=(-2, -1)), scores) == (5.0, 5.0)


def test_an_interval_of_the_mean_is_about_two_standard_errors_to_either_side():
    scores = np.random.default_rng(1).normal(size=(100, 1))
    low, high = interval(lambda resampled: resampled.mean(axis=(-2, -1)), scores)
    error = scores.std() / 10
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.2 * error)


def test_tables_have_a_row_for_each_variant_against_the_first():
    figures = of_variants({"appo": [10, 20, 30, 40], "a3c, loss.lam=1 & more_": [40, 50], "one": [5.0], "none": []})
    assert figures["appo"]["iqm"] == 25.0
    assert "improvement" not in figures["appo"]
    assert figures["a3c, loss.lam=1 & more_"]["improvement"] == pytest.approx(7.5 / 8)
    assert figures["one"]["iqm_interval"] is None
    head, _, *rows = markdown(figures)
    assert "P(better than appo)" in head
    assert [row.split("|")[1].strip() for row in rows] == ["appo", "a3c, loss.lam=1 & more_", "one"]
    assert rows[0].split("|")[3].strip() == "25.0"
    lines = latex(figures).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    assert r"a3c, loss.lam=1 \& more\_ & 2 & 45.0" in latex(figures)
    assert all(line.endswith(r"\\") and line.count(" & ") == 5 for line in lines[4:6])


FIGURES = {
    "appo": {"runs": 4, "iqm": 25.0, "iqm_interval": (10.0, 12345.6)},
    "a3c & more_": {"runs": 12, "iqm": 4.567, "iqm_interval": None, "improvement": 0.125},
    "x": {"runs": 2, "iqm": 0.0, "iqm_interval": (-1.0, 1.0), "improvement": 1.0, "improvement_interval": (0.5, 1.0)},
}


def test_a_table_in_markdown_is_aligned_numbers_to_the_right():
    assert markdown(FIGURES) == [
        "| preset      | runs |  IQM |  95 % interval | P(better than appo) | 95 % interval |",
        "| :---------- | ---: | ---: | -------------: | ------------------: | ------------: |",
        "| appo        |    4 | 25.0 | 10.0 to 12,346 |                   - |             - |",
        "| a3c & more_ |   12 | 4.57 |   n = 12: none |                0.12 |   n = 4: none |",
        "| x           |    2 | 0.00 |  -1.00 to 1.00 |                1.00 |  0.50 to 1.00 |",
    ]


def test_a_table_in_latex_needs_no_package_and_has_no_special_characters():
    assert (
        latex(FIGURES)
        == r"""\begin{tabular}{lrrrrr}
\hline
preset & runs & IQM & 95 \% interval & P(better than appo) & 95 \% interval \\
\hline
appo & 4 & 25.0 & 10.0 to 12,346 & - & - \\
a3c \& more\_ & 12 & 4.57 & n = 12: none & 0.12 & n = 4: none \\
x & 2 & 0.00 & -1.00 to 1.00 & 1.00 & 0.50 to 1.00 \\
\hline
\end{tabular}
"""
    )
    escaped = latex({"$#{}": {"runs": 1, "iqm": 0.0, "iqm_interval": None}})
    assert r"\$\#\{\} & 1 " in escaped


def test_figures_have_intervals_where_there_are_five_runs_and_more_on_both_sides():
    """That of four or fewer is hardly more than their minimum and maximum: the number of runs is said instead."""
    four, five, six = [0.0, 1.0, 2.0, 9.0], [2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 6
    made = of_variants({"five": five, "four": four, "six": six, "one": [4.0]})
    low, high = made["five"]["iqm_interval"]
    assert made["five"] == {"runs": 5, "iqm": 4.0, "iqm_interval": (low, high)}
    assert 2.0 <= low < 4.0 < high <= 6.0
    assert made["four"] == {"runs": 4, "iqm": 1.5, "iqm_interval": None, "improvement": 0.275}
    assert made["six"]["improvement_interval"] == (0.0, 0.0)
    assert made["one"] == {"runs": 1, "iqm": 4.0, "iqm_interval": None, "improvement": 0.5}
    cells = [[cell.strip() for cell in row.split("|")[4:7]] for row in markdown(made)[3:]]
    assert [each[0] for each in cells] == ["n = 4: none", "1.00 to 1.00", "n = 1: none"]
    assert [each[2] for each in cells] == ["n = 4: none", "0.00 to 0.00", "n = 1: none"]
    few = of_variants({"four": four, "five": five})
    assert few["five"]["iqm_interval"]
    assert "improvement_interval" not in few["five"]
    assert markdown(few)[-1].endswith("n = 4: none |")
    assert of_variants({"none": []}) == {}


def test_intervals_are_the_same_again_and_of_the_seed():
    scores = column(*range(9))
    mean = lambda resampled: resampled.mean(axis=(-2, -1))  # noqa: E731
    assert interval(mean, scores) == interval(mean, scores, seed=0) != interval(mean, scores, seed=1)
    two = lambda one, other: one.mean(axis=(-2, -1)) - other.mean(axis=(-2, -1))  # noqa: E731
    assert interval(two, column(1, 1), column(4, 4)) == (-3.0, -3.0)


@pytest.mark.slow
def test_a_comparison_prints_and_writes_them(tmp_path, run_command):
    few = "--steps 256 --target none --evaluation.every_seconds 0 --evaluation.final_episodes 1 --actors 1"
    status, out, _ = run_command(
        f"compare CartPole-v1 --vary loss.lam=0.5,0.9 --seeds 2 --run-dir {tmp_path}/all --quiet {few}"
    )
    assert status == 0
    assert "IQM" in out
    figures = json.loads((tmp_path / "all" / "comparison.json").read_text())["statistics"]
    assert list(figures) == ["appo, loss.lam=0.5", "appo, loss.lam=0.9"]
    assert 0 <= figures["appo, loss.lam=0.9"]["improvement"] <= 1
    assert "P(better than appo, loss.lam=0.5)" in (tmp_path / "all" / "comparison.md").read_text()
    assert re.match(r"\\begin\{tabular\}", (tmp_path / "all" / "comparison.tex").read_text())
