"""Settings of evaluations, collapse, checkpoints and the limits of a run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from troupe.config.description import doc as _doc


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    every_steps: Annotated[int, _doc("steps between evaluations during training; 0: by every_seconds alone", ge=0)] = 0
    every_seconds: Annotated[
        float, _doc("training seconds between evaluations, which take at most a tenth of the time; 0: none", ge=0)
    ] = 1.0
    episodes: Annotated[int, _doc("episodes of an evaluation during training", ge=1)] = 20
    greedy: Annotated[bool, _doc("greedy actions (the mode), or sampled as in training (usual for Atari)")] = True
    final_episodes: Annotated[
        int, _doc("episodes of the final evaluation, and of those that confirm the target", ge=1)
    ] = 100
    max_steps: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["auto"],
        _doc("cut episodes off after this many steps; auto: 27,000, or the environment's own limit if larger"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """What counts as a collapse of the return, and what follows (docs/algorithms.md)."""

    answer: Annotated[
        Literal["report", "rollback"],
        _doc("report a collapse of the return, or also roll back to the best weights with a smaller learning rate"),
    ] = "report"
    loss: Annotated[float, _doc("a collapse has lost more than this fraction of best - first evaluation", gt=0)] = 0.5
    evaluations: Annotated[int, _doc("in this many evaluations in a row", ge=1)] = 3
    step_factor: Annotated[float, _doc("factor on the learning rate at every rollback", gt=0, le=1)] = 0.5
    rollbacks: Annotated[int, _doc("maximum number of rollbacks in a run; later collapses are reported only", ge=1)] = (
        10
    )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_seconds: Annotated[
        float, _doc("training seconds between checkpoints; one is always written at the end", gt=0)
    ] = 60.0


@dataclass(frozen=True, kw_only=True)
class Stop:
    steps: Annotated[int, _doc("stop after this many steps of all actors; 0: no limit", ge=0)] = 1_000_000
    seconds: Annotated[float, _doc("stop after this many seconds of training; 0: no limit", ge=0)] = 0.0
    target: Annotated[
        float | Literal["auto", "none"],
        _doc("stop when an evaluation confirms this mean return; auto: the environment's reward threshold"),
    ] = "auto"
