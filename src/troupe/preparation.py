"""Settings that are chosen by measurement on this machine before a run begins."""

import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

from torch import nn

from troupe.config import TrainConfig, UsageError, replace
from troupe.environments import EnvironmentSource
from troupe.interpreter import threads_run_in_parallel
from troupe.networks.custom import NetworkMaker
from troupe.runtime.cluster.placement import cores_of_hosts
from troupe.runtime.execution.interruption import run_interruptible
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.initial_network import choose_device, first_network, sees_images
from troupe.runtime.measure import cores, measure, measure_backends, measure_pass
from troupe.torch_threads import one_torch_thread

A = TypeVar("A")

_SECONDS = 5.0  # for a measurement; if it takes longer, the configuration stays as it is
_CLEARLY = 1.1  # bfloat16 must be that much faster: it costs precision
_FIRST_UPDATE_SECONDS = 5.0  # until the first batch is complete, at most; but rollouts are not shorter than this:
_LEAST_ROLLOUT = 8
_FEW = 8  # actors, or as many as there are cores, if one environment is too slow to be measured
_SUPPOSED_SPEED = 1.0  # steps/s of each of them
_SPARE = 0.15  # of a core: a learner whose share of the work is nearly a whole core gets a second thread


def fit(
    config: TrainConfig,
    source: EnvironmentSource,
    network: nn.Module | NetworkMaker | None,
    named: Collection[str] = (),
) -> tuple[TrainConfig, list[str]]:
    """Chooses by measurement what the configuration leaves open; returns it with notices of what was found.

    That is `env.backend`, `actor.auto`, with it the length of rollouts if steps are slow (unless `named`), and, for
    images, `network.precision`, `learner.threads` and `env.threads`. In `serial` nothing is measured.
    """
    images = network is None and sees_images(source, config)
    notices: list[str] = []
    _check_epsilon(config, source, notices, named)
    serial = config.traits.serial  # whose results must not depend on a measurement
    if config.network.precision == "auto":
        measured = images and not serial
        config = (
            _fit_precision(config, source, notices) if measured else replace(config, {"network.precision": "float32"})
        )
    config = _fit_placement(config, source, notices)
    if not serial:
        config = _fit_backend(config, source, notices)
    config = _fit_actors(config, source, network, notices, named)
    if images and not serial:
        config = _fit_threads(config, source, notices)
    return replace(config, {"learner.threads": config.learner.threads or 1}), notices


def _check_epsilon(config: TrainConfig, source: EnvironmentSource, notices: list[str], named: Collection[str]) -> None:
    """Epsilon without a discrete action to explore with: refused if it is named, reported if a preset sets it."""
    epsilons = (*config.exploration.epsilon, *config.exploration.epsilon_end)
    if any(part.choices for part in source.actions.parts) or not any(epsilons):
        return
    why = "no action is a choice, and a Gaussian explores by its standard deviation (network.log_std)"
    for name in ("epsilon", "epsilon_end"):
        if f"exploration.{name}" in named:
            values = ",".join(f"{value:g}" for value in getattr(config.exploration, name))
            raise UsageError(f"exploration.{name} = {values}: {why}; set it to 0")
    notices.append(f"epsilon has no effect: {why}")


def _fit_precision(config: TrainConfig, source: EnvironmentSource, notices: list[str]) -> TrainConfig:
    seconds = {}
    for precision in ("float32", "bfloat16"):
        built, _, _ = first_network(None, source, replace(config, {"network.precision": precision}))
        with one_torch_thread():
            seconds[precision] = measure_pass(built, _pass_size(config), config.actor.rollout_steps)
    gain = seconds["float32"] / seconds["bfloat16"]
    chosen = "bfloat16" if gain > _CLEARLY else "float32"
    notices.append(f"precision {chosen}: a pass in bfloat16 is {gain:.1f} times as fast as in float32 here")
    return replace(config, {"network.precision": chosen})


