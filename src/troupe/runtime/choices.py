"""The callables of a run that may be the user's: its loss, optimizer, encoder, environment backend, placement and
schedules."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from troupe.config import TrainConfig, flatten, replace, value_of
from troupe.environments.backends import BACKENDS
from troupe.networks.user_encoder import ENCODERS
from troupe.runtime.execution.placements import PLACEMENTS
from troupe.runtime.learning.annealing import SCHEDULES
from troupe.runtime.learning.loss_and_optimizer import LOSSES, OPTIMIZERS

_CHOICES = (LOSSES, OPTIMIZERS, ENCODERS, BACKENDS, PLACEMENTS, *SCHEDULES.values())


def named(settings: Mapping[str, Any], **passed: str | Callable[..., Any] | None) -> dict[str, Any]:
    """`settings` with names in place of the callables that Python passes, in them or by keyword (`loss`, ...)."""
    settings = dict(flatten(settings))
    for choice in _CHOICES:
        value = passed.get(choice.what)
        value = settings.get(choice.setting) if value is None else value
        if value is not None:
            settings[choice.setting] = choice.named(value)
    return settings


def settle(config: TrainConfig) -> TrainConfig:
    """`config` with the arguments of these callables converted to the types of their signatures. Raises UsageError."""
    typed: dict[str, Any] = {}
    for choice in _CHOICES:
        if choice.kwargs:
            _, stored = choice.arguments(value_of(config, choice.setting), value_of(config, choice.kwargs))
            typed |= {f"{choice.kwargs}.{name}": value for name, value in stored.items()}
    return replace(config, typed)


def check_code(run: Path, config: TrainConfig) -> None:
    """For a run to be resumed or replayed. Raises UsageError for code in its directory, which may come from anybody;
    logs which files have changed since it began."""
    for choice in _CHOICES:
        if choice is not BACKENDS:  # checked with the environment (`of_run`)
            choice.check_code(run, value_of(config, choice.setting), config.env.files)
