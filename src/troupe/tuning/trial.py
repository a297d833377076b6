"""One trial of a search: a run in a process of its own, which reports its score as it learns."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from troupe.config import TroupeError, one_line
from troupe.runs.callbacks.callback import Callback, Training
from troupe.runtime.execution.process_child import die_with_the_parent, leave_the_terminal
from troupe.trainer import train

PARTS = 10  # of a run's steps, after each of which its score so far is reported


@dataclass(frozen=True)
class Trial:
    """What is trained; `settings` include the limit on steps."""

    env: str
    preset: str
    tuned: bool
    seed: int
    settings: Mapping[str, Any]
    run_dir: Path
    callbacks: Sequence[str] = ()


class Score(Callback):
    """The mean training return over the parts of a run, the area under its learning curve: it is high where the policy
    is good early and stays good. A part's return is the mean of the episodes that ended in it, or else the last known.

    `send` is called with the number of parts that are done and the score so far, and says whether the run goes on.
    """

    def __init__(self, send: Callable[[int, float], bool]):
        self._send = send
        self._parts: list[float | None] = []
        self._ended: list[tuple[int, float]] = []  # of the part under way: episodes and their mean return
        self._episodes = 0

    @property
    def score(self) -> float | None:
        """None where no episode has ended."""
        known = [value for value in self._parts if value is not None]
        return sum(known) / len(known) if known else None

    def on_report(self, run: Training, row: Mapping[str, Any]) -> bool:
        if row["return_mean"] is not None:
            self._ended.append((row["episodes"] - self._episodes, row["return_mean"]))
        self._episodes = row["episodes"]
        done = min(PARTS, PARTS * row["steps"] // run.config.stop.steps)
        if done == len(self._parts):
            return True
        value = self._parts[-1] if self._parts else None
        if self._ended:
            value = sum(count * mean for count, mean in self._ended) / sum(count for count, _ in self._ended)
            self._ended.clear()
        self._parts += [value] * (done - len(self._parts))
        score = self.score
        return score is None or self._send(done, score)


def run_trial(connection: Connection, trial: Trial, variables: Mapping[str, str]) -> None:
    """The process: sends ("score", part, score), each answered by whether to go on; at last ("done", score or None),
    or ("failed", line)."""
    os.environ.update(variables)
    leave_the_terminal()
    die_with_the_parent()
    torch.set_num_threads(1)
    logging.getLogger("troupe").setLevel(logging.ERROR)

    def send(part: int, score: float) -> bool:
        connection.send(("score", part, score))
        return bool(connection.recv())

    score = Score(send)
    with suppress(OSError):  # the search has ended
        try:
            train(
                trial.env, preset=trial.preset, tuned=trial.tuned, seed=trial.seed, settings=trial.settings,
                run_dir=trial.run_dir, callbacks=[score, *trial.callbacks], display="silent",
            )  # fmt: skip
            connection.send(("done", score.score))
        except TroupeError as error:
            connection.send(("failed", one_line(error)))