def _fit_placement(config: TrainConfig, source: EnvironmentSource, notices: list[str]) -> TrainConfig:
    """A thread for the only actor of an environment that can exist only once: there, evaluations can borrow it."""
    actor = config.actor
    one = actor.count == actor.environments == 1 and actor.placement == "auto" and not config.traits.serial
    if not one or placement_of(config, source).name != "process" or not source.exists_once(config.env):
        return config
    notices.append(f"only one {source.id} can exist at a time: its actor plays in a thread, and evaluations borrow it")
    return replace(config, {"actor.placement": "thread"})


def _fit_backend(config: TrainConfig, source: EnvironmentSource, notices: list[str]) -> TrainConfig:
    """The backend whose steps take the least of a core. Not for Atari: its emulators are the same in all, and slow to
    make."""
    if config.env.backend != "auto" or source.atari or len(source.backends) == 1:
        return config
    costs = _in_time(lambda: measure_backends(source, config.env, config.actor.environments, config.stop))
    if not costs:
        return config
    chosen = min(costs, key=lambda name: costs[name] * source.penalty(name))
    others = "".join(f", {name} {_us(cost)}" for name, cost in costs.items() if name != chosen)
    together = config.actor.environments
    notices.append(f"backend {chosen}: a step takes {_us(costs[chosen])} of a core{others} ({together} at a time)")
    return replace(config, {"env.backend": chosen})


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.{1 if seconds < 9.95e-6 else 0}f} us"


