"""Combinations of settings that are refused."""

import re

from troupe.config.errors import UsageError
from troupe.config.settings import TrainConfig


def check_together(config: TrainConfig) -> None:
    """Raises UsageError for settings that exclude each other."""
    if config.actor.window_steps and config.loss.kind != "a3c":
        raise UsageError(
            f"actor.window_steps = {config.actor.window_steps}: the window's samples carry n-step returns, "
            f"which only loss.kind a3c reads, not {config.loss.kind}; set it to 0"
        )
    if config.actor.window_steps and config.loss.reward_clip:
        raise UsageError(
            "loss.reward_clip: a window's samples hold sums of rewards, which must not be clipped; set it to 0"
        )
    if config.actor.window_steps and config.actor.environments > 1:
        raise UsageError(
            f"actor.environments = {config.actor.environments}: an actor with a window (actor.window_steps) plays one; "
            "set it to 1, and actor.count to as many as you want"
        )
    if config.actor.window_steps and config.network.core != "none":
        raise UsageError(
            f"network.core = '{config.network.core}': a window's samples (actor.window_steps) are single steps, and a "
            "recurrent layer learns from sequences; set it to none, or take a preset that learns from rollouts (a3c, "
            "appo)"
        )
    if config.novelty.coefficient and config.actor.window_steps:
        raise UsageError(
            "novelty.coefficient: the samples of a window (actor.window_steps) do not show what follows each action, "
            "so they earn no bonus; take a preset that learns from rollouts (--preset appo or impala)"
        )
    _check_topology(config)
    if config.actor.cluster != "none":
        _check_cluster(config)
    if config.collapse.answer == "rollback":
        _check_rollback(config)
    if config.learner.max_lag and config.learner.stale == "correct" and config.loss.kind == "a3c":
        raise UsageError("learner.stale = 'correct': loss a3c corrects no lag; use drop, or loss.kind impala or appo")


def check_vtrace(config: TrainConfig) -> None:
    """Raises UsageError if rho_clip < c_clip: V-trace need not converge then (Espeholt et al. 2018, theorem 1).

    For new runs only: earlier versions allowed it.
    """
    loss = config.loss
    if loss.kind != "a3c" and loss.rho_clip < loss.c_clip:
        raise UsageError(
            f"loss.rho_clip = {loss.rho_clip:g}, loss.c_clip = {loss.c_clip:g}: V-trace needs a rho_clip that is at "
            f"least c_clip; set loss.c_clip to {loss.rho_clip:g} or less"
        )


def _check_topology(config: TrainConfig) -> None:
    name, traits = config.topology, config.traits
    if config.learner.count > 1 and not traits.several_learners:
        has = "learns in every actor" if traits.learns_in_actors else "has one learner"
        raise UsageError(
            f"learner.count = {config.learner.count}: topology {name} {has}; use --topology queue for several"
        )
    if traits.serial and config.actor.count > 1 and not config.actor.auto:
        raise UsageError(
            f"actor.count = {config.actor.count}: topology serial has one actor; "
            f"use --actor.count 1 --actor.environments {config.actor.count * config.actor.environments}"
        )
    if config.inference.kind == "batched" and "batched" not in traits.inference:
        raise UsageError(
            f"inference.kind = 'batched': in topology {name} every actor has the network; use async, queue or ga3c"
        )
    if config.inference.kind == "local" and "local" not in traits.inference:
        raise UsageError(f"topology = '{name}': its actors have no network; set inference.kind to batched")
    if config.adjust.every_seconds and not traits.adjustable:
        raise UsageError(f"adjust.every_seconds: topology {name} does not adjust its numbers; ga3c does")
    if traits.learns_in_actors:
        _check_hogwild(config)
    if config.record and (not traits.recordable or config.inference.kind != "local"):
        raise UsageError(
            f"record: a run of topology {name} with {config.inference.kind} inference cannot be replayed; "
            "async and queue with local inference can, and serial repeats itself without a record"
        )


def _check_cluster(config: TrainConfig) -> None:
    given = f"actor.cluster = '{config.actor.cluster}'"
    if config.actor.cluster.startswith("ray://"):
        raise UsageError(
            f"{given}: a client cannot train; run troupe on a machine of the cluster, with its address HOST:PORT"
        )
    if config.actor.cluster != "auto" and not re.fullmatch(r"[^\s/]+:\d+", config.actor.cluster):
        raise UsageError(f"{given}: expected auto, none or an address HOST:PORT (10.0.0.1:6379)")
    if config.topology != "async" or config.inference.kind != "local":
        what = "inference.kind = 'batched'" if config.topology == "async" else f"topology {config.topology}"
        raise UsageError(
            f"{given}: with {what} actors cannot play on other hosts; topology async with local inference can "
            "(presets appo and impala)"
        )
    if config.actor.placement not in ("auto", "process"):
        raise UsageError(
            f"actor.placement = '{config.actor.placement}': on a cluster actors are processes; set it to auto"
        )


def _check_rollback(config: TrainConfig) -> None:
    if config.record:
        raise UsageError(
            "record: a run that goes back to its best weights (collapse.answer = 'rollback') cannot be replayed; "
            "use --on-collapse report"
        )
    if not (config.evaluation.every_steps or config.evaluation.every_seconds):
        raise UsageError(
            "collapse.answer = 'rollback': without evaluations during training there are no best weights; "
            "set evaluation.every_steps or evaluation.every_seconds"
        )


def _check_hogwild(config: TrainConfig) -> None:
    """Each worker makes one gradient of each rollout of its own: settings of batches are refused."""
    if config.actor.window_steps:
        raise UsageError("actor.window_steps: topology hogwild learns from whole rollouts; set it to 0")
    if config.novelty.coefficient:
        raise UsageError(
            "novelty.coefficient: in topology hogwild no learner sees what the others have seen; "
            "use async, queue or ga3c"
        )
    for name, value in (("epochs", config.learner.epochs), ("minibatches", config.learner.minibatches)):
        if value != 1:
            raise UsageError(f"learner.{name} = {value}: topology hogwild makes one gradient of each rollout; set 1")
