"""A run's `config.toml`."""

import dataclasses
import tomllib

import tomli_w

from troupe.config.errors import UsageError
from troupe.config.settings import TrainConfig
from troupe.config.values import build, flatten


def to_toml(config: TrainConfig) -> str:
    return tomli_w.dumps(dataclasses.asdict(config))


# What a run had before there was a setting for it, where its default is not that.
_BEFORE = {"network.normalize": False, "loss.normalize_reward": False}


def from_toml(text: str) -> TrainConfig:
    """Reads what `to_toml` wrote, also before there were all the settings; raises UsageError for anything else."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not a TOML file: {error}") from None
    return build(_BEFORE | dict(flatten(settings)))
