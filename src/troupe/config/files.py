"""Settings in TOML files, such as a run's `config.toml`."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from troupe.config.errors import UsageError, reason
from troupe.config.settings import TrainConfig
from troupe.config.values import build, check_name, check_value, fields, flatten


def to_toml(config: TrainConfig) -> str:
    return tomli_w.dumps(dataclasses.asdict(config))


# The behaviour before a setting existed, if that is not the setting's default.
_BEFORE = {"network.normalize": False, "loss.normalize_reward": False}
_RENAMED = {"actor.place": "actor.placement"}


def from_toml(text: str) -> TrainConfig:
    """Reads what `to_toml` wrote, in this version or an earlier one; raises UsageError for anything else."""
    try:
        settings = settings_in(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not a TOML file: {error}") from None
    return build(_BEFORE | settings)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, by dotted name; what a run records of itself (`env.files`) is left out.

    Raises UsageError, in a line that names the file, for what is no setting or no value of it.
    """
    try:
        settings = settings_in(file.read_text(encoding="utf-8"))
        for name, value in settings.items():
            check_name(name)
            if name in fields() and not isinstance(value, dict):
                check_value(name, value)
    except OSError as error:
        raise UsageError(f"{file}: {reason(error)}") from None
    except (ValueError, UsageError) as error:
        wrong = "not a TOML file: " if isinstance(error, ValueError) else ""
        raise UsageError(f"{file}: {wrong}{error}") from None
    return {name: value for name, value in settings.items() if not name.startswith("env.files")}


def settings_in(text: str) -> dict[str, Any]:
    """The settings in a config.toml by dotted name, under their present names. Raises ValueError."""
    return {_RENAMED.get(name, name): value for name, value in flatten(tomllib.loads(text))}
