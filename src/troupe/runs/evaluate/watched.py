"""Evaluations in a thread of their own: one whose environment does not answer is abandoned, and the run continues."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np

from troupe.config import TrainConfig, UsageError, one_line
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.runs.evaluate.evaluation import BorrowingEvaluator, Evaluator, most_steps
from troupe.runs.evaluate.scores import Scores
from troupe.runtime.execution.hang_detector import HangDetector, hung
from troupe.runtime.execution.interruption import POLL_SECONDS, BackgroundWork
from troupe.runtime.execution.runner import ThreadRunner

# How long environments may take to answer once the evaluation has been stopped, or its time is over.
_STOP_SECONDS, _TIME_SECONDS = 0.8, 4.0


class GivenUp(Exception):
    """An evaluation was abandoned, and the run continues without it."""


def make_evaluator(
    config: TrainConfig,
    source: EnvironmentSource,
    lender: ThreadRunner | None,
    notice: Callable[[str], None],
    refusal: Callable[[str], str] | None = None,
) -> tuple["WatchedEvaluator", Callable[[], AbstractContextManager[None]]]:
    """What evaluates a run, and a context for each evaluation during training.

    If no second environment can be made, the actor lends its own; raises UsageError if there is no `lender`.
    """
    evaluation, max_steps = config.evaluation, most_steps(config.evaluation, source)
    watched = partial(
        WatchedEvaluator, environment=source.id, hang_seconds=config.actor.hang_seconds, notice=notice, refusal=refusal
    )
    make = partial(
        Evaluator, source, config.env, evaluation.episodes, evaluation.final_episodes,
        max_steps=max_steps, measured=config.stop.seconds > 0 and not config.traits.serial,
    )  # fmt: skip
    try:
        return watched(make), nullcontext
    except UsageError:
        if lender is None:
            raise
        return watched(partial(BorrowingEvaluator, lender.lend(), max_steps)), lender.lent


class WatchedEvaluator:
    """An evaluator whose environments may block.

    If they have not answered for `hang_seconds` (0: unlimited), `notice` is called with the stack, the evaluation is
    abandoned with its thread and environments, and the next one makes new environments. `refusal`: as of Evaluator.run.
    """

    def __init__(
        self,
        make: Callable[[], Evaluator],
        environment: str,
        hang_seconds: float,
        notice: Callable[[str], None],
        refusal: Callable[[str], str] | None = None,
    ):
        self._make, self._environment, self._hang_seconds, self._notice = make, environment, hang_seconds, notice
        self._refusal = refusal
        self._evaluator: Evaluator | None = make()
        self._cannot_be_made = False  # again

    def run(
        self,
        network: ActorCritic,
        episodes: int,
        seeds: np.random.SeedSequence,
        *,
        greedy: bool,
        stopped: Callable[[], bool],
        out_of_time: Callable[[], bool],
    ) -> Scores | None:
        """As Evaluator.run; raises GivenUp if the environments hang."""
        pulse, name = np.zeros(1), f"{threading.current_thread().name}-evaluation"

        def evaluate() -> Scores | None:
            evaluator = self._evaluator or self._fresh(pulse)
            return evaluator.run(
                network, episodes, seeds, greedy=greedy, stopped=stopped, out_of_time=out_of_time, pulse=pulse,
                refusal=self._refusal,
            )  # fmt: skip

        work, hang_detector, waited = BackgroundWork(evaluate, name), HangDetector(pulse, self._hang_seconds), 0.0
        while not work.wait(POLL_SECONDS):
            if hang_detector.hangs():
                self._evaluator = None  # in the middle of a step, so it cannot be closed
                why = hung(self._environment, self._hang_seconds, work.stack())
                self._notice(f"an evaluation is given up, and the run continues: {why}")
                raise GivenUp
            waited += POLL_SECONDS if stopped() or out_of_time() else 0.0
            if waited > (_STOP_SECONDS if stopped() else _TIME_SECONDS):
                self._evaluator = None
                self._notice(f"an evaluation is still in a step of {self._environment}, and is abandoned")
                return None
        return work.result()

    def close(self) -> None:
        if self._evaluator is not None:
            self._evaluator.close()

    def _fresh(self, pulse: np.ndarray) -> Evaluator:
        if self._cannot_be_made:
            raise GivenUp
        pulse[0] = time.monotonic()
        try:
            made = self._evaluator = self._make()
        except Exception as error:
            self._cannot_be_made = True
            self._notice(f"there are no further evaluations: {one_line(error)}")
            raise GivenUp from error
        pulse[0] = 0.0
        return made
