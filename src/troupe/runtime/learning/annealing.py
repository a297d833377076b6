"""Schedules: the learning rate's, fixed when a run starts and continued when it is resumed, and the user's own."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from troupe import hints
from troupe.algorithm.schedules import CONSTANT, LinearSchedule, Schedule, ShareSchedule, linear_decay
from troupe.config import TrainConfig, UsageError, one_line, value_of
from troupe.user_code.choices import Choice
from troupe.user_code.guard import user_code

_FLOOR = 0.25  # the factor that "auto" reaches at the run's last step
SCHEDULES = {
    name: Choice(
        "schedule",
        setting=f"schedules.{name}",
        if_changed="the run continues with another schedule",
        keyword=f"schedules={{'{name}': ...}}",
    )
    for name in ("learning_rate", "entropy_coefficient", "clip")
}


def annealing(config: TrainConfig) -> Schedule:
    """The factor of `learner.learning_rate` as a function of steps, from a run's start to its limit."""
    return _own(config, "learning_rate") or _built_in(config)


def _built_in(config: TrainConfig) -> LinearSchedule:
    steps = config.learner.anneal_steps
    if steps == "auto":
        return linear_decay(config.stop.steps, _FLOOR) if config.stop.steps else CONSTANT
    return linear_decay(steps) if steps else CONSTANT


def loss_schedules(config: TrainConfig) -> dict[str, ShareSchedule]:
    """The user's schedules of arguments of the loss, by argument."""
    found = {name: _own(config, name) for name in SCHEDULES if name != "learning_rate"}
    return {name: schedule for name, schedule in found.items() if schedule}


def _own(config: TrainConfig, name: str) -> ShareSchedule | None:
    """The user's schedule of this name. Raises UsageError, in one line, if it is not usable."""
    choice = SCHEDULES[name]
    chosen: str = value_of(config, choice.setting)
    if choice.is_builtin(chosen):
        return None
    if not config.stop.steps:
        raise UsageError(f"{choice.setting}: progress is measured in stop.steps, which is 0; set it")
    schedule, what = ShareSchedule(choice.load(chosen), config.stop.steps), f"schedule {choice.shown(chosen)}"
    for share in (0.0, 0.5, 1.0):
        try:
            with user_code():
                factor = schedule(int(share * config.stop.steps))
        except Exception as error:
            raise UsageError(f"{what}: called with {share} it raised {one_line(error)}") from error
        if not 0.0 <= factor < math.inf:
            raise UsageError(f"{what}: called with {share} it gave {factor:g}; expected a factor of at least 0")
    return schedule


def resumed(
    saved: Sequence[Any] | None, done: int, before: TrainConfig, config: TrainConfig, *, given: bool
) -> Schedule:
    """The schedule of a run that is resumed at the step `done`. `saved` is `state_of` the one it had (None: that of an
    earlier version), `before` are the settings it ran with. If `learner.anneal_steps` was `given` to resume, it applies
    as if from the start.

    Otherwise "auto" continues from the present learning rate, without a jump, to a quarter of the first one at the new
    limit, and a number of steps is kept. Raises UsageError if the learning rate has fallen to 0.
    """
    if own := _own(config, "learning_rate"):
        return own
    schedule = LinearSchedule(*saved) if saved else _built_in(before if saved is None else config)
    if given:
        schedule = _built_in(config)
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


def state_of(schedule: Schedule) -> list[float]:
    """Empty for the user's own."""
    return list(astuple(schedule)) if isinstance(schedule, LinearSchedule) else []


def described(schedule: Schedule, config: TrainConfig, steps: int) -> str:
    """The schedule from step `steps` on, in words; "" if it is constant."""
    rate = config.learner.learning_rate
    if isinstance(schedule, ShareSchedule):
        name = SCHEDULES["learning_rate"].shown(config.schedules.learning_rate)
        return f"learning rate {rate * schedule(steps):.2g}, from here on by {name}"
    if schedule(steps) == schedule.last:
        return "" if schedule.last == 1.0 else f"learning rate {rate * schedule.last:.2g}, constant from here on"
    text = f"learning rate {rate * schedule(steps):.2g}, falling linearly to {rate * schedule.last:.2g}"
    text += f" at step {schedule.end:,}"
    if schedule.last == 0.0 and not 0 < config.stop.steps <= schedule.end:
        text += ", after which nothing is learned (learner.anneal_steps)"
    return text
