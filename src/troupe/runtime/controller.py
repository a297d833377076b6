"""GA3C's controller: tries other numbers of actors, predictors and learners, and keeps what is faster."""

import time
from collections.abc import Iterator

from troupe.config import Adjust
from troupe.runtime.gate import Closed, Gate
from troupe.runtime.numbers import Numbers
from troupe.runtime.progress import Progress

_LOOK_SECONDS = 0.02
_BETTER = 1.03  # what a change must bring, against the noise
_REST = 30  # trials' time between two rounds, once a round has brought nothing


class Controller:
    """Climbs the hill of measured throughput (Babaeizadeh et al. 2017, section 4.3), one number at a time.

    The speed of a machine wanders, so a trial takes the two settings in turn (old, new, new, old) and
    compares the sums. Time in which the run stands still (an evaluation) is not counted.
    """

    def __init__(self, config: Adjust, numbers: Numbers, progress: Progress, gate: Gate):
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
        """Tries every number in both directions; whether any change was kept."""
        kept = False
        for kind in self._most:
            for larger in (True, False):
                while self._try(kind, larger=larger):
                    kept = True
        return kept

    def _try(self, kind: str, *, larger: bool) -> bool:
        now = self._numbers.current[kind]
        step = max(1, now // 4)
        asked = min(now + step, self._most[kind]) if larger else max(now - step, 1)
        if asked == now:
            return False
        speeds = [self._measure(kind, number) for number in (now, asked, asked, now)]
        old, new = (speeds[0] + speeds[3]) / 2, (speeds[1] + speeds[2]) / 2
        better = new > _BETTER * old
        self._numbers.set(**{kind: asked if better else now})
        word = "kept" if better else "back"
        self._progress.news.append(f"controller: {now} -> {asked} {kind}: {old:,.0f} -> {new:,.0f} steps/s, {word}")
        return better

    def _measure(self, kind: str, number: int) -> float:
        self._numbers.set(**{kind: number})
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
