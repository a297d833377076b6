"""What a run tells while it goes on: rows of numbers, kept as JSON lines and for TensorBoard."""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from troupe import safe_files
from troupe.config import reason
from troupe.runs.report.curves import read_metrics
from troupe.runtime.progress import PAUSE, PREEMPTED, WAIT, Stopwatch
from troupe.runtime.topologies import Parts

Row = dict[str, Any]
_BLOCK_BYTES = 2**16
_UNREPORTED_SECONDS = 5.0  # of training; a run reports every 2 seconds


class MetricsLog:
    """Appends rows to metrics.jsonl and to a TensorBoard file beside it.

    A disk that is full does not end the run: it is said once, `retry` tries again, and a row of kind "gap"
    then says which rows are missing.
    """

    def __init__(self, run: Path, warn: Callable[[str], None]):
        self._run, self._warn = run, warn
        self._files = ExitStack()
        self._missing: list[Row] = []  # the first and the last row that could not be written
        self._lost = 0
        self._cut = False  # a line that was written in part
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.retry()
        if self._missing:
            self._warn(
                f"metrics from step {self._missing[0]['steps']:,} on could not be written: plots will have a gap there"
            )
        self._close()

    def write(self, row: Row) -> None:
        if not self._missing:
            try:
                self._append(row)
                self._write_event(row)
                return
            except (OSError, ValueError) as error:  # ValueError: it could not be opened again
                why = reason(error)
                self._warn(f"metrics are no longer written: {why}; the run goes on, and each checkpoint tries again")
                self._close()
        self._missing = [*self._missing[:1], row]
        self._lost += 1

    def resume(self, steps: int, seconds: float) -> None:
        """The run goes on from there: a row of kind "gap" marks the steps of which nothing was written before."""
        last = next((row for row in reversed(read_metrics(self._run)) if _is_report(row)), {"steps": 0, "seconds": 0.0})
        unreported = seconds - last["seconds"]
        if last["steps"] < steps and (self._cut or unreported > _UNREPORTED_SECONDS):
            span = {f"from_{name}": last[name] for name in ("seconds", "steps")} | {"seconds": seconds, "steps": steps}
            self.write({"kind": "gap", "wall": time.time(), **span, "rows": None})

    def retry(self) -> None:
        """Goes on writing, if that has failed and works again."""
        if not self._missing:
            return
        first, last = self._missing[0], self._missing[-1]
        span = {f"from_{name}": first[name] for name in ("seconds", "steps")}
        span |= {name: last[name] for name in ("seconds", "steps")}
        try:
            self._open()
            self._check_room()
            self._append({"kind": "gap", "wall": time.time(), **span, "rows": self._lost})
        except OSError:
            self._close()
            return
        self._warn(f"metrics are written again; missing: {self._lost} rows from step {first['steps']:,} on")
        self._missing, self._lost = [], 0

    def reopen(self, run: Path) -> None:
        """Goes on in another directory. Raises OSError."""
        self._close()
        self._run = run
        self._open()

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._lines = self._files.enter_context(safe_files.append(self._run / "metrics.jsonl"))
        self._end_last_line()
        # TensorBoard's own writer has a thread, which ends in a traceback when the disk is full.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._events = RecordWriter(self._files.enter_context(safe_files.create(self._run / name)))
        self._events.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def _end_last_line(self) -> None:
        """Cuts off what a full disk or kill -9 left of a row; one that only lacks its line break is kept."""
        start = end = self._lines.seek(0, os.SEEK_END)
        rest = b""
        while start and b"\n" not in rest:
            block = min(start, _BLOCK_BYTES)
            start = self._lines.seek(start - block)
            rest = self._lines.read(block) + rest
        rest = rest[rest.rfind(b"\n") + 1 :]
        if not rest:
            return
        try:
            json.loads(rest)
        except (ValueError, RecursionError):
            self._lines.truncate(end - len(rest))
            self._cut = True
        else:
            self._write_whole(b"\n")

    def _check_room(self) -> None:
        """Raises OSError where there is not room for many rows: one that fits would only be followed by another gap."""
        size = self._lines.seek(0, os.SEEK_END)
        try:
            self._write_whole(b" " * _BLOCK_BYTES)
        finally:
            self._lines.truncate(size)

    def _close(self) -> None:
        with suppress(OSError):
            self._files.close()

    def _append(self, row: Row) -> None:
        self._write_whole(to_json(row) + b"\n")

    def _write_whole(self, data: bytes) -> None:
        """A disk that is nearly full takes a part, and only then refuses."""
        while data:
            data = data[self._lines.write(data) :]

    def _write_event(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        group = f"evaluation/{row['purpose']}" if row["kind"] == "evaluation" else row["kind"]
        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in _numbers(row)
            if name not in ("wall", "steps")
        ]
        event = Event(wall_time=row["wall"], step=row["steps"], summary=Summary(value=values))
        self._events.write(event.SerializeToString())


def _is_report(row: Row) -> bool:
    numbers = (row.get("steps"), row.get("seconds"))
    return row.get("kind") == "report" and all(isinstance(each, int | float) for each in numbers)


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON that every reader takes: what is not finite becomes null, as the standard has no word for it."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)


_SHORTEST_SECONDS = 0.02  # the last report may come right after the one before: too soon to measure a speed
MOSTLY = 2 / 3  # of the time: whatever waits that long does not hold the others up
_FEWEST_BATCHES, _LONGEST_SECONDS = 4, 5.0  # one batch more or less should not make the speed another


