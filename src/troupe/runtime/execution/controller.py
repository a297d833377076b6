"""GA3C's controller: tries other counts of actors, predictors and learners, and keeps the fastest."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from troupe.config import Adjust
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.worker_counts import WorkerCounts, adjustment_limits
from troupe.runtime.progress import Progress

_POLL_SECONDS = 0.02
_MIN_GAIN = 1.03  # of a change that is kept, against noise
_REST = 30  # pause after a round without a gain, in units of a trial's time


class Controller:
    """Hill climbing on measured throughput (Babaeizadeh et al. 2017, section 4.3), one count or several at a time.

    A machine's speed drifts, so a trial alternates the two settings (old, new, new, old) and compares the means.
    Time in which the run is paused (an evaluation) is not counted.
    """

    def __init__(self, config: Adjust, counts: WorkerCounts, progress: Progress, gate: Gate):
        self._seconds = config.every_seconds
        self._most = adjustment_limits(config)
        self._counts, self._progress, self._gate = counts, progress, gate

    def run(self) -> None:
        self._wait(self._seconds)  # until all have started
        while True:
            while self._round():
                pass
            counts = ", ".join(f"{count} {kind}" for kind, count in self._counts.current.items())
            self._progress.news.append(f"controller: settled at {counts}")
            self._wait(_REST * self._seconds)

    def _round(self) -> bool:
        """Tries every count in both directions, then several larger ones together; whether any change was kept."""
        kept = False
        for kind in self._most:
            for larger in (True, False):
                while self._try(self._moved([kind], larger=larger)):
                    kept = True
        if not kept:  # where several stages are equally slow, one alone gains nothing
            together = [kinds for number in (2, 3) for kinds in combinations(self._most, number)]
            kept = any(self._try(self._moved(kinds, larger=True)) for kinds in together)
        return kept

    def _moved(self, kinds: Sequence[str], *, larger: bool) -> dict[str, int]:
        """The current counts with those of `kinds` a quarter larger or smaller; unchanged at a limit."""
        counts = dict(self._counts.current)
        for kind in kinds:
            step = max(1, counts[kind] // 4)
            moved = min(counts[kind] + step, self._most[kind]) if larger else max(counts[kind] - step, 1)
            if moved == counts[kind]:
                return dict(self._counts.current)
            counts[kind] = moved
        return counts

    def _try(self, other: Mapping[str, int]) -> bool:
        now = dict(self._counts.current)
        changed = [kind for kind in now if other[kind] != now[kind]]
        if not changed:
            return False
        speeds = [self._measure(counts) for counts in (now, other, other, now)]
        old, new = (speeds[0] + speeds[3]) / 2, (speeds[1] + speeds[2]) / 2
        better = new > _MIN_GAIN * old
        self._counts.set(**(other if better else now))
        moves = ", ".join(f"{now[kind]} -> {other[kind]} {kind}" for kind in changed)
        word = "kept" if better else "back"
        self._progress.news.append(f"controller: {moves}: {old:,.0f} -> {new:,.0f} steps/s, {word}")
        return better

    def _measure(self, counts: Mapping[str, int]) -> float:
        self._counts.set(**counts)
        self._wait(self._seconds / 16)  # until it has taken effect
        steps = seconds = 0.0
        for made, passed in self._ticks(self._seconds / 4):
            steps, seconds = steps + made, seconds + passed
        return steps / seconds

    def _wait(self, seconds: float) -> None:
        for _ in self._ticks(seconds):
            pass

    def _ticks(self, seconds: float) -> Iterator[tuple[int, float]]:
        """(steps, seconds) since the last tick, for so many seconds of training. Raises Closed at the end of the
        run."""
        while seconds > 0:
            before, since = self._progress.counts.steps, time.perf_counter()
            time.sleep(_POLL_SECONDS)
            if self._gate.stopped:
                raise Closed
            if not self._gate.is_paused:
                passed = time.perf_counter() - since
                seconds -= passed
                yield self._progress.counts.steps - before, passed
