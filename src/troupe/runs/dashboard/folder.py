"""All runs under a folder, for the page: they are read in turn, and sent once they have changed."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from troupe.config import UsageError
from troupe.runs.dashboard.columns import mean_band
from troupe.runs.dashboard.shown import ShownRun, readable
from troupe.runs.report.labels import comparable, labels
from troupe.runs.report.statistics import FEWEST
from troupe.runs.report.tables import runs_in

_READING_SECONDS = 0.5  # for an answer; what is not read by then follows in the next one
_LEAST_SECONDS = 0.5  # between two looks at the files, however many pages ask


class Folder:
    """Any thread may ask; one at a time reads."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise UsageError(f"no folder '{root}'")
        self.root = root.resolve()
        self._runs: dict[Path, ShownRun] = {}
        self._bands: dict[tuple[Any, ...], Any] = {}
        self._named_for: list[Any] = []
        self._names: Mapping[tuple[str, str], Sequence[ShownRun]] = {}
        self._lock = threading.Lock()
        self._looked = self._listed = 0.0
        self._listing_seconds = 0.0

    def answer(self, after: float = 0.0) -> dict[str, Any]:
        """The runs that have changed since the time `after` (seconds since 1970, of an earlier answer's `now`), the ids
        of all, and groups, whose bands are None if they have not changed. `reading`: how many runs have not been read
        to the end."""
        with self._lock:
            if time.monotonic() - self._looked >= _LEAST_SECONDS or not all(
                run.complete for run in self._runs.values()
            ):
                self._look()
            now, runs = time.time(), list(self._runs.values())
            return {
                "now": now,
                "folder": readable(self.root.name or str(self.root)),
                "ids": [run.id for run in runs],
                "reading": sum(not run.complete for run in runs),
                "runs": [run.show() for run in runs if run.changed >= after],
                "groups": self._groups(runs, after),
            }

    def run(self, id_: str) -> ShownRun | None:
        with self._lock:
            return next((run for run in self._runs.values() if run.id == id_), None)

    def _look(self) -> None:
        """Looks at every run; of long ones that have just been found at a sample, which is sent at once, and later at
        all the rest, while there is time."""
        if time.monotonic() - self._listed > 20 * self._listing_seconds:  # a large folder takes long to list
            self._list()
        new = [run for run in self._runs.values() if not run.changed]
        for run in new:
            self._refresh(run)
        deadline = time.monotonic() + (0.0 if new else _READING_SECONDS)
        for run in sorted(self._runs.values(), key=lambda run: (run.complete, run.looked)):
            while self._refresh(run) and not run.complete and time.monotonic() < deadline:
                pass
            if time.monotonic() >= deadline:
                break
        self._looked = time.monotonic()

    def _list(self) -> None:
        self._listed = time.monotonic()
        try:
            found = runs_in(self.root)
        except UsageError:
            found = []
        self._runs = {path: self._runs.get(path) or ShownRun(self.root, path) for path in found}
        self._listing_seconds = time.monotonic() - self._listed

    def _refresh(self, run: ShownRun) -> bool:
        """False where the run is gone."""
        try:
            run.refresh()
        except OSError:
            self._runs.pop(run.path, None)
            return False
        return True

    def _groups(self, runs: Sequence[ShownRun], after: float) -> list[dict[str, Any]]:
        """Runs of an environment with the same settings, seeds aside; of five and more their mean with a band."""
        bands, groups = {}, []
        for (environment, name), those in self._named(runs).items():
            changed = max(run.changed for run in those)
            key = changed, *(run.id for run in those)
            whole = all(run.complete for run in those)
            bands[key] = self._bands.get(key) or (_bands_of(those) if whole else {})
            sent = bands[key] if changed >= after else None
            groups.append({"environment": environment, "name": name, "runs": list(key[1:]), "bands": sent})
        self._bands = bands
        return groups

    def _named(self, runs: Sequence[ShownRun]) -> Mapping[tuple[str, str], Sequence[ShownRun]]:
        """The runs by environment and label; made anew only where runs or their settings are others."""
        key = [(run, run.settings) for run in runs]
        if key != self._named_for:
            groups: dict[tuple[str, str], list[ShownRun]] = {}
            for environment in sorted({run.environment for run in runs}):
                those = [run for run in runs if run.environment == environment]
                compared = comparable([({"preset": run.path.name, **run.settings}, run.measured) for run in those])
                names = labels(compared)
                for name, run in zip(names, those, strict=True):
                    groups.setdefault((environment, name), []).append(run)
            self._named_for, self._names = key, groups
        return self._names


def _bands_of(runs: Sequence[ShownRun]) -> dict[str, Any]:
    bands = {}
    for axis in ("steps", "seconds"):
        lines = [run.lines[axis] for run in runs if run.show() and axis in run.lines]
        if len(lines) >= FEWEST:
            bands[axis] = mean_band(lines)
    return bands
