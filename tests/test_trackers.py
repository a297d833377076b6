"""Trackers: Weights & Biases and MLflow get a run's settings, metrics, best agent and video, in files of their own."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import troupe
from troupe import UsageError
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
