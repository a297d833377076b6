"""metrics.jsonl and the TensorBoard file: what they hold, and what they survive."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from helpers.parts import blank_rollout
from troupe import cli
from troupe.runs.report.reporter import Reporter, bottleneck
from troupe.runs.store.metrics import MetricsLog, to_json
from troupe.runtime.progress import Counts, Episode, Progress, Stopwatch
from troupe.runtime.topologies import Topology


def row(steps: int, **more: Any) -> dict[str, Any]:
    return {"kind": "report", "wall": 1e9 + steps, "seconds": 0.1, "steps": steps, "return_mean": 2.5, **more}


def lines(run: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row(1), row(2, shares={"actor": {"env": 0.5}}, return_mean=None)]
    with MetricsLog(tmp_path, pytest.fail) as log:
        for each in rows:
            log.write(each)
        assert lines(tmp_path) == rows  # at once: a run that is killed loses none
    assert lines(tmp_path) == rows


def test_what_is_not_finite_becomes_null(tmp_path):
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.write(row(1, loss=math.nan, deep={"value": [math.inf, 1.0, -math.inf]}))
    assert lines(tmp_path) == [row(1, loss=None, deep={"value": [None, 1.0, None]})]


def test_json_of_a_summary_is_strict():
    assert json.loads(to_json({"target": math.inf, "steps": 3, "kept": 1e300}, indent=2)) == {
        "target": None,
        "steps": 3,
        "kept": 1e300,
    }


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard reads them."""
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(each.step, round(each.value, 4)) for each in events.Scalars(tag)] for tag in tags}


def evaluation(steps: int, purpose: str, mean: float) -> dict[str, Any]:
    return {"kind": "evaluation", "purpose": purpose, "wall": 1e9, "seconds": 1.0, "steps": steps, "mean": mean}


def test_tensorboard_reads_curves_in_groups_with_one_point_for_each_step(tmp_path):
    with MetricsLog(tmp_path, pytest.fail) as log:
        more = {"approx_kl": 0.01, "my_penalty": 3.0, "queue_depth": 2, "lag_mean": 1.0, "stale": 0, "restarts": 0}
        log.write(
            row(7, shares={"actor": {"env": 0.5, "preempted": 0.25}}, bottleneck="actor: env", return_min=None, **more)
        )
        log.write(row(7, return_mean=4.5))  # of the same step: the later one counts
        log.write(row(9, stale=3, stage_seconds={"actor": {"env": 5.0}}, queue_capacity=3))
        log.write(row(9, return_per_1000_steps=5.0, episodes=0))
        log.write(row(10, return_per_1000_steps=6.0, episodes=1))  # which a return of episodes says better
        log.write(evaluation(8, "progress", 1.0))
        log.write(evaluation(8, "confirm", 2.0))
        log.write(evaluation(9, "final", 4.0))
        log.write({"kind": "collapse", "wall": 1e9, "seconds": 1.0, "steps": 9, "mean": 4.0, "answer": "report"})
        log.write({"kind": "gap", "wall": 1e9, "seconds": 1.0, "steps": 9, "rows": 3})
    assert curves(tmp_path) == {
        "time/training_seconds": [(7, 0.1), (9, 0.1), (10, 0.1)],
        "episode/training_return": [(7, 4.5), (9, 2.5), (10, 2.5)],
        "time/fraction/actor/env": [(7, 0.5)], "time/fraction/actor/no_free_core": [(7, 0.25)],
        "episode/training_return_per_1000_steps": [(9, 5.0)], "episode/training_episodes": [(9, 0.0), (10, 1.0)],
        "policy/approx_kl": [(7, 0.01)], "loss/my_penalty": [(7, 3.0)],
        "queue/queue_depth": [(7, 2.0)], "queue/lag_mean": [(7, 1.0)], "queue/stale": [(9, 3.0)],
        "episode/evaluation_return": [(8, 2.0)], "episode/final_evaluation_return": [(9, 4.0)],
    }  # fmt: skip


def test_curves_of_a_resumed_run_have_no_step_twice(tmp_path):
    for first, last in ((1, 5), (3, 8)):  # resumed at step 3
        with MetricsLog(tmp_path, pytest.fail) as log:
            if first > 1:
                log.resume(first, 1.0)
            for steps in range(first, last):
                log.write(row(steps, return_mean=float(first)))
    assert curves(tmp_path)["episode/training_return"] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        *((n, 3.0) for n in range(4, 8)),
    ]