class Reporter:
    """Turns what the parts have counted into rows, each about the time since the one before."""

    def __init__(self, parts: Parts, seconds: float):
        self._parts = parts
        self._seconds = seconds
        self._steps, self._updates = parts.progress.counts.steps, parts.progress.counts.updates
        self._version = parts.master.version
        self._laps: dict[Stopwatch, dict[str, float]] = {}
        self._spent: dict[str, dict[str, float]] = {}  # by part and stage, since the beginning
        self._spent_before: dict[str, dict[str, float]] = {}  # at the last measurement of pace
        self._shares: dict[str, dict[str, float]] = {}
        self._pace: Row = {}
        self._per_1000_steps: float | None = None

    def begin(self) -> None:
        """The clock starts: that parts waited before for the processes of actors is left out of their shares."""
        self._read_watches()
        self._spent.clear()

    def report(self, seconds: float) -> Row:
        """`seconds` is the training clock's time."""
        parts, counts = self._parts, self._parts.progress.counts
        episodes = parts.progress.take_episodes()
        totals = [episode.total for episode in episodes]
        recent = parts.progress.recent_returns()
        lag_mean, lag_max = parts.progress.take_lag()
        reward, steps = parts.progress.take_reward()
        if steps:
            self._per_1000_steps = _rounded(1000 * reward / steps)
        actors = [seat.actor for seat in parts.actors]
        self._read_watches()
        if not self._pace or self._is_time(seconds - self._seconds):
            self._pace = self._measure_pace(max(seconds - self._seconds, 1e-9))
            self._seconds, self._steps, self._updates = seconds, counts.steps, counts.updates
            self._version = parts.master.version
        return {
            "kind": "report",
            "wall": time.time(),
            "seconds": seconds,
            "steps": counts.steps,
            "episodes": counts.episodes,
            "return_mean": _rounded(np.mean(totals)) if totals else None,
            "return_min": min(totals, default=None),
            "return_max": max(totals, default=None),
            "recent_return": _rounded(np.mean(recent)) if recent else None,
            "return_per_1000_steps": self._per_1000_steps,
            "length_mean": _rounded(np.mean([episode.length for episode in episodes])) if episodes else None,
            "updates": counts.updates,
            "skipped_updates": counts.skipped_updates,
            "learning_rate": parts.learning_rate,
            "queue_depth": parts.queue.depth,
            "queue_capacity": parts.queue.capacity,
            "lag_mean": lag_mean,
            "lag_max": lag_max,
            "numbers": dict(parts.numbers.current),
            "stale": counts.stale,
            "restarts": counts.restarts,
            **{name: float(value) for name, value in (parts.learners or actors)[0].metrics.items()},
            "stage_seconds": {part: _rounded_all(spent) for part, spent in self._spent.items()},
            **self._pace,
        }

    def _is_time(self, elapsed: float) -> bool:
        batches = self._parts.master.version - self._version
        return elapsed >= (_SHORTEST_SECONDS if batches >= _FEWEST_BATCHES else _LONGEST_SECONDS)

    def _measure_pace(self, elapsed: float) -> Row:
        """Speeds and shares of time since the last measurement."""
        counts = self._parts.progress.counts
        for part, spent in self._spent.items():
            before = self._spent_before.get(part, {})
            news = {stage: seconds - before.get(stage, 0.0) for stage, seconds in spent.items()}
            if sum(news.values()) > 0 or part not in self._shares:
                self._shares[part] = shares_of(news)
            self._spent_before[part] = spent.copy()
        return {
            "steps_per_s": (counts.steps - self._steps) / elapsed,
            "updates_per_s": (counts.updates - self._updates) / elapsed,
            "shares": self._shares.copy(),
            "bottleneck": bottleneck(self._shares),
        }

    def _read_watches(self) -> None:
        """Adds to what each kind of part has spent. Those beyond the wanted number wait for nothing but to be wanted;
        pauses are left out. Actors in processes tell of their time with each rollout, so there may be no news."""
        parts, wanted = self._parts, self._parts.numbers.current
        watches = {
            "actor": [seat.actor.watch for seat in parts.actors[: wanted["actors"]]],
            "predictor": [predictor.watch for predictor in parts.predictors[: wanted["predictors"]]],
            "learner": [learner.watch for learner in parts.learners[: wanted["learners"]]],
        }
        for part, those in watches.items():
            for watch in those:
                spent = self._spent.setdefault(part, {})
                before, now = self._laps.get(watch, {}), watch.seconds
                self._laps[watch] = now
                for stage in now.keys() - {PAUSE}:
                    news = now[stage] - before.get(stage, 0.0)
                    spent[stage] = spent.get(stage, 0.0) + max(0.0, news)


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    whole = sum(seconds.values()) or 1.0
    return {stage: _rounded(spent / whole) for stage, spent in seconds.items()}


def bottleneck(shares: Mapping[str, Mapping[str, float]]) -> str:
    """What holds the others up, as "part: stage": the largest stage of the part that waits least for other parts.

    `shares` are of each part's time, by stage. Waiting for something else than another part (`env_wait`: the
    environment waits for its simulator or device; `delay`: env.delay_seconds; `turn`: only one thread computes at a
    time) is a stage like those in which it computes: the others can do nothing about it. "nothing", where every part
    waits for another most of the time; "" as long as nothing is known. What other programs take is no stage of ours.
    """
    waits = {part: stages.get(WAIT, 0.0) for part, stages in shares.items() if stages}
    if not waits:
        return ""
    part = min(waits, key=lambda name: waits[name])
    if waits[part] > MOSTLY:
        silent = [name for name, stages in shares.items() if not stages]
        return silent[0] if silent else "nothing"
    stages = {stage: share for stage, share in shares[part].items() if stage not in (WAIT, PREEMPTED, "other")}
    return f"{part}: {max(stages, key=lambda stage: stages[stage])}" if stages else part


def _rounded_all(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: Any) -> float:
    return round(float(value), 4)
