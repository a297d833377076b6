"""Finds settings that were given but have no effect in a run, because of others."""

from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase

from troupe.config import TrainConfig
from troupe.runtime.learning.loss_and_optimizer import LOSSES, OPTIMIZERS

_Condition = Callable[[TrainConfig], bool]

# Names (as patterns), when they have no effect, and why.
_RULES: tuple[tuple[str, _Condition, str], ...] = (
    ("novelty.*", lambda config: not config.novelty.coefficient, "novelty.coefficient is 0"),
    ("adjust.most_*", lambda config: not config.adjust.every_seconds, "adjust.every_seconds is 0"),
    ("inference.predictors", lambda config: config.inference.kind == "local", "inference.kind is local"),
    ("network.core_*", lambda config: config.network.core == "none", "network.core is none"),
    ("network.*", lambda config: config.network.custom != "none", "the network is your own"),
    ("exploration.decay_steps", lambda config: not config.exploration.epsilon_end, "exploration.epsilon_end is empty"),
    ("exploration.epsilon_end", lambda config: not any(config.exploration.epsilon), "exploration.epsilon is 0"),
    ("learner.anneal_steps", lambda config: config.schedules.learning_rate != "none", "schedules.learning_rate is set"),
    (
        "loss.entropy_anneal_steps",
        lambda config: config.schedules.entropy_coefficient != "none",
        "schedules.entropy_coefficient is set",
    ),
    ("learner.stale", lambda config: not config.learner.max_lag, "learner.max_lag is 0"),
    ("learner.advantage_decay", lambda config: config.loss.kind != "appo", "loss.kind is not appo"),
    ("collapse.step_factor", lambda config: config.collapse.answer == "report", "collapse.answer is report"),
    ("collapse.rollbacks", lambda config: config.collapse.answer == "report", "collapse.answer is report"),
    ("queue.*", lambda config: config.traits.path != "async", "the topology has no queue"),
    ("evaluation.episodes", lambda config: _never_evaluates(config), "there are no evaluations during training"),
)
_USED_BY_CUSTOM = ("network.custom", "network.precision", "network.core")  # the last is refused with one


def notices(config: TrainConfig, given: Collection[str]) -> list[str]:
    """One line for the settings in `given`, dotted names, that change nothing in a run of `config`; none if all do."""
    found = [f"{name} ({reason})" for name in given if (reason := _reason(config, name))]
    return [f"without effect in this run: {'; '.join(found)}"] if found else []


def _reason(config: TrainConfig, name: str) -> str:
    if name in ("novelty.coefficient", *_USED_BY_CUSTOM):
        return ""
    return next(_reasons(config, name), "")


def _reasons(config: TrainConfig, name: str) -> Iterator[str]:
    for pattern, applies, reason in _RULES:
        if fnmatchcase(name, pattern) and applies(config):
            yield reason
    section, _, argument = name.rpartition(".")
    for choice, chosen, own in ((LOSSES, config.loss.kind, "loss"), (OPTIMIZERS, config.learner.optimizer, "learner")):
        if section != own or argument not in choice.shared or choice.takes(chosen, argument):
            continue
        if any(choice.takes(each, argument) for each in choice.builtin):
            yield f"{choice.setting} is {choice.shown(chosen)}"


def _never_evaluates(config: TrainConfig) -> bool:
    return not (config.evaluation.every_steps or config.evaluation.every_seconds)
