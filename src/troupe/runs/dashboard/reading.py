"""One run's files, read a little at a time, and after that only what was added.

They may be torn, or a stranger's: what is no number where one belongs is skipped, and a link that leads out of the
folder is not followed.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, BinaryIO

import msgspec
import numpy as np
from jaxtyping import Float

Table = Float[np.ndarray, "reports columns"]

PART_BYTES = 2**21  # of metrics, at a time
_BLOCKS, _BLOCK_BYTES = 256, 2**12  # of a sample
_TAIL_BYTES = 2**16
NAMES = (  # of the columns; what a loss or a callback adds follows them
    "steps", "seconds", "return_mean", "return_min", "return_max", "lag_mean", "lag_max", "queue_depth", "steps_per_s",
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance", "gradient_norm",
    "learning_rate", "length_mean",
)  # fmt: skip
_NO_COLUMNS = {  # numbers of a report that only grow, or that another column has
    "wall", "episodes", "updates", "skipped_updates", "queue_capacity", "stale", "restarts", "failures", "epsilon",
    "updates_per_s", "recent_return", "return_per_1000_steps",
}  # fmt: skip


class Report(msgspec.Struct):
    """What a report says in words and bars."""

    kind: str
    steps: int
    seconds: float
    wall: float = 0.0
    episodes: int | None = None
    recent_return: float | None = None
    return_per_1000_steps: float | None = None
    lag_mean: float | None = None
    lag_max: float | None = None
    queue_depth: int = 0
    queue_capacity: int = 0
    steps_per_s: float | None = None
    shares: dict[str, dict[str, float]] = {}
    bottleneck: str = ""


class Event(msgspec.Struct):
    """A row that is no report."""

    kind: str
    steps: float
    seconds: float
    wall: float = 0.0
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    purpose: str = ""
    answer: str = ""
    episodes: int | None = None
    from_steps: float | None = None
    from_seconds: float | None = None
    after: int = 0  # how many reports came before it


_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Metrics:
    """The rows of a metrics.jsonl so far: `table` has one for each report and a column for each of `names`, `last` is
    the newest report, `events` are the other rows. What a resumed run repeated is in them once."""

    def __init__(self, names: Sequence[str] = NAMES) -> None:
        self.names = names
        self.table: Table = np.empty((0, len(names)))
        self.events: list[Event] = []
        self.last: Report | None = None
        self._offset = 0

    def sample(self, file: BinaryIO, size: int) -> None:
        """Reads rows from all over a large file, and the last ones."""
        lines: list[bytes] = []
        for start in np.linspace(0, size - _BLOCK_BYTES, _BLOCKS).astype(int).tolist():
            file.seek(start)
            lines += file.read(_BLOCK_BYTES).split(b"\n")[1:2]
        file.seek(size - _BLOCK_BYTES)
        self._add([*lines, *file.read(_BLOCK_BYTES).split(b"\n")[2:-1]])

    def read_on(self, file: BinaryIO) -> tuple[bool, bool]:
        """Reads up to PART_BYTES more; whether there was anything, and whether that was the end. A line that is still
        being written waits."""
        file.seek(self._offset)
        data = file.read(PART_BYTES)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == PART_BYTES:  # no row of ours is so long
            end = len(data)
        self._offset += end
        self._add(data[:end].splitlines())
        return end > 0, len(data) < PART_BYTES

    def is_shorter_than_read(self, size: int) -> bool:
        return size < self._offset

    def _add(self, lines: Sequence[bytes]) -> None:
        own = [name.removeprefix("own.") for name in self.names if name.startswith("own.")]
        decoder, found, newest = _rows(tuple(self.names[: len(self.names) - len(own)])), [], b""
        for line in lines:
            row = _decoded(decoder, line)
            if row and row.kind == "report" and None not in (row.f0, row.f1) and min(row.f0, row.f1) >= 0:
                found.append((*msgspec.structs.astuple(row)[2:], *(row.own.get(name) for name in own)))
                newest = line
            elif row and row.kind != "report" and (event := _decoded(_EVENT, line)):
                event.after = len(self.table) + len(found)
                self.events.append(event)
        if found:
            self.last = _decoded(_REPORT, newest) or self.last
            self._drop_repeated(np.concatenate([self.table, np.array(found, float)]))  # None becomes NaN

    def _drop_repeated(self, table: Table) -> None:
        """Where the steps go back, a run was resumed: what went further before is left out."""
        steps = table[:, 0]
        back = np.where(np.diff(steps, prepend=steps[0]) < 0, steps, np.inf)
        least = np.append(np.minimum.accumulate(back[::-1])[::-1], np.inf)  # from each row on
        keep = steps <= least[1:]
        before = np.append(0, np.cumsum(keep))
        self.table = table[keep]
        self.events = [event for event in self.events if event.steps <= least[event.after]]
        for event in self.events:
            event.after = int(before[event.after])


def names_in(file: BinaryIO, size: int) -> Sequence[str]:
    """The columns there are, by the newest report."""
    file.seek(max(0, size - _TAIL_BYTES))
    for line in reversed(file.read().splitlines()):
        if (report := _decoded(_REPORT, line)) and report.kind == "report":
            return *NAMES, *_others(line)
    return NAMES


def _decoded(decoder: Any, line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except _BROKEN:
        return None


@cache
def _rows(names: tuple[str, ...]) -> Any:
    """A decoder of these numbers, called f0, f1, ...: it skips all else, and so is fast."""
    fields = [(f"f{number}", float | None, None) for number in range(len(names))]
    renamed = {f"f{number}": name for number, name in enumerate(names)}
    first: list[Any] = [("kind", str), ("own", dict[str, float | None], msgspec.field(default_factory=dict))]
    return msgspec.json.Decoder(msgspec.defstruct("Row", [*first, *fields], rename=renamed))


def _others(line: bytes) -> list[str]:
    """The names of further numbers in a report: those of a loss, then those that callbacks log."""
    row = msgspec.json.decode(line)
    numbers = [name for name, value in row.items() if value is None or type(value) in (int, float)]
    own = row.get("own") if isinstance(row.get("own"), dict) else {}
    known = {*NAMES, *_NO_COLUMNS, "own"}
    others = [name for name in numbers if name not in known and not name.startswith("own.")]
    return others + [f"own.{name}" for name in own]


_REPORT, _EVENT = msgspec.json.Decoder(Report), msgspec.json.Decoder(Event)
