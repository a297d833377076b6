"""The result of training, also of a run that a signal ended."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from troupe import hints
from troupe.config import Stop, TrainConfig
from troupe.runs.evaluate.scores import Scores
from troupe.runs.report.curves import Curve, read_curve
from troupe.text import counted, format_return

if TYPE_CHECKING:
    from troupe.agent import Agent

Outcome = Literal["solved", "steps", "time", "interrupted", "callback"]


@dataclass(frozen=True, repr=False)
class Run:
    """The result of training. `path` is the run directory, absolute; `scores` the final evaluation, or None.

    A Run may be passed wherever a run directory is expected."""

    path: Path
    outcome: Outcome
    scores: Scores | None
    steps: int
    updates: int
    seconds: float
    agent: "Agent"
    signal: int = 0  # the one that interrupted it

    @property
    def curve(self) -> Curve:
        """The training return by steps and seconds as NumPy arrays, and `evaluations` beside it, as written so far."""
        return read_curve(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        evaluation = "no final evaluation"
        if self.scores is not None:
            kind = "greedy" if self.scores.greedy else "stochastic"
            episodes = f"{counted(len(self.scores.returns), f'{kind} episode')}{self.scores.remarks}"
            evaluation = f"mean evaluation return {format_return(self.scores.mean)} over {episodes}"
        return (
            f"Run {self.path}\n"
            f"  {outcome_text(self.outcome)}: {evaluation}\n"
            f"  {self.steps:,} steps and {self.updates:,} updates in {self.seconds:.1f} s of training"
        )


def outcome_text(outcome: Outcome) -> str:
    words = {"steps": "step limit reached", "time": "time limit reached", "callback": "ended by a callback"}
    return words.get(outcome, outcome)


def limit_reached(stop: Stop, steps: int, seconds: float) -> Outcome | None:
    """Which of its own limits a run has reached after so many steps and seconds of training."""
    if 0 < stop.steps <= steps:
        return "steps"
    return "time" if 0 < stop.seconds <= seconds else None


def stop_by_signal(run: Run, config: TrainConfig) -> KeyboardInterrupt | SystemExit:
    """The exception of a run that a signal ended; the run is saved, and the exception's `run` holds the agent so far.

    KeyboardInterrupt for Ctrl-C, otherwise SystemExit with 128 + the signal's number. No subclasses: Python ends a
    script as an interrupted one only for KeyboardInterrupt itself.
    """
    stop: KeyboardInterrupt | SystemExit
    if run.signal == signal.SIGINT:
        stop = KeyboardInterrupt(f"training was interrupted; to continue: {hints.call('resume', run.path, config)}")
    else:
        stop = SystemExit(128 + run.signal)
    stop.run = run  # type: ignore[union-attr]
    return stop


def saved_run(stop: BaseException) -> Run:
    """The run of an exception from `stop_by_signal`. Raises any other one again."""
    run = getattr(stop, "run", None)
    if isinstance(run, Run):
        return run
    raise stop
