"""Trackers: Weights & Biases and MLflow get a run's settings, metrics, best agent and video, in files of their own."""

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import numpy as np
import pytest

import troupe
from troupe import UsageError
from troupe.config import TrainConfig
from troupe.runs.callbacks import trackers
from troupe.runs.callbacks.trackers import Tracker
from troupe.runs.store.tensorboard import curves

TINY = {
    "topology": "serial", "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1,
    "network.hidden": (8,), "evaluation.every_seconds": 0.0, "evaluation.every_steps": 64, "evaluation.episodes": 1,
    "evaluation.final_episodes": 2, "stop.target": "none", "stop.steps": 200,
}  # fmt: skip


class Memory:
    """A service that remembers."""

    def __init__(self) -> None:
        self.known: list[str | None] = []
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, float], int]] = []
        self.files: dict[str, bytes] = {}
        self.outcomes: list[str] = []

    def begin(self, run, settings, known):
        self.known.append(known)
        self.settings = dict(settings)
        return "number 7"

    def log(self, values, steps, wall):
        self.logged.append((dict(values), steps))

    def add(self, file, kind):
        self.files[kind] = file.read_bytes()

    def end(self, outcome):
        self.outcomes.append(outcome)


def train(folder: Path, *callbacks: Any, **more: Any) -> troupe.Run:
    return troupe.train(
        "CartPole-v1", settings=TINY, run_dir=folder / "run", tuned=False, callbacks=callbacks, display="silent", **more
    )


@pytest.mark.usefixtures("pictures")
@pytest.mark.slow
def test_a_tracker_is_told_settings_curves_agent_video_and_outcome_and_a_resumed_run_continues_there(tmp_path):
    service = Memory()
    run = train(tmp_path, Tracker("memory", service))
    assert service.settings["network.hidden"] == (8,)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert service.logged == [(dict(curves(row)), row["steps"]) for row in rows]
    assert service.files.keys() == {"model", "video", "picture"}
    (tmp_path / "agent.safetensors").write_bytes(service.files["model"])
    assert troupe.load(tmp_path / "agent.safetensors").act(np.zeros(4, np.float32)) in (0, 1)
    assert service.files["video"][4:8] == b"ftyp"
    troupe.resume(run.path, steps=230, callbacks=[Tracker("memory", service)])
    assert (service.known, service.outcomes) == ([None, "number 7"], ["steps", "steps"])


@pytest.mark.usefixtures("pictures")
def test_an_environment_without_pictures_has_no_video_and_a_failed_run_no_files(tmp_path, echo, caplog):
    service = Memory()
    troupe.train(echo, settings=TINY, run_dir=tmp_path / "run", callbacks=[Tracker("memory", service)])
    assert service.files.keys() == {"model", "picture"}
    assert "no video for memory: " in caplog.text

    class Breaks(troupe.Callback):
        def on_report(self, run, row):
            raise ValueError

    service = Memory()
    with pytest.raises(troupe.TroupeError):
        train(tmp_path / "other", Breaks(), Tracker("memory", service))
    assert (service.files, service.outcomes) == ({}, ["failed"])


def pretended_run(folder: Path, outcome: str = "steps") -> Any:
    def agent(*, best: bool) -> Any:
        return SimpleNamespace(save=lambda file: file.write_text(f"best: {best}"))

    made = {"path": folder, "config": TrainConfig(), "outcome": outcome, "agent": agent}
    return SimpleNamespace(**made, video=lambda file: file.write_text("a video"))


def test_a_tracker_is_told_settings_points_and_files_and_knows_the_run_again(tmp_path):
    """Settings without a value are left out, and so are numbers that are not finite; ids of other trackers stay."""
    run, service = pretended_run(tmp_path), Memory()
    (tmp_path / "trackers.json").write_text('{"other": "id 3"}')
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "learning.png").write_text("a picture")
    tracker = Tracker("memory", service)
    tracker.on_start(run)
    assert (service.settings["learner.epochs"], service.settings["seed"]) == (4, 0)
    assert not {"env.id", "env.kwargs", "env.wrappers"} & service.settings.keys()
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"other": "id 3", "memory": "number 7"}
    assert service.known == [None]
    report = {"kind": "report", "steps": 8, "wall": 5.0, "return_mean": 2.5}
    final = {"kind": "evaluation", "purpose": "final", "steps": 9, "wall": 6.0, "mean": 3.0}
    tracker.on_report(run, report | {"entropy": math.nan})
    tracker.on_evaluation(run, final)
    assert service.logged == [(dict(curves(report)), 8), (dict(curves(final)), 9)]
    assert [list(values.values()) for values, _ in service.logged] == [[2.5], [3.0]]
    tracker.on_end(run)
    assert service.files == {"model": b"best: True", "picture": b"a picture", "video": b"a video"}
    assert service.outcomes == ["steps"]
    Tracker("memory", service).on_start(run)
    assert service.known == [None, "number 7"]
    for damaged in ("[1]", "{", ""):
        (tmp_path / "trackers.json").write_text(damaged)
        Tracker("memory", service).on_start(run)
        assert service.known.pop() is None


