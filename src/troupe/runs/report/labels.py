"""Labels for several runs, from the settings in which they differ: the same label means the same settings."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from troupe import safe_files
from troupe.config import UsageError, check_value, fields, settings_in
from troupe.runs.store.directory import newest_first
from troupe.runs.store.summary import summary_of
from troupe.text import setting_text
from troupe.user_code.files import without_folder

Settings = Mapping[str, Any]  # by dotted name

_IDENTITY = ("env.id", "preset", "tuned")  # these determine most other settings
_MOST = 3  # settings in a label


def read_settings(run: Path) -> dict[str, Any]:
    """The settings in the run's config.toml, as far as it can be read and they are values of theirs; those chosen by a
    measurement are "auto"."""
    try:
        settings = settings_in(safe_files.read(run / "config.toml", safe_files.SETTINGS_BYTES).decode())
    except (OSError, ValueError, RecursionError):
        return {}
    settings = {name: value for name, value in settings.items() if _fits(name, value)}
    if "env.id" in settings:
        settings["env.id"] = without_folder(settings["env.id"])
    if "env.wrappers" in settings:
        settings["env.wrappers"] = [without_folder(name) for name in settings["env.wrappers"]]
    settings = {name: value for name, value in settings.items() if not name.startswith("env.files.")}
    return settings | {name: "auto" for name in read_measured(run) if name in settings}


def _fits(name: str, value: Any) -> bool:
    """False for what is no value of a setting; other names may be those of another version."""
    with suppress(UsageError):
        if name in fields():
            check_value(name, value)
        return True
    return False


def read_measured(run: Path) -> Sequence[str]:
    """The settings that were chosen by a measurement on the machine, from the newest checkpoint's state.json or, where
    an earlier version wrote that, from summary.json."""
    saved = _read_state(run)
    return summary_of(run).measured if saved is None or saved.measured is None else saved.measured


def read_target(run: Path, settings: Settings) -> float | None:
    """The target return. If it is "auto" in the settings, it is read from the newest checkpoint's state.json or, once
    the run has ended, from summary.json; None if there is neither yet."""
    target = settings.get("stop.target")
    if target == "auto":
        saved = _read_state(run)
        target = saved.target if saved else summary_of(run).target
    return float(target) if isinstance(target, int | float) and math.isfinite(target) else None


class _State(msgspec.Struct):
    """Of a checkpoint, what concerns a picture."""

    target: float | None
    measured: tuple[str, ...] | None = None


def _read_state(run: Path) -> _State | None:
    """Of the newest checkpoint; None if there is none yet."""
    newest = newest_first(run)
    return safe_files.read_json(newest[0] / "state.json", _State) if newest else None


def comparable(runs: Sequence[tuple[Settings, Sequence[str]]]) -> list[Settings]:
    """The settings of runs, given with the names of those that were measured, which are known from a run's first
    checkpoint on: one without is taken to have measured what the others have."""
    names = {name for _, measured in runs for name in measured}
    return [
        settings if measured else {**settings, **dict.fromkeys(names & settings.keys(), "auto")}
        for settings, measured in runs
    ]


def labels(runs: Sequence[Settings]) -> list[str]:
    """A label for each run, from the settings in which they differ, seeds excluded; the preset if none do.

    Environment, preset and tuning determine most other settings, so the others are compared only among runs that have
    these three in common.
    """
    identities = [tuple(_value(settings, name) for name in _IDENTITY) for settings in runs]
    environments = len({env for env, _, _ in identities}) > 1
    presets = len({preset for _, preset, _ in identities}) > 1 or not environments
    alike: dict[tuple[Any, ...], list[Settings]] = {}
    for settings, identity in zip(runs, identities, strict=True):
        alike.setdefault(identity, []).append(settings)
    names = {identity: _differing(those) for identity, those in alike.items()}
    made: dict[str, Settings] = {}
    words = []
    for settings, identity in zip(runs, identities, strict=True):
        env, preset, tuned = identity
        both = len({its for its in alike if its[:2] == identity[:2]}) > 1
        differing = [f"{name}={setting_text(_value(settings, name))}" for name in names[identity]]
        if len(differing) > _MOST:
            differing[_MOST:] = [f"{len(differing) - _MOST} more"]
        word = " · ".join([str(env)] * environments + [str(preset)] * presets + [_tuning(tuned)] * both + differing)
        unique, number = word, 1
        while not _same(made.setdefault(unique, settings), settings):
            number += 1
            unique = f"{word} ({number})"
        words.append(unique)
    return words


def _tuning(tuned: Any) -> str:
    return "tuned" if tuned else "untuned"


def _differing(runs: Sequence[Settings]) -> list[str]:
    names = dict.fromkeys(name for settings in runs for name in settings if name != "seed")
    return [name for name in names if any(_value(each, name) != _value(runs[0], name) for each in runs)]


def _same(one: Settings, other: Settings) -> bool:
    return not _differing([one, other])


def _value(settings: Settings, name: str) -> Any:
    """A run from before a setting existed has the setting's default."""
    known = fields().get(name)
    default = known.default if known else None
    value = settings.get(name, default)
    if value != value:  # NaN, which differs from itself
        return "nan"
    return tuple(value) if isinstance(value, list) else value