def test_a_run_in_tensorboard_has_its_settings_as_hyperparameters_and_only_the_usual_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--evaluation.final_episodes", "2", "--evaluation.every_steps", "100", "--target", "none", "--quiet"]
    assert cli.run(["train", "CartPole-v1", "--topology", "serial", "--steps", "300", "--run-dir", "run", *few]) == 0
    found = curves(Path("run"))
    groups = {tag.partition("/")[0] for tag in found}
    assert groups == {"episode", "loss", "policy", "queue", "time", "update"}
    assert all(len({step for step, _ in points}) == len(points) for points in found.values())
    events = EventAccumulator("run")
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["learner.learning_rate"].number_value == 3e-3
    assert start.hparams["preset"].string_value == "appo"
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    first = {info.name for info in experiment.hparam_infos if info.differs}  # those that TensorBoard shows
    assert first == {"preset", "env.id", "seed", "stop.target", "stop.steps"}
    assert [metric.name.tag for metric in experiment.metric_infos] == ["episode/final_evaluation_return"]


def test_a_resumed_run_appends_and_a_line_cut_short_costs_only_itself(tmp_path):
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.write(row(1))
        log.write(row(2))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])  # kill -9 in the middle of a line
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.write(row(3))
    assert [each["steps"] for each in lines(tmp_path)] == [1, 3]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize("torn", [row(2), row(2, text="long" * 50_000)])
