"""The learning rate's schedule: fixed when a run starts, and continued when it is resumed."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from troupe import hints
from troupe.algorithm.schedules import CONSTANT, LinearSchedule, linear_decay
from troupe.config import TrainConfig, UsageError

_FLOOR = 0.25  # of the learning rate is left at the run's last step, where the schedule goes by that ("auto")


def annealing(config: TrainConfig) -> LinearSchedule:
    """The factor of `learner.learning_rate`, by steps, of a run from its start to its limit."""
    steps = config.learner.anneal_steps
    if steps == "auto":
        return linear_decay(config.stop.steps, _FLOOR) if config.stop.steps else CONSTANT
    return linear_decay(steps) if steps else CONSTANT


def resumed(state: Mapping[str, Any], before: TrainConfig, config: TrainConfig, *, given: bool) -> LinearSchedule:
    """The schedule of a resumed run. `state` is its checkpoint's, `before` are the settings it ran with, and `given`
    says that `learner.anneal_steps` was set anew, which holds as if from the start.

    Otherwise "auto" continues from the present learning rate, without a jump, to a quarter of the first one at the new
    limit; a number stays what it is. Raises UsageError where that has run out and nothing would be learned.
    """
    done = state["counts"]["steps"]
    schedule = LinearSchedule(*state["annealing"]) if "annealing" in state else annealing(before)
    if given:
        schedule = annealing(config)
    elif config.learner.anneal_steps == "auto" and config.stop.steps not in (0, before.stop.steps):
        now = schedule(done)
        schedule = LinearSchedule(done, config.stop.steps, now, min(now, _FLOOR))
    if schedule(done) == 0.0:
        raise UsageError(
            f"the learning rate of this run has fallen to 0 at step {schedule.end:,} (learner.anneal_steps): nothing "
            f"more would be learned; give {hints.given('anneal-steps', 'N')} with a later step, 0 for a constant "
            "learning rate, or auto"
        )
    return schedule


def state_of(schedule: LinearSchedule) -> list[float]:
    return list(astuple(schedule))


def described(schedule: LinearSchedule, config: TrainConfig, steps: int) -> str:
    """The schedule from step `steps` on, in words; "" where it is constant."""
    rate = config.learner.learning_rate
    if schedule(steps) == schedule.last:
        return "" if schedule.last == 1.0 else f"learning rate {rate * schedule.last:.2g}, constant from here on"
    text = f"learning rate {rate * schedule(steps):.2g}, falling linearly to {rate * schedule.last:.2g}"
    text += f" at step {schedule.end:,}"
    if schedule.last == 0.0 and not 0 < config.stop.steps <= schedule.end:
        text += ", after which nothing is learned (learner.anneal_steps)"
    return text
