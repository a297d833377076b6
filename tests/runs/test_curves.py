"""Curves and rows of a run, read from its metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from troupe.runs.report.curves import metrics_in, only_return, read_curve, read_rows, rows_until


def write(run: Path, *rows: dict[str, Any]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def report(steps: int, **more: Any) -> dict[str, Any]:
    return {"kind": "report", "steps": steps, "seconds": steps / 10, "return_mean": steps / 4, "episodes": steps} | more


def test_each_kind_of_row_is_in_its_curve(tmp_path):
    evaluation = {"kind": "evaluation", "seconds": 1.5, "mean": 7.0}
    run = write(
        tmp_path / "run",
        report(10), evaluation | {"purpose": "progress", "steps": 11}, report(20, return_mean=None),
        evaluation | {"purpose": "confirm", "steps": 21, "weights_steps": 19},
        {"kind": "collapse", "steps": 22, "seconds": 2.5, "mean": 1.0},
        {"kind": "gap", "from_steps": 22, "steps": 29, "from_seconds": 2.5, "seconds": 2.75, "rows": 3},
        {"kind": "resume", "steps": 29, "seconds": 2.9},
        report(30, seconds=float("inf"), entropy=0.5, shares={"actor": {"env": 0.25}}, bottleneck="learner: learn"),
        evaluation | {"purpose": "final", "steps": 31, "weights_steps": 21},
        evaluation | {"steps": 32}, report(40),
    )  # fmt: skip
    curve = read_curve(run)
    assert (curve.steps.tolist(), curve.seconds.tolist()) == ([10, 40], [1.0, 4.0])
    assert (curve.returns.tolist(), curve.episodes.tolist()) == ([2.5, 10.0], [10, 40])
    assert {each.dtype.name for each in (curve.steps, curve.episodes, curve.final.steps)} == {"int64"}
    for points, steps, weights in (
        (curve.evaluations, [11, 21, 32], [-1, 19, -1]), (curve.final, [31], [21]), (curve.collapses, [22], [-1]),
    ):  # fmt: skip
        assert (points.steps.tolist(), points.weights_steps.tolist()) == (steps, weights)
        assert points.weights_steps.dtype.name == "int64"
    assert (curve.evaluations.seconds.tolist(), curve.evaluations.returns.tolist()) == ([1.5] * 3, [7.0] * 3)
    assert curve.collapses.returns.tolist() == [1.0]
    assert curve.gaps.tolist() == [[22, 29, 2.5, 2.75]]
    assert curve.resumptions.tolist() == [[29, 2.9]]


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"lag_mean": 1e16}, {"shares": {"actor": {"env": "x"}}}, {"kind": 3}])
def test_a_row_that_cannot_be_computed_with_is_passed_over(tmp_path, wrong):
    run = write(tmp_path / "run", report(10), report(20) | wrong, report(30, unknown="x"))
    assert [row["steps"] for row in read_rows(run)] == [10, 30]


def test_any_number_of_reports_has_a_curve_without_evaluations(tmp_path):
    shares = {"actor": {"env": 0.25}}
    rows = [report(10, entropy=0.5), report(20, shares=shares, bottleneck="learner: learn"), report(15, entropy=0.25)]
    run = write(tmp_path / "run", *rows, {"kind": "evaluation", "steps": 15, "seconds": 1.5, "mean": 1.0})
    curve = read_curve(run, "entropy")
    assert (curve.steps.tolist(), curve.returns.tolist()) == ([10, 15], [0.5, 0.25])
    assert not len(curve.evaluations.steps)
    assert read_curve(write(run, *rows[:2]), "shares.actor.env").returns.tolist() == [0.25]
    assert not len(read_curve(run, "bottleneck").steps)
    assert metrics_in(run) == {"steps", "seconds", "return_mean", "episodes", "entropy", "shares.actor.env"}


def test_of_a_run_that_was_resumed_twice_every_step_is_there_once(tmp_path):
    rows = [report(10), report(20), report(20), report(30), {"kind": "evaluation", "steps": 12}, report(15), report(25),
            {"kind": "gap", "steps": 25}, {"kind": "odd"}, report(5), report(35)]  # fmt: skip
    run = write(tmp_path / "run", *rows)
    assert [(row["kind"], row.get("steps")) for row in read_rows(run)] == [("odd", None), ("report", 5), ("report", 35)]
    assert [(row["kind"], row.get("steps")) for row in read_rows(write(run, *rows[:8]))] == [
        ("report", 10), ("evaluation", 12), ("report", 15), ("report", 25), ("gap", 25),
    ]  # fmt: skip
    assert [row["steps"] for row in read_rows(write(run, report(10), report(10)))] == [10, 10]


def test_rows_to_continue_from_are_those_up_to_the_step(tmp_path):
    run = write(tmp_path / "run", {"kind": "odd"}, report(10), report(20), report(21))
    assert [row.get("steps") for row in rows_until(run, 20)] == [None, 10, 20]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([report(3, return_min=2.0, return_max=2.0)], 2.0),
        ([report(2, return_min=2.0, return_max=2.0)], None),  # too few episodes
        ([report(1, return_min=2.0, return_max=2.0), report(3, return_min=None)], 2.0),
        ([report(3, return_min=1.0, return_max=2.0)], None),
        ([report(3, return_min=2.0, return_max=2.0), {"kind": "evaluation", "min": 2.0, "max": 3.0}], None),
        ([report(3, return_min=2.0, return_max=2.0), {"kind": "evaluation", "min": 1.0, "max": 2.0}], None),
        ([report(3, return_min=2.0, return_max=2.0), {"kind": "evaluation", "min": 2.0, "max": 2.0}], 2.0),
        ([report(3, return_min=2.0, return_max=2.0), {"kind": "other", "min": 7.0}], 2.0),
        ([report(3, episodes=None, return_min=2.0), report(9, return_max=2.0)], 2.0),
        ([{"kind": "evaluation", "min": 2.0, "max": 2.0, "episodes": 9}], None),
        ([], None),
    ],
)
def test_the_only_return_is_that_of_all_episodes_so_far(tmp_path, rows, expected):
    assert only_return(write(tmp_path / "run", *rows), 3) == expected