def test_what_is_left_of_a_row_is_cut_off_however_long_and_a_row_without_its_line_break_is_kept(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(to_json(row(1)) + b"\n" + to_json(torn)[:-1])
    MetricsLog(tmp_path, pytest.fail)._close()
    assert lines(tmp_path) == [row(1)]
    file.write_bytes(to_json(row(1)) + b"\n" + to_json(torn))
    MetricsLog(tmp_path, pytest.fail)._close()
    assert file.read_bytes().endswith(b"}\n")
    assert lines(tmp_path) == [row(1), torn]


@pytest.mark.parametrize(
    ("seconds", "torn", "gap"), [(1.0, b"", False), (1.0, b'{"kind": "rep', True), (60.0, b"", True)]
)
def test_a_run_that_goes_on_marks_what_no_report_tells_of(tmp_path, seconds, torn, gap):
    (tmp_path / "metrics.jsonl").write_bytes(to_json(row(10)) + b"\n" + torn)
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.resume(steps=500, seconds=seconds)
        log.write(row(600))
    first, *marked, resumed, last = lines(tmp_path)
    assert (first, last) == (row(10), row(600))
    assert (resumed["kind"], resumed["steps"], resumed["seconds"]) == ("resume", 500, seconds)
    for each in marked:
        assert (each["kind"], each["from_steps"], each["steps"]) == ("gap", 10, 500)
        assert (each["from_seconds"], each["seconds"]) == (0.1, seconds)
    assert len(marked) == gap


def test_nothing_is_marked_that_a_resumed_run_does_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(to_json(row(10)) + b"\n" + to_json(row(900)) + b'\n{"kind"')
    with MetricsLog(tmp_path, pytest.fail) as log:
        log.resume(steps=500, seconds=60.0)
    assert [each["kind"] for each in lines(tmp_path)] == ["report", "report", "resume"]


FULL = "metrics are no longer written: no space left on device; the run continues, and each"


def fill_the_disk(log: MetricsLog) -> None:
    log._lines.close()
    log._lines = open("/dev/full", "wb", buffering=0)  # noqa: SIM115


def test_a_full_disk_is_reported_once_and_what_is_missing_at_the_end(tmp_path, monkeypatch):
    warned: list[str] = []
    with MetricsLog(tmp_path, warned.append) as log:
        log.write(row(1))
        fill_the_disk(log)
        log.write(row(2))
        log.write(row(3))
        monkeypatch.setattr(MetricsLog, "_open", lambda self: fill_the_disk(self))
        log.retry()
        log.write(row(4))
    assert warned == [
        f"{FULL} checkpoint tries again", "metrics from step 2 on could not be written: plots will have a gap there"
    ]  # fmt: skip
    assert [each["steps"] for each in lines(tmp_path)] == [1]


def test_a_disk_that_has_room_again_is_written_to_and_the_gap_is_marked(tmp_path):
    warned: list[str] = []
    with MetricsLog(tmp_path, warned.append) as log:
        log.write(row(1))
        fill_the_disk(log)
        for number in (2, 3, 4):
            log.write(row(number))
        log.retry()
        log.retry()
        log.write(row(5))
    assert warned == [f"{FULL} checkpoint tries again", "metrics are written again; missing: 3 rows from step 2 on"]
    assert [each["steps"] for each in lines(tmp_path)] == [1, 4, 5]
    gap = lines(tmp_path)[1]
    assert (gap["kind"], gap["from_steps"], gap["steps"], gap["rows"]) == ("gap", 2, 4, 3)
    assert (gap["from_seconds"], gap["seconds"]) == (row(2)["seconds"], row(4)["seconds"])
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2  # a record cut short ends a file for its readers


def test_a_row_of_which_the_disk_took_a_part_is_written_on(tmp_path, monkeypatch):
    with MetricsLog(tmp_path, pytest.fail) as log:
        whole = log._lines.write
        monkeypatch.setattr(log, "_lines", SimpleNamespace(write=lambda data: whole(data[:10])))
        log.write(row(1))
        monkeypatch.undo()
    assert lines(tmp_path) == [row(1)]


PONG = {  # learning is half of the cost: the actors wait for empty rollouts, the learner for nothing
    "actor": {"wait": 0.76, "act": 0.17, "env": 0.04, "other": 0.03},
    "learner": {"wait": 0.03, "learn": 0.9, "other": 0.07},
}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (PONG, "learner: learn"),
        ({"actor": {"wait": 0.7, "env": 0.2, "act": 0.1}, "learner": {"wait": 0.1, "learn": 0.9}}, "learner: learn"),
        ({"actor": {"wait": 0.0, "env": 0.6, "act": 0.4}, "learner": {"wait": 0.5, "learn": 0.5}}, "actor: env"),
        ({"actor": {"env": 0.4, "act": 0.6}, "learner": {"wait": 0.2, "learn": 0.8}}, "actor: act"),
        # Sleeping environments: the learner is busier than the actors, but it waits for them.
        (
            {"actor": {"env_wait": 0.9, "act": 0.1, "wait": 0.0}, "learner": {"wait": 0.4, "learn": 0.6}},
            "actor: env_wait",
        ),
        (
            {"actor": {"delay": 0.6, "turn": 0.2, "act": 0.2}, "learner": {"wait": 0.5, "turn": 0.1, "learn": 0.4}},
            "actor: delay",
        ),
        ({"actor": {"turn": 0.7, "act": 0.3}, "learner": {"wait": 0.1, "turn": 0.5, "learn": 0.4}}, "actor: turn"),
        # GA3C: actors wait for the predictors.
        (
            {
                "actor": {"wait": 0.9, "env": 0.1},
                "predictor": {"wait": 0.2, "predict": 0.8},
                "learner": {"wait": 0.9, "learn": 0.1},
            },
            "predictor: predict",
        ),
        # Serial: each waits while the other works.
        ({"actor": {"wait": 0.4, "env": 0.5, "act": 0.1}, "learner": {"wait": 0.6, "learn": 0.4}}, "actor: env"),
        ({"actor": {"wait": 0.6, "env": 0.4}, "learner": {"wait": 0.4, "learn": 0.6}}, "learner: learn"),
        # Hogwild: workers that are all.
        ({"actor": {"env": 0.3, "act": 0.2, "learn": 0.5}}, "actor: learn"),
        # Other programs have the processors: of what is ours, acting.
        ({"actor": {"preempted": 0.8, "act": 0.15, "env": 0.05}, "learner": {"wait": 0.9, "learn": 0.1}}, "actor: act"),
        ({"actor": {"wait": 0.8, "env": 0.2}, "learner": {"wait": 0.7, "learn": 0.3}}, "nothing"),
        # Actors in processes that have not delivered yet, and nothing known at all.
        ({"actor": {}, "learner": {"wait": 1.0}}, ""),
        ({"actor": {"preempted": 0.9, "other": 0.1}, "learner": {"wait": 1.0}}, ""),
        ({"actor": {}, "learner": {"wait": 0.1, "learn": 0.9}}, "learner: learn"),
        ({"actor": {}, "learner": {}}, ""),
        ({}, ""),
    ],
)
def test_the_bottleneck_is_the_largest_stage_of_the_part_that_waits_least(shares, expected):
    assert bottleneck(shares) == expected


class Part:
    def __init__(self) -> None:
        self.watch = Stopwatch()


def test_shares_are_of_the_parts_at_work_and_of_the_time_since_the_measurement_before(monkeypatch):
    """Two of three actors are wanted; the third, which waits to be wanted, is no part of their shares."""
    actors, learner = [Part() for _ in range(3)], Part()
    parts = SimpleNamespace(
        runners=actors,
        predictors=[],
        learners=[learner],
        progress=Progress(),
        master=SimpleNamespace(version=0),
        workers=SimpleNamespace(current={"actors": 2, "predictors": 0, "learners": 1}),
        cluster=None,
        queue=SimpleNamespace(depth=0, capacity=1),
        learning_rate=1e-3,
    )
    parts.watches = partial(Topology.watches, parts)
    reporter = Reporter(parts, 0.0)
    actors[0].watch.add({"env": 3.0, "wait": 1.0})
    actors[1].watch.add({"env": 1.0, "wait": 3.0, "pause": 50.0})
    actors[2].watch.add({"wait": 100.0})
    learner.watch.add({"learn": 1.0, "wait": 9.0})
    assert reporter.report(1.0)["bottleneck"] == ""  # not before a batch; and shares are since the beginning until then
    first = reporter.report(10.0)
    assert first["shares"] == {"actor": {"env": 0.5, "wait": 0.5}, "learner": {"learn": 0.1, "wait": 0.9}}
    assert first["bottleneck"] == "actor: env"
    learner.watch.add({"learn": 9.0, "wait": 1.0})  # and no news of the actors, which are in processes
    second = reporter.report(20.0)
    assert second["shares"] == {"actor": {"env": 0.5, "wait": 0.5}, "learner": {"learn": 0.9, "wait": 0.1}}
    assert second["bottleneck"] == "learner: learn"
    assert second["stage_seconds"] == {"actor": {"env": 4.0, "wait": 4.0}, "learner": {"learn": 10.0, "wait": 10.0}}


