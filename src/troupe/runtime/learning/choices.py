"""The loss and the optimizer of a run: the user's own, or built in."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from troupe.config import TrainConfig, replace
from troupe.runtime.learning.objective import LOSSES
from troupe.runtime.learning.optimizers import OPTIMIZERS
from troupe.user_code.choices import Choice


def named(settings: Mapping[str, Any], loss: Callable[..., Any] | None, optimizer: Any = None) -> dict[str, Any]:
    """`settings` with names in place of the callables that Python passes, in them or beside them."""
    passed = {LOSSES.setting: loss, OPTIMIZERS.setting: optimizer}
    settings = dict(settings) | {setting: value for setting, value in passed.items() if value is not None}
    return settings | {
        choice.setting: choice.named(settings[choice.setting])
        for choice in (LOSSES, OPTIMIZERS)
        if choice.setting in settings
    }


def settle(config: TrainConfig) -> TrainConfig:
    """`config` with the arguments of loss and optimizer as their signatures type them. Raises UsageError."""
    typed = {
        f"{choice.kwargs}.{name}": value
        for choice, kind, given in _chosen(config)
        for name, value in choice.arguments(kind, given)[1].items()
    }
    return replace(config, typed)


def check_code(run: Path, config: TrainConfig) -> None:
    """For a run to be resumed or replayed. Raises UsageError for code in its directory, which may come from anybody;
    logs which files have changed since it began."""
    for choice, kind, _ in _chosen(config):
        choice.check_code(run, kind, config.env.files)


def _chosen(config: TrainConfig) -> Iterator[tuple[Choice, str, Mapping[str, Any]]]:
    yield LOSSES, config.loss.kind, config.loss.kwargs
    yield OPTIMIZERS, config.learner.optimizer, config.learner.optimizer_kwargs
