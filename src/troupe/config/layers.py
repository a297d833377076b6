"""Presets, and a run's configuration in layers: defaults < preset < tuned for the environment < given by the user."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from troupe.config.checks import check_vtrace
from troupe.config.errors import UsageError, did_you_mean
from troupe.config.protocols import settings_of_protocol
from troupe.config.settings import TrainConfig
from troupe.config.values import build, flatten


@dataclass(frozen=True)
class Verified:
    """The measured results of tuned settings: lowest and mean of all seeds' final evaluations, and medians."""

    seeds: int
    lowest: float
    mean: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Tuned:
    verified: Verified | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Tuned] = field(default_factory=dict)

    def tuned_for(self, env_id: str) -> Tuned | None:
        """The settings for an environment; those of a name with a * are for all environments without their own."""
        fitting = (tuned for name, tuned in self.tuned.items() if fnmatchcase(env_id, name))
        return self.tuned.get(env_id) or next(fitting, None)


def presets() -> list[str]:
    """Names of the presets, the default first."""
    names = [entry.name[:-5] for entry in resources.files("troupe.presets").iterdir() if entry.name.endswith(".toml")]
    return sorted(names, key=lambda name: (name != "appo", name))


@cache
def load_preset(name: str) -> Preset:
    if name not in presets():
        raise UsageError(f"no preset '{name}'{did_you_mean(name, presets())} (troupe presets lists them)")
    text = resources.files("troupe.presets").joinpath(f"{name}.toml").read_text()
    return msgspec.convert({"name": name} | tomllib.loads(text), Preset)


def resolve(
    env_id: str,
    preset: str = "appo",
    settings: Mapping[str, Any] | None = None,
    *,
    tuned: bool = True,
) -> TrainConfig:
    """The configuration of a run: defaults < preset < its settings for `env_id` < `settings`.

    `settings` maps dotted names ("learner.epochs") to values, which may be strings as a shell gives them. In each layer
    "env.protocol" sets several, and those named beside it take precedence. Raises UsageError, naming the nearest word,
    for what does not exist or is out of range.
    """
    chosen = load_preset(preset)
    layers: list[Mapping[str, Any]] = [chosen.settings]
    found = chosen.tuned_for(env_id) if tuned else None
    if found:
        layers.append(found.settings)
    layers.append(settings or {})
    merged: dict[str, Any] = {"preset": preset, "tuned": found is not None, "env.id": env_id}
    for layer in layers:
        given = dict(flatten(layer))
        if "actor.count" in given or "actor.environments" in given:
            merged["actor.auto"] = False  # a number that is named is used
        if "exploration.epsilon" in given:
            merged.pop("exploration.epsilon_end", None)  # belongs to the epsilon of the same layer
        merged |= settings_of_protocol(given.get("env.protocol")) | given
    config = build(merged)
    check_vtrace(config)
    return config
