"""GA3C's controller: tries other numbers of actors, predictors and learners, and keeps what is faster."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from troupe.config import Adjust
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.worker_counts import WorkerCounts
from troupe.runtime.progress import Progress

_LOOK_SECONDS = 0.02
_BETTER = 1.03  # what a change must bring, against the noise
_REST = 30  # trials' time between two rounds, once a round has brought nothing


class Controller:
    """Climbs the hill of measured throughput (Babaeizadeh et al. 2017, section 4.3), a number or a few at a time.

    The speed of a machine wanders, so a trial takes the two settings in turn (old, new, new, old) and
    compares the sums. Time in which the run stands still (an evaluation) is not counted.
    """

    def __init__(self, config: Adjust, numbers: WorkerCounts, progress: Progress, gate: Gate):
        self._seconds = config.every_seconds
        self._most = {
            "actors": config.most_actors,
            "predictors": config.most_predictors,
            "learners": config.most_learners,
        }
        self._numbers, self._progress, self._gate = numbers, progress, gate

    def run(self) -> None:
        self._pass(self._seconds)  # what starts up is no measure
        while True:
            while self._round():
                pass
            numbers = ", ".join(f"{number} {kind}" for kind, number in self._numbers.current.items())
            self._progress.news.append(f"controller: settled at {numbers}")
            self._pass(_REST * self._seconds)

    def _round(self) -> bool:
        """Tries every number in both directions, then several larger ones together; whether any change was kept."""
        kept = False
        for kind in self._most:
            for larger in (True, False):
                while self._try(self._moved([kind], larger=larger)):
                    kept = True
        if not kept:  # where several stages are equally slow, none helps without the others
            together = [kinds for number in (2, 3) for kinds in combinations(self._most, number)]
            kept = any(self._try(self._moved(kinds, larger=True)) for kinds in together)
        return kept

    def _moved(self, kinds: Sequence[str], *, larger: bool) -> dict[str, int]:
        """The present numbers with those of `kinds` a quarter larger or smaller; at a bound, as they are."""
        numbers = dict(self._numbers.current)
        for kind in kinds:
            step = max(1, numbers[kind] // 4)
            moved = min(numbers[kind] + step, self._most[kind]) if larger else max(numbers[kind] - step, 1)
            if moved == numbers[kind]:
                return dict(self._numbers.current)
            numbers[kind] = moved
        return numbers

    def _try(self, asked: Mapping[str, int]) -> bool:
        now = dict(self._numbers.current)
        changed = [kind for kind in now if asked[kind] != now[kind]]
        if not changed:
            return False
        speeds = [self._measure(numbers) for numbers in (now, asked, asked, now)]
        old, new = (speeds[0] + speeds[3]) / 2, (speeds[1] + speeds[2]) / 2
        better = new > _BETTER * old
        self._numbers.set(**(asked if better else now))
        moves = ", ".join(f"{now[kind]} -> {asked[kind]} {kind}" for kind in changed)
        word = "kept" if better else "back"
        self._progress.news.append(f"controller: {moves}: {old:,.0f} -> {new:,.0f} steps/s, {word}")
        return better

    def _measure(self, numbers: Mapping[str, int]) -> float:
        self._numbers.set(**numbers)
        self._pass(self._seconds / 16)  # until it has taken effect
        steps = seconds = 0.0
        for made, passed in self._ticks(self._seconds / 4):
            steps, seconds = steps + made, seconds + passed
        return steps / seconds

    def _pass(self, seconds: float) -> None:
        for _ in self._ticks(seconds):
            pass

    def _ticks(self, seconds: float) -> Iterator[tuple[int, float]]:
        """(steps, seconds) since the tick before, for so many seconds of training; Closed at the run's end."""
        while seconds > 0:
            before, since = self._progress.counts.steps, time.perf_counter()
            time.sleep(_LOOK_SECONDS)
            if self._gate.stopped:
                raise Closed
            if not self._gate.is_paused:
                passed = time.perf_counter() - since
                seconds -= passed
                yield self._progress.counts.steps - before, passed