def test_reports_with_counts_and_a_clock_by_script(monkeypatch):
    """Returns, rewards, lags and losses are of the time since the report before, counts of the whole run; speeds are
    measured where at least four batches were learned from since the last measurement, and else kept."""
    monkeypatch.setattr("troupe.runs.report.reporter.time.time", lambda: 1e9)
    progress, master, queue = Progress(Counts(steps=500, episodes=40, updates=30)), SimpleNamespace(), SimpleNamespace()
    master.version, queue.depth, queue.capacity = 70, 2, 5
    parts = SimpleNamespace(
        runners=[], predictors=[], learners=[], progress=progress, master=master, queue=queue, learning_rate=0.25,
        workers=SimpleNamespace(current={"actors": 2, "predictors": 0, "learners": 1}), cluster=None,
    )  # fmt: skip
    parts.watches = partial(Topology.watches, parts)
    reporter = Reporter(parts, 10.0)

    def happens(steps: int, returns: list[float], updates: int, lag: int) -> None:
        progress.play(steps, [Episode(each, 2 * number) for number, each in enumerate(returns, 1)], 0.5 * steps)
        rollout = blank_rollout(steps, policy_version=master.version - lag)
        progress.consume([rollout], master.version)
        for _ in range(updates):
            progress.update(applied=True)
        progress.metrics.add({"entropy": 0.125 * updates}, steps)
        master.version += updates

    same = {
        "kind": "report", "wall": 1e9, "skipped_updates": 0, "learning_rate": 0.25, "queue_depth": 2,
        "queue_capacity": 5, "numbers": {"actors": 2, "predictors": 0, "learners": 1}, "stale": 0, "restarts": 0,
        "stage_seconds": {}, "shares": {}, "bottleneck": "", "return_per_1000_steps": 500.0,
    }  # fmt: skip

    def reported(seconds: float, **expected: Any) -> None:
        row, expected = reporter.report(seconds), same | expected | {"seconds": seconds}
        assert {name: row[name] for name in expected} == expected

    row = reporter.report(10.1)
    assert (row["steps"], row["steps_per_s"], row["updates_per_s"]) == (500, None, None)  # not known yet
    assert (row["lag_mean"], row["lag_max"]) == (None, None)
    happens(100, [3.0, -1.0, 4.0], 4, lag=2)
    reported(
        12.0,
        steps=600,
        episodes=43,
        updates=34,
        return_mean=2.0,
        return_min=-1.0,
        return_max=4.0,
        recent_return=2.0,
        length_mean=4.0,
        lag_mean=2.0,
        lag_max=2,
        entropy=0.5,
        steps_per_s=50.0,
        updates_per_s=2.0,
    )
    happens(60, [], 1, lag=0)
    reported(
        13.0,
        steps=660,
        episodes=43,
        updates=35,
        return_mean=None,
        return_min=None,
        return_max=None,
        recent_return=2.0,
        length_mean=None,
        lag_mean=0.0,
        lag_max=0,
        entropy=0.125,
        steps_per_s=50.0,
        updates_per_s=2.0,
    )
    happens(90, [6.0], 4, lag=1)
    reported(
        14.0,
        steps=750,
        episodes=44,
        updates=39,
        return_mean=6.0,
        return_min=6.0,
        return_max=6.0,
        recent_return=3.0,
        length_mean=2.0,
        lag_mean=1.0,
        lag_max=1,
        entropy=0.5,
        steps_per_s=75.0,
        updates_per_s=2.5,
    )
    progress.metrics.add({"epsilon": 0.25}, 10)
    reported(14.5, steps=750, updates=39, entropy=None, epsilon=0.25, learning_rate=0.25, lag_mean=1.0, lag_max=1)
    reported(15.0, steps=750, updates=39, entropy=None, epsilon=0.25, policy_loss=None)