@pytest.mark.parametrize("project", [None, "poles"])
@pytest.mark.parametrize("known", [None, "id 7"])
def test_weights_and_biases_gets_the_run_by_name_and_continues_one_that_it_knows(project, known, tmp_path, monkeypatch):
    """Its own package is replaced by one that remembers the calls."""
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if project:
        monkeypatch.setenv("WANDB_PROJECT", project)
    service, begun = trackers.WandB(), wandb.init.return_value
    begun.id, begun.summary = 7, {}
    assert service.begin(pretended_run(tmp_path / "one"), {"seed": 3}, known) == "7"
    about = wandb.init.call_args.kwargs
    assert (about["project"], about["name"], about["config"]) == (project or "troupe", "one", {"seed": 3})
    assert (about["id"], about["resume"]) == (known, "allow" if known else None)
    assert about["dir"] == str(tmp_path / "one")
    assert about["settings"] is wandb.Settings.return_value
    assert wandb.Settings.call_args == call(console="off")
    assert begun.define_metric.mock_calls == [call("steps"), call("*", step_metric="steps")]
    service.log({"return/training": 2.5}, 80, 5.0)
    for kind in ("video", "picture", "model"):
        service.add(tmp_path / kind, kind)
    assert begun.log.mock_calls == [
        call({"return/training": 2.5, "steps": 80, "_timestamp": 5.0}),
        call({"video": wandb.Video.return_value}), call({"picture": wandb.Image.return_value}),
    ]  # fmt: skip
    assert wandb.Video.call_args == call(str(tmp_path / "video"), format="mp4")
    assert wandb.Image.call_args == call(str(tmp_path / "picture"))
    assert wandb.Artifact.call_args == call("agent-7", type="model")
    assert wandb.Artifact.return_value.add_file.call_args == call(str(tmp_path / "model"))
    assert begun.log_artifact.call_args == call(wandb.Artifact.return_value)
    service.end("failed" if known else "steps")
    assert begun.summary == {"outcome": "failed" if known else "steps"}
    assert begun.finish.call_args == call(exit_code=1 if known else 0)


@pytest.fixture
def mlflow_client(monkeypatch) -> MagicMock:
    """Of a package that remembers the calls; parameters are pairs, and points tuples."""
    package = MagicMock()
    package.entities.Param = lambda name, value: (name, value)
    package.entities.Metric = lambda *point: point
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", package.entities)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    client: MagicMock = package.MlflowClient.return_value
    client.create_run.return_value.info.run_id = 7
    client.create_experiment.return_value = "made"
    client.get_experiment_by_name.return_value.experiment_id = "found"
    return client


def test_mlflow_gets_all_settings_points_in_milliseconds_and_files(mlflow_client, tmp_path):
    service = trackers.MLflow()
    settings = {f"setting{number}": number for number in range(230)}
    assert service.begin(pretended_run(tmp_path / "one"), settings, None) == "7"
    assert mlflow_client.get_experiment_by_name.call_args == call("troupe")
    assert mlflow_client.create_run.call_args == call("found", run_name="one")
    batches = [each.kwargs["params"] for each in mlflow_client.log_batch.mock_calls]
    assert [len(each) for each in batches] == [100, 100, 30]  # it takes a hundred in a call
    assert [pair for each in batches for pair in each] == [(name, str(value)) for name, value in settings.items()]
    service.log({"return/training": 2.5}, 80, 5.5)
    assert mlflow_client.log_batch.call_args == call("7", metrics=[("return/training", 2.5, 5500, 80)])
    service.add(tmp_path / "agent.mp4", "video")
    assert mlflow_client.log_artifact.call_args == call("7", str(tmp_path / "agent.mp4"), artifact_path="video")


