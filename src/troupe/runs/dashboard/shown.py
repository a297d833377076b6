"""What the page shows of one run, as plain values for JSON."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from troupe import safe_files
from troupe.runs.dashboard.columns import Values, as_lists, thinned
from troupe.runs.dashboard.reading import PART_BYTES, Event, Metrics, names_in
from troupe.runs.report.labels import Settings, read_measured, read_settings, read_target
from troupe.runs.report.lines import smoothed
from troupe.runs.report.words import Limits, View, bottleneck_words, progress, time_left, training_return
from troupe.runs.store.curve_descriptions import stage_name
from troupe.runs.store.lock import FILE as LOCK
from troupe.runs.store.lock import is_held
from troupe.runs.store.summary import Summary, summary_of
from troupe.text import counted, format_duration, format_return, format_speed, setting_text

MEDIA = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_ERROR_BYTES = 2**20
_EVENTS = 200  # the newest, in the log
_OUTCOMES = {"solved": "solved", "steps": "done", "time": "done", "callback": "done", "failed": "failed"}


class ShownRun:
    """A run directory below `root`. `refresh` reads on, and `show` gives what the page has of it so far. Files that
    links lead out of `root` for are as if they were not there."""

    def __init__(self, root: Path, path: Path):
        self._root, self.path = root, path
        self.id = readable(path.relative_to(root).as_posix() if path != root else root.name)
        self.settings: Settings = {}
        self.measured: Sequence[str] = ()  # of the settings, those that a measurement decided
        self.lines: dict[str, tuple[Values, Values]] = {}  # by axis, the smoothed training return; as of `show`
        self.changed = self.looked = 0.0  # when: seconds since 1970
        self.complete = False  # whether all that is there has been read
        self._file = 0  # its number in the file system
        self._about: tuple[Any, ...] = ()
        self._read = self._metrics = Metrics()  # what is read so far; what is shown
        self._shown: dict[str, Any] | None = None

    @property
    def environment(self) -> str:
        return str(self.settings.get("env.id", ""))

    def refresh(self) -> None:
        """Reads the next part of what is new. Raises OSError where the run is no longer there."""
        read = self._read_metrics()
        stamps = [
            self._stamp(name) for name in ("config.toml", "summary.json", "checkpoints", "error.txt", "videos", LOCK)
        ]
        about = *stamps, stamps[-1] is not None and is_held(self.path)
        if about != self._about:
            self._about = about
            inside = self._inside("config.toml", "summary.json", "checkpoints")
            self.settings = read_settings(self.path) if inside else {}
            self.measured = read_measured(self.path) if inside else []
            read = True
        self.looked = time.time()
        if read:
            self.changed, self._shown = self.looked, None

    def show(self) -> dict[str, Any]:
        self._shown = self._shown or self._show()
        return self._shown

    def _read_metrics(self) -> bool:
        """Whether there is something new to show: of a long run a sample, and the whole when all of it was read."""
        if not self._inside("metrics.jsonl"):
            raise FileNotFoundError(self.path)
        with safe_files.open_to_read(self.path / "metrics.jsonl") as file:
            status = os.fstat(file.fileno())
            if self._file != status.st_ino or self._read.is_shorter_than_read(status.st_size):  # it is another file
                self._file, self.complete = status.st_ino, False
                self._read = self._metrics = Metrics(names_in(file, status.st_size))
                if status.st_size > PART_BYTES:
                    self._metrics = Metrics(self._read.names)
                    self._metrics.sample(file, status.st_size)
                    return True
            added, self.complete = self._read.read_on(file)
            if self._metrics is self._read:
                return added
            if self.complete:
                self._metrics = self._read
            return self.complete

    def _inside(self, *names: str) -> bool:
        """Whether the files are in the folder that is shown, where no links lead out of it."""
        try:
            return all((self.path / name).resolve().is_relative_to(self._root) for name in names)
        except (OSError, RuntimeError):  # links in a circle
            return False

    def _stamp(self, name: str) -> tuple[int, int] | None:
        with suppress(OSError):
            if self._inside(name):
                status = (self.path / name).stat()
                return status.st_mtime_ns, status.st_size
        return None

    def media(self) -> list[Path]:
        """Its videos, the newest first."""
        if not self._inside("videos"):
            return []
        files = {file: self._stamp(f"videos/{file.name}") for file in (self.path / "videos").glob("*")}
        known = [(stamp, file) for file, stamp in files.items() if stamp and file.suffix.lower() in MEDIA]
        return [file for _, file in sorted(known, reverse=True) if file.is_file()]

    def _show(self) -> dict[str, Any]:
        summary = summary_of(self.path) if self._inside("summary.json") else Summary()
        target = read_target(self.path, self.settings) if self._inside("checkpoints", "summary.json") else None
        state = "training" if self._about[-1] else _OUTCOMES.get(summary.outcome, "interrupted")
        return {
            "id": self.id,
            "environment": self.environment,
            "preset": str(self.settings.get("preset", "")),
            "seed": str(self.settings.get("seed", "")),
            "state": state,
            "target": target,
            "curves": self._curves(),
            "words": self._words(target),
            "shares": self._shares(),
            "events": [_event(event) for event in self._metrics.events[-_EVENTS:]],
            "settings": {name: setting_text(value) for name, value in self.settings.items()},
            "media": [
                {"name": name, "url": f"file/{self.id}/videos/{name}"}
                for name in (readable(file.name) for file in self.media())
            ],
            "error": self._error() if state == "failed" and self._inside("error.txt") else "",
        }

    def _words(self, target: float | None) -> dict[str, Any]:
        last = self._metrics.last
        if not last:
            return {}
        row, stop = msgspec.to_builtins(last), self.settings
        limits = Limits(_number(stop.get("stop.steps")), _number(stop.get("stop.seconds")), target)
        means = [event.mean for event in self._metrics.events if event.kind == "evaluation" and event.mean is not None]
        returns = self.lines["steps"][1].tolist() if self.lines else []
        fraction, words = progress(View(row, limits, returns, None))
        try:
            limiting = bottleneck_words(row)
        except (KeyError, ValueError):  # a file that was not written by us
            limiting = ""
        return {
            "progress": words,
            "fraction": fraction,
            "left": time_left(row, limits).removeprefix(", "),
            "limits": limiting,
            "return": training_return(row),
            "best": format_return(max(means, default=None)),
            "steps": f"{last.steps:,}",
            "time": format_duration(last.seconds),
            "speed": format_speed(last.steps_per_s),
            "lag": "" if last.lag_mean is None else f"{last.lag_mean:.1f}",
            "lag_max": f"{last.lag_max or 0:g}",
            "queue": f"{last.queue_depth:,} of {last.queue_capacity:,}" if last.queue_capacity else "",
            "wall": last.wall,
        }

    def _shares(self) -> dict[str, dict[str, float]]:
        last = self._metrics.last
        return {
            part: {stage_name(stage): round(share, 4) for stage, share in stages.items() if share >= 0.005}
            for part, stages in (last.shares if last else {}).items()
        }

    def _curves(self) -> dict[str, dict[str, Any]]:
        """By axis, the columns in few points; that of seconds has returns only."""
        table, names = self._metrics.table, list(self._metrics.names)
        self.lines = {}
        if not len(table):
            return {}
        curves = {}
        ended = table[np.isfinite(table[:, names.index("return_mean")])]
        for number, axis in enumerate(("steps", "seconds")):
            columns = {}
            if len(ended):
                weight = np.diff(ended[:, 0], prepend=0).clip(1)
                smooth = smoothed(ended[:, number], ended[:, names.index("return_mean")], weight)
                x, mean, low, high = thinned(ended[:, number], np.column_stack([smooth, ended]))
                self.lines[axis] = x, mean[:, 0]
                lowest, highest = (1 + names.index(name) for name in ("return_min", "return_max"))
                columns = {"return_x": x, "return": mean[:, 0], "low": low[:, lowest], "high": high[:, highest]}
            if axis == "steps":
                x, mean, _, high = thinned(table[:, 0], table)
                columns |= {"x": x} | {name: mean[:, names.index(name)] for name in names[5:]}
                columns["lag_max"] = high[:, names.index("lag_max")]
            curves[axis] = as_lists(columns)
        return curves

    def _error(self) -> str:
        try:
            return safe_files.read(self.path / "error.txt", _ERROR_BYTES).decode(errors="replace")
        except (OSError, ValueError) as error:
            return f"error.txt cannot be read: {error}"


_PURPOSES = {"final": "final evaluation of the best weights", "confirm": "evaluation that confirms the target"}


def _event(event: Event) -> dict[str, Any]:
    """An entry of the log: the words, and the place of its mark in the picture."""
    mean = format_return(event.mean)
    if event.kind == "evaluation":
        what = _PURPOSES.get(event.purpose, "evaluation")
        low, high = format_return(event.min), format_return(event.max)
        words = f"{what}: {mean}, from {low} to {high}, {counted(event.episodes or 0, 'episode')}"
    elif event.kind == "collapse":
        answer = "back to the best weights" if event.answer == "rollback" else "reported"
        words = f"collapse: evaluation {mean}; {answer}"
    elif event.kind == "gap":
        words = (
            f"no metrics from step {event.from_steps or 0:,.0f} on: they could not be written, or the run was killed"
        )
    else:
        words = "resumed" if event.kind == "resume" else event.kind
    kind = "final" if event.purpose == "final" else event.kind
    return {"kind": kind, "steps": event.steps, "seconds": event.seconds, "mean": event.mean, "words": words}


def readable(name: str) -> str:
    """A file's name may be no text, which JSON could not hold."""
    return os.fsencode(name).decode(errors="replace")


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and math.isfinite(value) else 0
