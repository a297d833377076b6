"""A run's metrics on disk: metrics.jsonl, one row per line, and beside it TensorBoard's event file."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from troupe import safe_files
from troupe.config import UsageError, reason
from troupe.runs.store.directory import runs_inside
from troupe.runs.store.tensorboard import EventFile

_Plain = Annotated[int, Meta(ge=-(2**62), le=2**62)] | float | bool | str | None
_DECODER = msgspec.json.Decoder(dict[str, _Plain | dict[str, _Plain | dict[str, _Plain]]])
Row = dict[str, Any]
_BLOCK_BYTES = 2**16
_UNREPORTED_SECONDS = 5.0  # of training; a run reports every 2 seconds


class MetricsLog:
    """Appends rows to metrics.jsonl and to a TensorBoard file beside it.

    A full disk does not end the run: it is reported once, `retry` tries again, and a row of kind "gap" then marks the
    missing rows.
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

    def __exit__(self, *_: object) -> None:
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
                self._events.add(row)
                return
            except (OSError, ValueError) as error:  # ValueError: it could not be opened again
                why = reason(error)
                self._warn(f"metrics are no longer written: {why}; the run continues, and each checkpoint tries again")
                self._close()
        self._missing = [*self._missing[:1], row]
        self._lost += 1

    def resume(self, steps: int, seconds: float) -> None:
        """The run is resumed from there: a row of kind "resume" says so, and one of kind "gap" marks earlier steps for
        which nothing was written."""
        last = next((row for row in reversed(read_log(self._run)) if _is_report(row)), {"steps": 0, "seconds": 0.0})
        unreported = seconds - last["seconds"]
        if last["steps"] < steps and (self._cut or unreported > _UNREPORTED_SECONDS):
            span = {f"from_{name}": last[name] for name in ("seconds", "steps")} | {"seconds": seconds, "steps": steps}
            self.write({"kind": "gap", "wall": time.time(), **span, "rows": None})
        with suppress(OSError):
            self._events.resume(steps)
        self.write({"kind": "resume", "wall": time.time(), "seconds": seconds, "steps": steps})

    def retry(self) -> None:
        """Resumes writing after a failure, if that is possible again."""
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
        """Continues in another directory. Raises OSError."""
        self._close()
        self._run = run
        self._open()

    def _open(self) -> None:
        self._lines = self._files.enter_context(safe_files.append(self._run / "metrics.jsonl"))
        self._end_last_line()
        self._events = EventFile(self._run)
        self._files.callback(self._events.close)

    def _end_last_line(self) -> None:
        """Cuts off what a full disk or kill -9 left of a row; one that only lacks its line break is kept."""
        start = end = self._lines.seek(0, os.SEEK_END)
        rest = b""
        while start and b"\n" not in rest:
            if len(rest) > safe_files.LINE_BYTES:
                raise OSError(errno.EFBIG, "metrics.jsonl ends with a line that is too long")
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
        """Raises OSError unless there is room for many rows: a single one would only be followed by another gap."""
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
        """A nearly full disk accepts a part of the data before it fails."""
        while data:
            data = data[self._lines.write(data) :]


def read_log(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl. Lines that a crash left incomplete are skipped."""
    run = Path(run)
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise UsageError(f"{run} is not a run directory: it has no metrics.jsonl{runs_inside(run)}")
    rows: list[Row] = []
    try:
        for line in safe_files.lines(file):
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                row = _DECODER.decode(line)
                msgspec.convert(row, _Known)  # raises where what is computed with is out of range
                rows.append(row)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {reason(error)}") from None
    return rows


_Amount = Annotated[float, Meta(ge=0, le=1e15)] | None
_Number = Annotated[float, Meta(ge=-1e300, le=1e300)] | None


class _Known(msgspec.Struct):
    """What is computed with, of a row of any kind; it has more."""

    kind: str = ""
    purpose: str = ""
    bottleneck: str = ""
    steps: _Amount = None
    seconds: _Amount = None
    from_steps: _Amount = None
    from_seconds: _Amount = None
    episodes: _Amount = None
    lag_mean: _Amount = None
    lag_max: _Amount = None
    steps_per_s: _Amount = None
    updates_per_s: _Amount = None
    weights_steps: Annotated[float, Meta(ge=-1, le=1e15)] | None = None
    mean: _Number = None
    min: _Number = None
    max: _Number = None
    return_mean: _Number = None
    return_min: _Number = None
    return_max: _Number = None
    recent_return: _Number = None
    return_per_1000_steps: _Number = None
    shares: dict[str, dict[str, float]] = {}


def _is_report(row: Row) -> bool:
    return row.get("kind") == "report" and None not in (row.get("steps"), row.get("seconds"))


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Strict JSON: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