def test_mlflow_makes_an_experiment_that_is_missing_and_continues_a_run_that_it_knows(
    mlflow_client, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "poles")
    mlflow_client.get_experiment_by_name.return_value = None
    trackers.MLflow().begin(pretended_run(tmp_path / "one"), {}, None)
    assert mlflow_client.create_experiment.call_args == call("poles")
    assert mlflow_client.create_run.call_args == call("made", run_name="one")
    mlflow_client.reset_mock()
    service = trackers.MLflow()
    assert service.begin(pretended_run(tmp_path / "one"), {"seed": 3}, "id 7") == "id 7"
    assert mlflow_client.mock_calls == [call.update_run("id 7", status="RUNNING")]
    service.log({"return/training": 2.5}, 80, 5.5)
    assert mlflow_client.log_batch.call_args.args == ("id 7",)


@pytest.mark.parametrize(
    ("outcome", "status"), [("failed", "FAILED"), ("interrupted", "KILLED"), ("solved", "FINISHED")]
)
def test_mlflow_gets_the_outcome_and_the_time_of_the_end(outcome, status, mlflow_client, tmp_path, monkeypatch):
    service = trackers.MLflow()
    service.begin(pretended_run(tmp_path), {}, "id 7")
    monkeypatch.setattr(trackers.time, "time", lambda: 5.5)
    service.end(outcome)
    assert mlflow_client.set_tag.call_args == call("id 7", "outcome", outcome)
    assert mlflow_client.set_terminated.call_args == call("id 7", status, end_time=5500)


@pytest.mark.parametrize("name", trackers.SERVICES)
def test_a_missing_package_is_named_with_its_pip_command(tmp_path, run_command, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *_: None)
    status, _, error = run_command(f"train CartPole-v1 --track {name} --run-dir {tmp_path}/run")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"troupe: {name} is not installed: pip install '{name}")
    with pytest.raises(UsageError, match=f"{name} is not installed"):
        train(tmp_path, name)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(run_command):
    status, _, error = run_command("train CartPole-v1 --track wandbb")
    assert (status, error.count("\n")) == (2, 1)
    assert "--track 'wandbb': expected wandb or mlflow; did you mean wandb?" in error


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch, run_command):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    words = " ".join(f"--{name} {value}" for name, value in TINY.items() if name != "network.hidden")
    assert run_command(f"train CartPole-v1 {words} --untuned --quiet --track wandb --run-dir {tmp_path}/run")[0] == 0
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    found = _wandb_records(record)
    assert json.loads(found["config"]["learner.learning_rate"]) == 1e-3
    assert {"episode/evaluation_return", "policy/entropy", "episode/final_evaluation_return", "steps"} <= found[
        "history"
    ]
    assert any(name.startswith("video") for name in found["history"])
    assert found["artifacts"] == ["model"]
    assert found["exit"] == 0
    known = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    assert known in folder.name
    assert run_command(f"resume {tmp_path}/run --steps 300 --quiet --track wandb")[0] == 0
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"] == known


def _wandb_records(file: Path) -> dict[str, Any]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"config": {}, "history": set(), "artifacts": [], "exit": None}
    for data in _whole_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.run.config.update:
            found["config"][item.key or ".".join(item.nested_key)] = item.value_json
        for item in record.history.item:
            found["history"].add(item.key or ".".join(item.nested_key))
        if record.HasField("artifact"):
            found["artifacts"].append(record.artifact.type)
        if record.HasField("exit"):
            found["exit"] = record.exit.exit_code
    return found


def _whole_records(data: bytes) -> Iterator[bytes]:
    """Of a log as LevelDB writes it: blocks of 32 KiB, in which a record may be split; 7 bytes stand before all."""
    at, whole, block = 7, b"", 2**15
    while at + 7 <= len(data):
        if block - at % block < 7:  # no room for a header: filled with zeros
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.usefixtures("pictures")
@pytest.mark.slow
def test_mlflow_in_a_local_file(tmp_path, monkeypatch, run_command):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "poles")
    words = " ".join(f"--{name} {value}" for name, value in TINY.items() if name != "network.hidden")
    assert run_command(f"train CartPole-v1 {words} --untuned --quiet --track mlflow --run-dir {tmp_path}/run")[0] == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("poles").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params["loss.kind"] == "appo"
    assert run.info.status == "FINISHED"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (final,) = client.get_metric_history(run.info.run_id, "episode/final_evaluation_return")
    assert (final.value, final.step) == (rows[-1]["mean"], rows[-1]["steps"])
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"model", "video", "picture"}
    assert run_command(f"resume {tmp_path}/run --steps 300 --quiet --track mlflow")[0] == 0
    assert len(client.search_runs([experiment])) == 1
