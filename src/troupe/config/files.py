"""A run's `config.toml`."""

import dataclasses
import tomllib
from typing import Any

import tomli_w

from troupe.config.errors import UsageError
from troupe.config.settings import TrainConfig
from troupe.config.values import build, flatten


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


def settings_in(text: str) -> dict[str, Any]:
    """The settings in a config.toml by dotted name, under their present names. Raises ValueError."""
    return {_RENAMED.get(name, name): value for name, value in flatten(tomllib.loads(text))}
