"""The learning rate's schedule: what the settings make of it, and what a resumed run goes on with."""

from typing import Any

import pytest

from troupe.algorithm.schedules import CONSTANT, LinearSchedule
from troupe.config import TrainConfig, UsageError, resolve
from troupe.runtime.learning.annealing import SCHEDULES, annealing, described, loss_schedules, resumed, state_of


def config(limit: int = 400, anneal: Any = "auto", **more: Any) -> TrainConfig:
    settings = {"stop.steps": limit, "learner.anneal_steps": anneal, "learner.learning_rate": 0.01} | more
    return resolve("x", settings=settings, tuned=False)


def own(factor: float = 0.5) -> dict[str, Any]:
    return {"schedules.learning_rate": SCHEDULES["learning_rate"].named(lambda share: factor * (1 + share))}


@pytest.mark.parametrize(
    ("limit", "anneal", "schedule"),
    [
        (400, "auto", LinearSchedule(0, 400, 1.0, 0.25)),
        (0, "auto", CONSTANT),
        (400, 0, CONSTANT),
        (400, 300, LinearSchedule(0, 300, 1.0, 0.0)),
        (0, 300, LinearSchedule(0, 300, 1.0, 0.0)),
    ],
)
def test_a_run_falls_to_a_quarter_at_its_limit_or_to_zero_at_the_step_that_is_given(limit, anneal, schedule):
    assert annealing(config(limit, anneal)) == schedule


def kept(schedule: Any, steps: int = 200) -> tuple[list[float], int]:
    return state_of(schedule), steps


def test_a_run_that_is_resumed_with_the_same_limit_goes_on_by_the_schedule_of_its_checkpoint():
    """Not by that of its settings, which an earlier resume may have changed."""
    schedule = LinearSchedule(100, 500, 0.8, 0.3)
    assert resumed(*kept(schedule), config(), config(), given=False) == schedule
    assert resumed(*kept(schedule), config(), config(0), given=False) == schedule, "no limit any more"
    assert resumed(*kept(schedule), config(anneal=600), config(800, anneal=600), given=False) == schedule


def test_with_another_limit_it_falls_from_where_it_is_and_never_rises():
    schedule = LinearSchedule(0, 400, 1.0, 0.25)
    assert resumed(*kept(schedule), config(), config(800), given=False) == LinearSchedule(200, 800, 0.625, 0.25)
    low = LinearSchedule(0, 400, 0.2, 0.2)
    assert resumed(*kept(low), config(), config(800), given=False) == LinearSchedule(200, 800, 0.2, 0.2)


def test_a_schedule_that_is_given_anew_applies_as_if_from_the_start():
    schedule = LinearSchedule(0, 400, 1.0, 0.25)
    assert resumed(*kept(schedule), config(), config(800, 600), given=True) == LinearSchedule(0, 600, 1.0, 0.0)


def test_a_run_of_an_earlier_version_has_the_schedule_of_the_settings_that_it_ran_with():
    assert resumed(None, 200, config(anneal=900), config(anneal=500), given=False) == LinearSchedule(0, 900, 1.0, 0.0)


def test_a_run_that_had_a_schedule_of_the_users_and_has_none_any_more_goes_on_by_the_settings():
    before = config(**own())
    assert state_of(annealing(before)) == []
    now = resumed(*kept(annealing(before)), before, config(anneal=700), given=False)
    assert now == LinearSchedule(0, 700, 1.0, 0.0)


def test_a_schedule_of_the_users_is_asked_for_the_share_that_is_done():
    now = config(**own())
    schedule = resumed(*kept(CONSTANT), config(), now, given=False)
    assert [schedule(steps) for steps in (0, 200, 400)] == [0.5, 0.75, 1.0]
    assert annealing(now)(200) == 0.75
    assert loss_schedules(now) == {}


def test_a_learning_rate_that_has_fallen_to_nothing_is_refused():
    schedule = LinearSchedule(0, 1500, 1.0, 0.0)
    with pytest.raises(UsageError, match=r"fallen to 0 at step 1,500 \(learner\.anneal_steps\)"):
        resumed(*kept(schedule, 1500), config(), config(), given=False)
    assert resumed(*kept(schedule, 1499), config(), config(), given=False) == schedule


def test_schedules_of_the_loss_are_those_that_the_user_has_set():
    name = SCHEDULES["clip"].named(lambda share: 1 - share)
    (found,) = loss_schedules(config(**{"schedules.clip": name})).items()
    assert (found[0], found[1](100)) == ("clip", 0.75)


def test_a_schedule_of_the_users_is_described_by_its_name_and_the_rate_from_here_on():
    said = described(annealing(config(**own())), config(**own()), 200)
    assert said.startswith("learning rate 0.0075, from here on by ")


def test_a_schedule_needs_a_limit():
    with pytest.raises(UsageError, match=r"^schedules\.learning_rate: progress is measured in stop\.steps, which is 0"):
        annealing(config(0, **own()))
