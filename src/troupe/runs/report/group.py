"""A folder of several runs, of `train --seeds` or `compare`: their settings, the state of each, their picture.

Its file series.json holds the settings that were asked for, so that the same command continues; the state of a run
follows from its own files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from troupe import hints, safe_files
from troupe.config import UsageError
from troupe.runs.report.curves import read_curve
from troupe.runs.report.plots import plot_runs
from troupe.runs.store.checkpoint import write_durably
from troupe.runs.store.directory import check_free, unwritable
from troupe.runs.store.metrics import to_json
from troupe.runs.store.summary import summary_of
from troupe.text import counted

FILE = "series.json"
MOST_NAMED = 10  # of the runs that are not done, those of one variant and state together


class Member(NamedTuple):
    """One run of the group: its folder in it, the name that it is compared under, and its seed."""

    folder: str
    name: str
    seed: int


class _Run(msgspec.Struct):
    folder: str
    name: str
    seed: int


class _Content(msgspec.Struct):
    """Of series.json."""

    asked: dict[str, Any]
    runs: list[_Run]


class _Series(NamedTuple):
    """The settings of all runs, by name, and the runs."""

    asked: Mapping[str, Any]
    members: Sequence[Member]


def begin(folder: Path, asked: Mapping[str, Any], members: Sequence[Member]) -> None:
    """Writes series.json. `asked`: the settings that all runs have in common, by name.

    Raises UsageError if the folder holds other runs or runs with other settings, and if it cannot be written.
    """
    check_free(folder)
    option = hints.option("run-dir")
    asked = json.loads(to_json(asked))
    if before := _read(folder):
        for name in [*before.asked, *asked]:
            if before.asked.get(name) != asked.get(name):
                raise UsageError(
                    f"'{folder}' holds runs with {_given(name, before.asked)}, not {_given(name, asked)}: "
                    f"repeat the command that began them, or name another {option}"
                )
        named = {each.folder for each in members}
        if lost := [each.folder for each in before.members if each.folder not in named]:
            raise UsageError(
                f"'{folder}' holds {counted(len(lost), 'run')} more than are asked for, such as {lost[0]}: "
                f"ask for them, too, or name another {option}"
            )
    elif taken := next((folder / each.folder for each in members if (folder / each.folder).exists()), None):
        raise UsageError(f"'{taken}' exists already; name another {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"asked": asked, "runs": [each._asdict() for each in members]}
        write_durably(folder / FILE, to_json(content, indent=2))
    except OSError as error:
        raise unwritable(folder, error) from error


def has_begun(folder: Path) -> bool:
    return _read(folder) is not None


def _given(name: str, asked: Mapping[str, Any]) -> str:
    return f"{name} = {asked[name]}" if name in asked else f"no {name} given"


def forget(folder: Path) -> None:
    """Removes series.json if no run has begun, and the folder if it is empty then."""
    if not any(folder.glob("**/config.toml")):
        (folder / FILE).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def state_of(run: Path) -> str:
    """`done` (which includes the final evaluation), `failed`, `interrupted` or `not started`."""
    summary = summary_of(run)
    if summary.outcome in ("solved", "steps", "time") and summary.evaluation:
        return "done"
    if not (run / "config.toml").is_file():
        return "not started"
    return "failed" if summary.outcome == "failed" else "interrupted"


def unfinished(folder: Path) -> list[tuple[Member, str]]:
    """The runs that are not done, with their states."""
    states = [(each, state_of(folder / each.folder)) for each in _members(folder)]
    return [(each, state) for each, state in states if state != "done"]


def unfinished_words(folder: Path) -> str:
    """'appo, seed 1 (interrupted); impala, seeds 1, 2 (not started)', in one line; or nothing."""
    several = len({each.name for each in _members(folder)}) > 1
    seeds: dict[tuple[str, str], list[str]] = {}
    for each, state in unfinished(folder):
        seeds.setdefault((each.name, state), []).append(str(each.seed))
    parts = [
        f"{name}, " * several + f"seed{'s' * (len(those) > 1)} {', '.join(those)} ({state})"
        for (name, state), those in seeds.items()
    ]
    more = [f"and {len(parts) - MOST_NAMED} more"] if len(parts) > MOST_NAMED else []
    return "; ".join(parts[:MOST_NAMED] + more)


def draw(folder: Path, picture: Path) -> tuple[bool, list[Member]]:
    """Draws the finished runs. Returns whether there was anything to draw, and the runs that are not drawn because no
    episode ended in them."""
    drawn, empty = list[Member](), list[Member]()
    for each in _members(folder):
        if state_of(folder / each.folder) == "done":
            (drawn if len(read_curve(folder / each.folder).steps) else empty).append(each)
    if drawn:
        note = f"not drawn: {missing}" if (missing := unfinished_words(folder)) else ""
        runs, names = [folder / each.folder for each in drawn], [each.name for each in drawn]
        plot_runs(runs, picture, names=names, note=note)
    return bool(drawn), empty


def redraw(run: Path) -> None:
    """Redraws the picture of the group that the run belongs to, if there is one."""
    for folder, name, pattern in ((run.parent, "learning", "*"), (run.parent.parent, "comparison", "*/*")):
        picture = folder / f"{name}.png"
        if not picture.is_file() or not re.fullmatch(r"seed\d+", run.name):
            continue
        if has_begun(folder):
            draw(folder, picture)
        else:  # a group from an earlier version
            plot_runs(sorted(each.parent.parent for each in folder.glob(f"{pattern}/plots/learning.png")), picture)


def _members(folder: Path) -> Sequence[Member]:
    series = _read(folder)
    return series.members if series else ()


def _read(folder: Path) -> _Series | None:
    content = safe_files.read_json(folder / FILE, _Content)
    if content is None:
        return None
    return _Series(content.asked, [Member(each.folder, each.name, each.seed) for each in content.runs])
