"""What every display shows of a run, in words: progress towards its limits, bottleneck, training return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from troupe.text import format_duration, format_return


@dataclass(frozen=True)
class Limits:
    """What ends the run; 0 and None are no limit."""

    steps: int = 0
    seconds: float = 0.0
    target: float | None = None


class View(NamedTuple):
    """What a panel or a line is made from."""

    row: Mapping[str, Any]
    limits: Limits
    history: list[float]
    best: float | None


class ReturnHistory:
    """The returns of the whole run in at most 256 numbers: when there are more, neighbours are averaged."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._pending: list[float] = []
        self._merged = 1

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._merged:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending.clear()
        if len(self.values) == 256:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values[:] = [(left + right) / 2 for left, right in pairs]
            self._merged *= 2


class Progress(NamedTuple):
    fraction: float
    words: str
    seconds_left: float | None  # until the limit of steps or time, at the speed so far


def progress_of(view: View) -> Progress:
    """Progress towards the nearest limit; towards a target it is measured from the first return."""
    row, limits = view.row, view.limits
    steps, seconds = row["steps"], row["seconds"]
    towards: list[tuple[float, str]] = []
    left: list[float] = []
    if limits.steps:
        towards.append((steps / limits.steps, f"{steps:,} of {limits.steps:,} steps"))
        if steps:
            left.append((limits.steps - steps) * seconds / steps)
    if limits.seconds:
        towards.append((seconds / limits.seconds, f"{format_duration(seconds)} of {format_duration(limits.seconds)}"))
        left.append(limits.seconds - seconds)
    if limits.target is not None and view.history and limits.target > view.history[0]:
        first, recent = view.history[0], view.history[-1]
        share = (recent - first) / (limits.target - first)
        towards.append((share, f"training return {format_return(recent)} of {limits.target:g}"))
    fraction, words = max(towards, default=(0.0, f"{steps:,} steps"))
    return Progress(min(max(fraction, 0.0), 1.0), words, max(min(left), 0.0) if left else None)


def bottleneck_of(row: Mapping[str, Any]) -> str:
    """'the learner is the bottleneck (learn 90 %): the actors wait 78 % of their time'."""
    part, _, stage = row.get("bottleneck", "").partition(": ")
    if not part:
        return ""
    if part == "nothing":
        return "nothing is the bottleneck: every part waits for another most of the time"
    shares = row.get("shares", {})
    share = shares.get(part, {}).get(stage)
    detail = "" if share is None else f" ({_WAITS.get(stage, stage)} {share:.0%})"
    words = f"the {part_name(part)} {'are' if part in _SEVERAL else 'is'} the bottleneck{detail}"
    waits = [
        f"the {part_name(other)} wait{'' if other in _SEVERAL else 's'} {stages['wait']:.0%} of the time"
        for other, stages in shares.items()
        if other != part and stages.get("wait", 0) >= 0.05
    ]
    return f"{words}: {', '.join(waits)}".removesuffix(": ").replace("%", " %")


_WAITS = {  # stages in which a part waits, but not for another part
    "env_wait": "their environments wait",
    "delay": "env.delay_seconds",
    "turn": "waiting for a turn to compute",
}
_SEVERAL = {"actor": "actors", "predictor": "predictors"}


def part_name(part: str) -> str:
    return _SEVERAL.get(part, part)


def stage_name(stage: str) -> str:
    return {"preempted": "other programs"}.get(stage, stage.replace("_", " "))


def training_return(row: Mapping[str, Any]) -> str:
    """Of recent episodes; of 1,000 steps ("/1k") where so many have been made and no episode has ended."""
    per_steps = row.get("return_per_1000_steps")
    if row.get("recent_return") is None and per_steps is not None and row["steps"] >= 1000:
        return f"{format_return(per_steps)}/1k"
    return format_return(row.get("recent_return"))
