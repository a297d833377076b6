"""The settings that a search varies, and between which values."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troupe import config as configuration
from troupe import safe_files
from troupe.config import TrainConfig, UsageError, one_line, reason
from troupe.no_effect import notices

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Of what a preset uses: the rest of it is left out (`fitting`).
_DEFAULT = """
"learner.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"learner.gradient_norm" = [0.5, 1.0, 5.0]
"learner.epochs" = { low = 1, high = 8 }
"learner.minibatches" = [1, 2, 4, 8]
"actor.rollout_steps" = [8, 16, 32, 64, 128]
"loss.gamma" = [0.95, 0.98, 0.99, 0.995, 0.999]
"loss.lam" = [0.8, 0.9, 0.95, 0.98, 1.0]
"loss.clip" = { low = 0.1, high = 0.4 }
"loss.entropy_coefficient" = { low = 1e-4, high = 3e-2, log = true }
"loss.value_coefficient" = { low = 0.25, high = 1.0 }
"""
_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, by `log` on a logarithmic scale, and in steps of `step` where that is not None."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def ends(self) -> list[Any]:
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        on_step = self.step is None or (number and abs((value - self.low) / self.step % 1) < 1e-9)
        return number and self.low <= value <= self.high and on_step

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def encoded(self, value: Any) -> Any:
        return value

    def decoded(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Choices:
    """One of several values; a list among them is the value of a setting that is a list."""

    values: tuple[Any, ...]

    def ends(self) -> list[Any]:
        return list(self.values)

    def holds(self, value: Any) -> bool:
        return self.encoded(value) in map(self.encoded, self.values)

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([self.encoded(value) for value in self.values])

    def encoded(self, value: Any) -> str:
        return json.dumps(value)  # Optuna keeps text and numbers, and no lists

    def decoded(self, value: Any) -> Any:
        return json.loads(value)


Space = dict[str, Range | Choices]  # by the dotted name of the setting


def read_space(file: Path) -> Space:
    """Of a TOML file: `"learner.learning_rate" = { low = 1e-4, high = 1e-2, log = true }`, or a list of values.

    Raises UsageError, in a line that names the file and the setting.
    """
    try:
        return _space(safe_files.read(file).decode(), str(file))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {reason(error) if isinstance(error, OSError) else one_line(error)}") from None


def default_space(config: TrainConfig) -> Space:
    """The settings that a run of `config` uses, as far as they may have all values of theirs."""
    return {name: each for name, each in _space(_DEFAULT, "").items() if _fits(config, name, each)}


def _fits(config: TrainConfig, name: str, dimension: Range | Choices) -> bool:
    if notices(config, [name]):
        return False
    try:
        for value in dimension.ends():
            configuration.replace(config, {name: value})
    except UsageError:
        return False
    return True


def _space(text: str, where: str) -> Space:
    try:
        found = dict(_leaves(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not a TOML file: {error}") from None
    if not found:
        raise UsageError(f'{where}: it names no setting; write "learner.learning_rate" = {{ low = 1e-4, high = 1e-2 }}')
    space: Space = {}
    for name, value in found.items():
        try:
            space[name] = _dimension(name, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return space


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and (not value or not value.keys() <= _KEYS):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _dimension(name: str, value: Any) -> Range | Choices:
    known = configuration.fields()
    if name not in known:
        raise UsageError(f"no setting '{name}'{configuration.suggest(name, known)}")
    made: Range | Choices
    if isinstance(value, list) and value:
        made = Choices(tuple(value))
    elif isinstance(value, Mapping) and {"low", "high"} <= value.keys():
        number: type = int if type(known[name].default) is int else float
        try:
            given = {key: each if key == "log" else number(each) for key, each in value.items()}
        except (TypeError, ValueError):
            given = {"low": 0, "high": 0}
        made = Range(**given)
        if not (made.low < made.high and (made.low > 0 or not made.log) and (made.step is None or made.step > 0)):
            raise UsageError(
                f"{name} = {dict(value)}: expected numbers, low below high, and above 0 with log or as step"
            )
    else:
        raise UsageError(f"{name} = {value!r}: expected a list of values, or {{ low = ..., high = ... }}")
    for each in made.ends():
        configuration.check_value(name, each)
    return made
