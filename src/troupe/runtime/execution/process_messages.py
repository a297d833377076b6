"""What a run and the processes of its actors send each other.

A request names the slot of an empty rollout; the process fills that slot, in memory both share, and reports
what it has counted. Nothing is pickled on the way.
"""

from dataclasses import dataclass, field

import msgspec

from troupe.runtime.progress import Counts, Lag, Share


@dataclass(slots=True)
class Request:
    """To the process: fill this slot. Epsilon and learning rate depend on the counts."""

    slot: int
    played: int
    steps: int
    updates: int


@dataclass(slots=True)
class Report:
    """From the process: the slot is full. Slot -1: it is ready to play, or has failed."""

    slot: int
    share: Share
    pulls: list[tuple[int, int]] = field(default_factory=list)
    laps: dict[str, float] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
NOTHING = Share(Counts(), [], Lag(), {})