def _fit_actors(
    config: TrainConfig,
    source: EnvironmentSource,
    network: nn.Module | NetworkMaker | None,
    notices: list[str],
    named: Collection[str],
) -> TrainConfig:
    """The same environments and batch, with the number of actors that suits the cost of steps here; and shorter
    rollouts if the first batch would take too long, unless their length is `named`."""
    actor = config.actor
    if not actor.auto or config.actor.window_steps:
        return config
    if config.traits.serial:
        together = math.gcd(actor.count, config.learner.rollouts)  # in one actor, with the same batch
        one = {"actor.count": 1, "actor.environments": together * actor.environments, "actor.auto": False}
        return replace(config, one | {"learner.rollouts": config.learner.rollouts // together})
    total, batch = actor.count * actor.environments, config.learner.rollouts * actor.environments
    built, _, _ = first_network(network, source, config)
    sizes = [size for size in range(1, total + 1) if total % size == 0]
    try:
        costs = _timed(lambda: measure(source, config.env, built, sizes))
    except _TooLong:
        return _few_actors(config, total, batch, notices, named)
    except Exception:
        return replace(config, {"actor.auto": False})
    available = cores_of_hosts(config) or cores()
    parallel = placement_of(config, source).in_processes or threads_run_in_parallel()
    count, environments = costs.best(total, batch, available, parallel=parallel)
    notices.append(
        f"actors {count} x {environments}: a step takes {_us(costs.step)} ({costs.computing:.0%} computing, "
        f"{costs.together} at a time), acting {_us(costs.act[environments] / environments)}"
    )
    changed = {"actor.count": count, "actor.environments": environments, "actor.auto": False}
    config = replace(config, changed | {"learner.rollouts": batch // environments})
    speed = costs.speed(count, environments, available, parallel=parallel)
    return _fit_rollout(config, speed, notices, named)


def _few_actors(config: TrainConfig, total: int, batch: int, notices: list[str], named: Collection[str]) -> TrainConfig:
    """One environment for each of a few actors, which wait for their resets and steps together."""
    count = min(total, max(_FEW, cores_of_hosts(config) or cores()))
    notices.append(
        f"actors {count} x 1: to make an environment, reset it and step it twice takes longer than {_SECONDS:g} s "
        "(actor.count and actor.environments choose others)"
    )
    changed = {"actor.count": count, "actor.environments": 1, "actor.auto": False}
    config = replace(config, changed | {"learner.rollouts": min(batch, count)})
    return _fit_rollout(config, count * _SUPPOSED_SPEED, notices, named, "supposed")


def _fit_rollout(
    config: TrainConfig, speed: float, notices: list[str], named: Collection[str], known: str = "at most"
) -> TrainConfig:
    """Shorter rollouts, and if these are not enough smaller batches, if the first batch would take long at `speed`, in
    steps/s; neither if the length of rollouts is `named`."""
    actor, learner = config.actor, config.learner
    most = speed * _FIRST_UPDATE_SECONDS / (learner.rollouts * actor.environments)  # steps of each environment
    if most >= actor.rollout_steps or "actor.rollout_steps" in named:
        return config
    steps = min(actor.rollout_steps, max(_LEAST_ROLLOUT, int(most)))
    rollouts = learner.rollouts if most >= steps else max(1, int(learner.rollouts * most / steps))
    batch = rollouts * actor.environments
    notices.append(
        f"{speed:,.1f} steps/s {known}: rollouts of {steps} steps instead of {actor.rollout_steps} and batches of "
        f"{batch * steps} steps, so that the first update comes after {batch * steps / speed:.0f} s"
    )
    parts = min(learner.minibatches, batch)
    return replace(config, {"actor.rollout_steps": steps, "learner.rollouts": rollouts, "learner.minibatches": parts})


def _fit_threads(config: TrainConfig, source: EnvironmentSource, notices: list[str]) -> TrainConfig:
    """Threads for emulators and learner in proportion to the work of a step in each.

    Other environments step in the thread of their actor: only the learner's are chosen then.
    """
    threaded = source.has_threads(config.env)
    if config.learner.threads and (config.env.threads or not threaded):
        return config
    actor, epochs = config.actor, config.learner.epochs
    built, _, _ = first_network(None, source, config)
    size = max(1, actor.environments // actor.parts)
    costs = _in_time(lambda: measure(source, config.env, built, [size]))
    if costs is None:
        return config
    with one_torch_thread():
        learn = epochs * measure_pass(built, _pass_size(config), config.actor.rollout_steps)
    act = costs.act[size] / size
    share = cores() / (costs.step_computing + act + learn)
    learners = actor.count if config.traits.learns_in_actors else config.learner.count
    learning = math.ceil(share * learn / learners + _SPARE) if choose_device(config, source).type == "cpu" else 1
    config = replace(config, {"learner.threads": config.learner.threads or learning})
    playing = ""
    if threaded:
        each = config.env.threads or math.ceil(share * costs.step_computing / (actor.count * actor.parts))
        config = replace(config, {"env.threads": each})
        playing = f"{actor.count * actor.parts * each} to play, "
    notices.append(
        f"threads: a step is {costs.step_computing * 1e6:,.0f} us of playing, {act * 1e6:,.0f} of acting and "
        f"{learn * 1e6:,.0f} of learning in {epochs} pass{'es' if epochs > 1 else ''}: "
        f"{playing}{actor.count} to act, {learners * config.learner.threads} to learn"
    )
    return config


def _pass_size(config: TrainConfig) -> int:
    """Observations in one pass of the learner, or as many as suffice to measure it."""
    steps, environments = config.actor.rollout_shape
    return min(256, max(1, config.learner.rollouts * steps * environments // config.learner.minibatches))


def _in_time(work: Callable[[], A]) -> A | None:
    """None if it takes too long, or fails: the run itself will report what is wrong with an environment."""
    with suppress(Exception):
        return _timed(work)
    return None


class _TooLong(Exception):
    """A measurement has been given up."""


def _timed(work: Callable[[], A]) -> A:
    """Raises _TooLong after `_SECONDS`, and what `work` raises."""
    began = time.monotonic()
    with one_torch_thread():
        result = run_interruptible(work, lambda: time.monotonic() - began > _SECONDS)
    if result is None:
        raise _TooLong
    return result
