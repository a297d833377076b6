"""Callbacks: the user's code that a run calls while it trains (docs/extending.md)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from troupe.agent import Agent
from troupe.config import TrainConfig
from troupe.environments import EnvironmentSource
from troupe.runs.evaluate.scores import Scores
from troupe.runs.report.curves import read_rows
from troupe.runs.store.metrics import Row
from troupe.runtime.progress import Clock, Counts, Progress
from troupe.user_code.guard import user_code


class Training:
    """A run while it trains, as its callbacks see it. `outcome` and `scores` (the final evaluation) are known in
    `on_end`, where `outcome` is also "failed"."""

    outcome: str | None
    scores: Scores | None
    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        source: EnvironmentSource,
        progress: Progress,
        clock: Clock,
        path: Callable[[], Path],
        agent: Callable[[bool], Agent],
        save: Callable[[], None],
    ):
        self.config, self.outcome, self.scores = config, None, None
        self._source, self._progress, self._clock = source, progress, clock
        self._path, self._agent, self._save = path, agent, save
        self._logged: dict[str, float] = {}

    @property
    def path(self) -> Path:
        """The run directory, absolute."""
        return self._path()

    @property
    def counts(self) -> Counts:
        """The present numbers of steps, episodes, updates and more."""
        return replace(self._progress.counts)

    @property
    def seconds(self) -> float:
        """The time spent training, without evaluations."""
        return self._clock.seconds

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """All rows of metrics.jsonl so far, read from the file (docs/metrics.md); steps that a resumed run repeated
        appear once."""
        return read_rows(self.path)

    def agent(self, *, best: bool = False) -> Agent:
        """A copy of the agent with the newest weights, or with the `best` so far. Waits for an evaluation under way."""
        return self._agent(best)

    def video(self, file: str | Path, *, best: bool = True) -> None:
        """Writes a video of an episode of the agent (FILE.mp4 or FILE.gif). Raises UsageError if the environment
        cannot be rendered."""
        from troupe.runs.show.video import record

        record(self.agent(best=best), partial(self._source.make, config=self.config.env), Path(file), 1, seed=0)

    def log(self, **metrics: float) -> None:
        """Adds metrics to the row of the present `on_report` or `on_evaluation`, elsewhere to the next row: as
        `own.NAME`, in TensorBoard as `own/NAME`."""
        self._logged |= {name: float(value) for name, value in metrics.items()}

    def save(self) -> None:
        """Requests a checkpoint, written when this call of the callback has returned and no evaluation is under way."""
        self._save()


class Callback:
    """What a run calls while it trains: a subclass overrides what it needs (docs/extending.md).

    Every method is called in the main thread, while training continues, and holds no lock. Returning False ends the
    run in order, with outcome "callback"; an exception ends it as failed, with what was learned saved.
    """

    def on_start(self, run: Training) -> bool | None:
        """Before the first step of a new or resumed run."""

    def on_report(self, run: Training, row: Mapping[str, Any]) -> bool | None:
        """About every 2 seconds, and once when training has ended; `row` is a report (docs/metrics.md)."""

    def on_evaluation(self, run: Training, row: Mapping[str, Any]) -> bool | None:
        """After an evaluation, at the time of the next report; for the final one, before `on_end`."""

    def on_checkpoint(self, run: Training, path: Path) -> bool | None:
        """After a checkpoint has been written to the folder `path`."""

    def on_end(self, run: Training) -> bool | None:
        """At the very end, however the run ended, with the run directory complete."""


class Callbacks:
    """Calls the callbacks of a run, in its main thread. `end` and `fail` end the run."""

    def __init__(
        self,
        callbacks: Sequence[Callback],
        training: Training,
        end: Callable[[], None],
        fail: Callable[[str, BaseException], None],
    ):
        self._callbacks, self._training, self._end, self._fail = callbacks, training, end, fail

    def on_start(self) -> None:
        self._call("on_start")

    def on_row(self, row: Row) -> Row:
        """Calls the callbacks with `row`; returns it with the metrics that they logged."""
        if row["kind"] in ("report", "evaluation"):
            self._call(f"on_{row['kind']}", row.copy())
        logged, self._training._logged = self._training._logged, {}
        return row | {"own": logged} if logged else row

    def on_checkpoint(self, path: Path) -> None:
        self._call("on_checkpoint", path)

    def on_end(self, outcome: str, scores: Scores | None) -> None:
        self._training.outcome, self._training.scores = outcome, scores
        self._call("on_end")

    def _call(self, method: str, *about: object) -> None:
        for each in self._callbacks:
            try:
                with user_code():
                    wanted = getattr(each, method)(self._training, *about)
            except Exception as error:
                self._fail(f"callback {type(each).__name__}.{method}", error)
            else:
                if wanted is False:
                    self._end()
