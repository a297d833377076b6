"""The texts of a display: progress towards the limits of a run, training return, bottleneck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from troupe.config import TrainConfig
from troupe.runs.store.curve_descriptions import stage_name
from troupe.text import format_duration, format_return


@dataclass(frozen=True)
class Limits:
    """What ends the run; 0 and None are no limit. `episodes` evaluation episodes must confirm the target; `greedy`: how
    their actions are chosen."""

    steps: int = 0
    seconds: float = 0.0
    target: float | None = None
    greedy: bool = True
    episodes: int = 100


def limits_of(config: TrainConfig, target: float | None) -> Limits:
    evaluation = config.evaluation
    return Limits(config.stop.steps, config.stop.seconds, target, evaluation.greedy, evaluation.final_episodes)


class View(NamedTuple):
    """What a display draws: a report, the training return since the beginning, and the best evaluation return."""

    row: Mapping[str, Any]
    limits: Limits
    returns: Sequence[float]
    best: float | None


def progress(view: View) -> tuple[float, str]:
    """The fraction of the way to the nearest limit, and a text; towards a target it is measured from the first training
    return."""
    limits, returns, steps, seconds = view.limits, view.returns, view.row["steps"], view.row["seconds"]
    towards: list[tuple[float, str]] = []
    if limits.steps:
        towards.append((steps / limits.steps, f"{steps:,} of {limits.steps:,} steps"))
    if limits.seconds:
        towards.append((seconds / limits.seconds, f"{format_duration(seconds)} of {format_duration(limits.seconds)}"))
    if limits.target is not None and returns and limits.target > returns[0]:
        share = (returns[-1] - returns[0]) / (limits.target - returns[0])
        first, newest = format_return(returns[0]), format_return(returns[-1])
        towards.append((share, f"training return {newest} (from {first} to {limits.target:g})"))
    fraction, words = max(towards, default=(0.0, f"{steps:,} steps"))
    fraction = min(max(fraction, 0.0), 1.0)
    return fraction, f"{100 * fraction:.0f} %  {words}"


def time_left(row: Mapping[str, Any], limits: Limits) -> str:
    """', at most 3 m 05 s to step 100,000': until the limit on time, or on steps at the average speed so far."""
    steps, seconds = row["steps"], row["seconds"]
    left = [(limits.seconds - seconds, "left")] if limits.seconds else []
    if limits.steps and steps:
        left.append(((limits.steps - steps) * seconds / steps, f"to step {limits.steps:,}"))
    if not left:
        return ""
    (soonest, until), at_most = min(left), "" if limits.target is None else "at most "
    return f", {at_most}{format_duration(max(soonest, 0.0))} {until}"


def training_return(row: Mapping[str, Any]) -> str:
    """Of recent episodes; of 1,000 steps ("/1k") where so many have been made and no episode of the run has ended."""
    per_steps = None if row.get("episodes") else row.get("return_per_1000_steps")
    if row.get("recent_return") is None and per_steps is not None and row["steps"] >= 1000:
        return f"{format_return(per_steps)}/1k"
    return format_return(row.get("recent_return"))


# Stages in which a part waits for something outside the run: no other part could shorten them by being faster.
_OUTSIDE = {
    "env_wait": "the environments' own waiting",
    "delay": "env.delay_seconds",
    "turn": "waiting for a turn on one core",  # of threads of which one computes at a time (threads = "one-core")
}
_SEVERAL = {"actor": "actors", "predictor": "predictors"}


def bottleneck_words(row: Mapping[str, Any]) -> str:
    """'the learner is the bottleneck (learn 90 %): the actors wait 78 % of the time'."""
    part, _, stage = row.get("bottleneck", "").partition(": ")
    if not part:
        return ""
    if part == "nothing":
        return "nothing is the bottleneck: every part waits for another most of the time"
    shares = row.get("shares", {})
    its, are, who = shares.get(part, {}), "are" if part in _SEVERAL else "is", f"the {part_name(part)}"
    if stage in _OUTSIDE:
        words = f"{_OUTSIDE[stage]} is the bottleneck ({its.get(stage, 0.0):.0%} of the time of {who})"
    else:
        words = f"{who} {are} the bottleneck" + (f" ({stage_name(stage)} {its[stage]:.0%})" if stage in its else "")
    waits = [
        f"the {part_name(other)} wait{'' if other in _SEVERAL else 's'} {stages['wait']:.0%} of the time"
        for other, stages in shares.items()
        if other != part and stages.get("wait", 0) >= 0.05
    ]
    words += f": {', '.join(waits)}" if waits else ""
    if its.get("preempted", 0.0) > its.get(stage, 1.0):
        whose = f"{who}'" if part in _SEVERAL else f"{who}'s"
        words = f"no core is free for {its['preempted']:.0%} of {whose} time; otherwise, {words}"
    return words.replace("%", " %")


def part_name(part: str) -> str:
    return _SEVERAL.get(part, part)
