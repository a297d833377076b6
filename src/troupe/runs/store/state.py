"""What state.json of a checkpoint holds. It may come from a stranger: all of it is checked against these types before
anything reads it. What earlier versions did not write has a default.
"""

import json
import math
from typing import Annotated, Any, TypeVar

import gymnasium as gym
import msgspec
from msgspec import Meta

from troupe.environments import spaces
from troupe.environments.packing import MaskSource
from troupe.runtime.progress import Count, Counts

Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # a finite one
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Space = gym.Space[Any]
S = TypeVar("S", bound="AgentState")
_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}  # NaN belongs nowhere, and is no number then


class SavedScore(msgspec.Struct, frozen=True):
    mean: Number
    error: Number


class SavedLevel(msgspec.Struct, frozen=True):
    first: SavedScore | None = None
    best: SavedScore | None = None


class SavedWatch(msgspec.Struct, frozen=True):
    """Of a CollapseWatch."""

    first: SavedScore | None
    best: SavedScore | None
    fallen: Count
    training: SavedLevel = SavedLevel()
    told: bool | None = None


class Rescue(msgspec.Struct, frozen=True):
    """Collapses so far, and what a rollback has changed of the master besides its weights."""

    collapses: Count
    rollbacks: Count
    step_factor: Annotated[float, Meta(gt=0, le=1)]
    oldest: Count
    watch: SavedWatch


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """What a network is made from, besides the settings."""

    custom_network: bool
    observation_space: Space
    action_space: Space
    masked: MaskSource = ""


class State(AgentState, frozen=True, kw_only=True):
    counts: Counts
    seconds: Seconds  # of training
    version: Count
    resumes: Count  # those that drew new random streams
    best_score: Number | None = None
    best_steps: Count = 0
    next_steps: Count | None = None
    next_seconds: Seconds | None = None
    evaluation_seconds: Seconds = 0.0
    target: Number | None = None
    rescue: Rescue | None = None
    measured: tuple[str, ...] | None = None  # settings that a measurement decided; earlier versions had none here
    annealing: list[int | float] | None = None  # of a LinearSchedule; empty: the user's own schedule

    def __post_init__(self) -> None:
        saved = self.annealing or [0, 0, 0.0, 0.0]
        if len(saved) != 4 or not all(type(each) is int and 0 <= each < 2**53 for each in saved[:2]):
            raise ValueError("annealing: expected two steps and two factors")
        if not all(0 <= each <= 1 for each in saved[2:]):
            raise ValueError("annealing: expected factors from 0 to 1")


def to_json(state: AgentState) -> bytes:
    return json.dumps(msgspec.to_builtins(state, enc_hook=_plain), indent=2).encode()


def of_json(data: bytes | str, kind: type[S]) -> S:
    """Raises ValueError, RecursionError or an error of msgspec for what is not of this kind."""
    value = json.loads(data, parse_constant=_CONSTANTS.__getitem__)
    return msgspec.convert(value, kind, dec_hook=lambda _, description: spaces.restore(description))


def _plain(value: Any) -> Any:
    return spaces.describe(value) if isinstance(value, gym.Space) else value.item()  # a number of NumPy's
