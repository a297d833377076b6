"""The journal of a recorded run, read and checked: what its entries are is documented in runtime/journal.py."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from troupe import safe_files
from troupe.config import UsageError, reason
from troupe.runtime.journal import FILE
from troupe.runtime.progress import Count

Entry = tuple[Any, ...]
Rate = Annotated[float, Meta(ge=0, le=1e300)]
_ENTRY_TYPES: dict[str, Any] = {
    "rollout": tuple[Count, Count, Count, list[tuple[Count, Count]]],
    "batch": tuple[str, list[tuple[Count, Count]]],
    "observe": tuple[str],
    "copy": tuple[str],
    "apply": tuple[str, Rate],
    "publish": tuple[str, Count, Count],
    "end": tuple[Count],
}


def read(run: Path) -> list[Entry]:
    """The entries of a run's journal. Raises UsageError if there is none, or if it is damaged."""
    file = run / FILE
    if not file.is_file():
        raise UsageError(f"'{run}' was not recorded: it has no {FILE} (troupe train ... --record keeps one)")
    entries: list[Entry] = []
    wrong = ""
    try:
        for number, line in enumerate(safe_files.lines(file), 1):
            if wrong:  # and not the incomplete last line of a killed run
                raise UsageError(wrong)
            try:
                kind, *facts = msgspec.json.decode(line)
                entries.append((kind, *msgspec.convert(facts, _ENTRY_TYPES[kind])))
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
                wrong = f"{file}, line {number}: not an entry of a journal: {line[:60].decode(errors='replace')}"
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {reason(error)}") from None
    _check(entries)
    return entries


def _check(entries: list[Entry]) -> None:
    """Raises UsageError if a line is missing that others depend on."""
    made: dict[int, int] = {}
    had: dict[int, int] = {}
    free: set[tuple[int, int]] = set()
    version = 0
    for kind, *facts in entries:
        if kind == "rollout":
            actor, _, index, pulls = facts
            if index != made.get(actor, 0):
                raise mismatch(f"rollout {index} of actor {actor} where {made.get(actor, 0)} is expected")
            for pulled, _ in pulls:
                if not had.get(actor, 0) <= pulled <= version:
                    raise mismatch(
                        f"rollout {index} of actor {actor} was made with version {pulled}, which it cannot have pulled"
                    )
                had[actor] = pulled
            made[actor] = index + 1
            free.add((actor, index))
        elif kind == "batch":
            for actor, index in facts[1]:
                if (actor, index) not in free:
                    raise mismatch(f"rollout {index} of actor {actor} is learned from before it is made, or twice")
                free.remove((actor, index))
        elif kind == "publish":
            version += 1
            if facts[1] != version:
                raise mismatch(f"version {facts[1]} is published where {version} is expected")


def mismatch(why: str) -> UsageError:
    return UsageError(f"the journal does not fit: {why}")
