"""Trackers: callbacks that send a run's settings, metrics, best agent and video to an experiment tracker.

Server, project and whether to work offline are configured by the tracker's own environment variables.
"""

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from troupe import safe_files
from troupe.config import TroupeError, flatten, one_line
from troupe.extras import need
from troupe.runs.callbacks.callback import Callback, Training
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.tensorboard import curves

_FILE = "trackers.json"  # in the run directory: the run's id in each tracker
_PROJECT = "troupe"  # unless the environment variables name another


class Service(Protocol):
    """One tracking service."""

    def begin(self, run: Training, settings: Mapping[str, Any], known: str | None) -> str:
        """Begins a run there, or continues the run with the id `known`; returns the id."""

    def log(self, values: Mapping[str, float], steps: int, wall: float) -> None:
        """Adds a point to each curve, at `steps`; `wall` is in seconds since 1970."""

    def add(self, file: Path, kind: str) -> None:
        """Uploads the file; `kind` is "model", "video" or "picture"."""

    def end(self, outcome: str) -> None: ...


class Tracker(Callback):
    """Reports a run to a service. A resumed run continues there."""

    def __init__(self, name: str, service: Service):
        self._name, self._service = name, service

    def on_start(self, run: Training) -> None:
        names = _read(run.path)
        settings = {name: value for name, value in flatten(asdict(run.config)) if value not in ("", (), {})}
        names[self._name] = self._service.begin(run, settings, names.get(self._name))
        write_durably(run.path / _FILE, json.dumps(names).encode())

    def on_report(self, run: Training, row: Mapping[str, Any]) -> None:  # noqa: ARG002
        values = {name: value for name, value in curves(row) if math.isfinite(value)}
        self._service.log(values, row["steps"], row["wall"])

    def on_evaluation(self, run: Training, row: Mapping[str, Any]) -> None:
        self.on_report(run, row)

    def on_end(self, run: Training) -> None:
        assert run.outcome is not None
        if run.outcome != "failed":
            with tempfile.TemporaryDirectory() as folder:
                self._add_files(run, Path(folder))
        self._service.end(run.outcome)

    def _add_files(self, run: Training, folder: Path) -> None:
        agent, video, picture = folder / "agent.safetensors", folder / "agent.mp4", run.path / "plots" / "learning.png"
        run.agent(best=True).save(agent)
        self._service.add(agent, "model")
        if picture.is_file():
            self._service.add(picture, "picture")
        try:
            run.video(video)
        except TroupeError as error:  # many environments cannot be rendered
            logging.getLogger("troupe").warning(f"no video for {self._name}: {one_line(error)}")
        else:
            self._service.add(video, "video")


def _read(run: Path) -> dict[str, str]:
    return safe_files.read_json(run / _FILE, dict[str, str]) or {}


class WandB:
    """Weights & Biases (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and others)."""

    def begin(self, run: Training, settings: Mapping[str, Any], known: str | None) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=run.path.name, config=dict(settings),
            dir=str(run.path), id=known, resume="allow" if known else None, settings=wandb.Settings(console="off"),
        )  # fmt: skip
        self._run.define_metric("steps")
        self._run.define_metric("*", step_metric="steps")
        return str(self._run.id)

    def log(self, values: Mapping[str, float], steps: int, wall: float) -> None:
        self._run.log({**values, "steps": steps, "_timestamp": wall})

    def add(self, file: Path, kind: str) -> None:
        import wandb

        if kind == "model":
            artifact = wandb.Artifact(f"agent-{self._run.id}", type="model")
            artifact.add_file(str(file))
            self._run.log_artifact(artifact)
        else:
            made = wandb.Video(str(file), format="mp4") if kind == "video" else wandb.Image(str(file))
            self._run.log({kind: made})

    def end(self, outcome: str) -> None:
        self._run.summary["outcome"] = outcome
        self._run.finish(exit_code=int(outcome == "failed"))


class MLflow:
    """MLflow (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and others)."""

    _MOST_PARAMETERS = 100  # of a call

    def begin(self, run: Training, settings: Mapping[str, Any], known: str | None) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = str(self._client.create_run(experiment, run_name=run.path.name).info.run_id)
        parameters = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(parameters), self._MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + self._MOST_PARAMETERS])
        return self._id

    def log(self, values: Mapping[str, float], steps: int, wall: float) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(wall * 1000), steps) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def add(self, file: Path, kind: str) -> None:
        self._client.log_artifact(self._id, str(file), artifact_path=kind)

    def end(self, outcome: str) -> None:
        self._client.set_tag(self._id, "outcome", outcome)
        status = {"failed": "FAILED", "interrupted": "KILLED"}.get(outcome, "FINISHED")
        self._client.set_terminated(self._id, status, end_time=int(time.time() * 1000))


SERVICES: Mapping[str, Callable[[], Service]] = {"wandb": WandB, "mlflow": MLflow}


def tracker(name: str) -> Tracker:
    """Raises UsageError, with the pip command, where its package is missing."""
    need(name)
    return Tracker(name, SERVICES[name]())
