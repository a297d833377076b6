"""A run's metrics as a TensorBoard event file: curves in groups, and the settings as hyperparameters.

TensorBoard's own writer has a thread, which ends in a traceback when the disk is full; this one writes at once.
"""

import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from troupe import safe_files
from troupe.config import settings_in
from troupe.runs.store.curve_descriptions import description, stage_name

GROUPS = {  # of the keys of a report that are curves; TensorBoard sorts groups, and the names in them, by the alphabet
    "episode": "return_mean return_min return_max recent_return return_per_1000_steps length_mean episodes",
    "loss": "policy_loss value_loss bonus bonus_value_loss",
    "policy": "entropy approx_kl clip_fraction",
    "queue": "queue_depth lag_mean lag_max",
    "time": "seconds steps_per_s updates_per_s shares",
    "update": "explained_variance gradient_norm learning_rate updates",
}
IF_CHANGED = {
    "policy": "epsilon",
    "queue": "numbers stale restarts failures",
    "update": "skipped_updates",
}  # usually constant: written only once they change
NO_CURVES = {"kind", "wall", "steps", "queue_capacity", "stage_seconds", "bottleneck"}
NAMES = {  # `training_`: of the exploring actors; other keys keep their names
    "return_mean": "training_return", "return_min": "training_return_min", "return_max": "training_return_max",
    "recent_return": "training_return_of_latest_100",
    "return_per_1000_steps": "training_return_per_1000_steps", "length_mean": "training_length",
    "episodes": "training_episodes", "seconds": "training_seconds", "shares": "fraction",
}  # fmt: skip
FIRST = {"env.id", "preset", "seed", "stop.steps", "stop.target"}  # of the hyperparameters
EVALUATION = {  # of the newest weights
    "mean": "evaluation_return", "min": "evaluation_return_min", "max": "evaluation_return_max",
}  # fmt: skip
FINAL = "episode/final_evaluation_return"  # of the best weights
_GROUP_OF = {key: group for groups in (GROUPS, IF_CHANGED) for group, keys in groups.items() for key in keys.split()}
_SELDOM = {key for keys in IF_CHANGED.values() for key in keys.split()}


class _Point(NamedTuple):
    step: int
    wall: float
    value: float


class EventFile:
    """Writes rows of metrics as curves with one point for each step: the last row of a step counts, which is why a
    point is held back until the next one comes."""

    def __init__(self, run: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file: BinaryIO = safe_files.create(run / name)
        self._records = RecordWriter(self._file)
        self._held: dict[str, _Point] = {}
        self._begin = -1  # the step of the last point in earlier files
        self._first: dict[str, float] = {}  # of what is written only once it changes
        self._described: set[str] = set()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write_settings(run)

    def resume(self, steps: int) -> None:
        """Makes TensorBoard ignore what earlier files hold for later steps."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._begin = steps
        self._write(Event(wall_time=time.time(), step=steps + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: Mapping[str, Any]) -> None:
        ready: dict[tuple[int, float], dict[str, float]] = defaultdict(dict)
        for tag, value in curves(row) if row["steps"] > self._begin else ():
            held = self._held.get(tag)
            if held is None and tag.split("/")[1] in _SELDOM and self._first.setdefault(tag, value) == value:
                continue
            if held is not None and held.step != row["steps"]:
                ready[held.step, held.wall][tag] = held.value
            self._held[tag] = _Point(row["steps"], row["wall"], value)
        self._write_points(ready)

    def close(self) -> None:
        ready: dict[tuple[int, float], dict[str, float]] = defaultdict(dict)
        for tag, (step, wall, value) in self._held.items():
            ready[step, wall][tag] = value
        self._held.clear()
        try:
            self._write_points(ready)
        finally:
            self._file.close()

    def _write_points(self, ready: Mapping[tuple[int, float], Mapping[str, float]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for (step, wall), values in ready.items():
            points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            for point in points:
                if point.tag not in self._described:
                    point.metadata.summary_description = description(point.tag)
                    self._described.add(point.tag)
            self._write(Event(wall_time=wall, step=step, summary=Summary(value=points)))

    def _write_settings(self, run: Path) -> None:
        """The settings in config.toml, for TensorBoard's page of hyperparameters."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        try:
            settings = settings_in(safe_files.read(run / "config.toml").decode())
        except (OSError, ValueError, RecursionError):
            return
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, value in settings.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = str(value)
        # TensorBoard's page has the first five, sorted by name after those that are said to differ between runs.
        infos = [api_pb2.HParamInfo(name=name, differs=name in FIRST) for name in settings]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=FINAL), display_name="final evaluation")]
        experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics, time_created_secs=time.time())
        for tag, data in (
            (metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
            (metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        ):
            value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
            self._write(Event(wall_time=time.time(), summary=Summary(value=[value])))

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def curves(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags and values: GROUP/KEY. Metrics of the user's loss are in the group of losses."""
    row = dict(row)
    yield from _numbers({"own": row.pop("own", {})})
    if row["kind"] == "report":
        shares = {part: _named(stages) for part, stages in row.get("shares", {}).items()}
        if row.get("episodes"):  # whose return says it better
            row.pop("return_per_1000_steps", None)
        for name, value in _numbers(row | {"shares": shares}):
            key, slash, rest = name.partition("/")
            if key not in NO_CURVES:
                yield f"{_GROUP_OF.get(key, 'loss')}/{NAMES.get(key, key)}{slash}{rest}", value
    elif row["kind"] == "evaluation" and row["purpose"] == "final":
        yield FINAL, row["mean"]
    elif row["kind"] == "evaluation":
        for key, name in EVALUATION.items():
            if key in row:
                yield f"episode/{name}", row[key]


def _named(stages: Mapping[str, float]) -> dict[str, float]:
    """As in the panel, with underscores."""
    return {stage_name(stage).replace(" ", "_"): share for stage, share in stages.items()}


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)
