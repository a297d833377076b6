"""Measures the cost of a step on this machine, and computes from it the number of actors that is fastest."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from troupe.config import Environment, Stop, UsageError
from troupe.environments import Backend, EnvironmentSource
from troupe.environments.stepping.closing import close_in_time
from troupe.networks.actor_critic import ActorCritic, PolicyOutput
from troupe.runtime.progress import preempted_seconds

_SECONDS = 0.25  # for the environment; acting takes a tenth of it for each size
_BACKEND_SECONDS = 0.05  # for each backend
_EXPECTED = 0.1  # expected length of a run, relative to its limit: most runs reach their target long before
_MIN_GAIN = 1.05  # more actors must be that much faster: they cost memory and lag


@dataclass(frozen=True)
class Costs:
    """Seconds. An environment that waits (for a simulator, a device) takes more time than processor time."""

    step: float  # of one environment, of `together` that are stepped at a time
    step_computing: float  # processor time of it
    act: dict[int, float]  # of one forward pass, by number of observations
    together: int = 1

    @property
    def computing(self) -> float:
        """The share of a step in which the processor works."""
        return min(1.0, self.step_computing / self.step)

    def speed(self, actors: int, environments: int, cores: int, *, parallel: bool) -> float:
        """Steps/s of `actors` with `environments` each, which an actor steps one after another.

        Waiting overlaps; computing shares the cores, of which actors that do not run in parallel (threads under the
        interpreter lock) have one.
        """
        act = self.act[environments]
        waiting = actors * environments / (act + environments * self.step)
        computing = (cores if parallel else 1) / (act / environments + self.step_computing)
        return min(waiting, computing)

    def best(self, total: int, batch: int, cores: int, *, parallel: bool) -> tuple[int, int]:
        """(actors, environments of each): the fewest actors among the fastest ways to divide `total`
        environments, such that `batch` environments are still a whole number of rollouts."""
        ways = [(n, total // n) for n in range(1, total + 1) if total % n == 0 and batch % (total // n) == 0]
        fastest = max(self.speed(*way, cores, parallel=parallel) for way in ways)
        return next(way for way in ways if self.speed(*way, cores, parallel=parallel) * _MIN_GAIN >= fastest)


def measure(source: EnvironmentSource, config: Environment, network: ActorCritic, sizes: list[int]) -> Costs:
    """Steps one batch of environments with random actions, and the network on batches of each size."""
    # A native batch may cost little more than one environment; emulators are slow to make.
    count = 1 if not source.is_native(config) else min(max(sizes), 4) if source.atari else max(sizes)
    obs, step, computing = _play(source, config, count, _SECONDS)
    act, device = {}, next(network.parameters()).device
    with torch.inference_mode():
        for size in sizes:
            batch = torch.from_numpy(np.repeat(obs[:1], size, axis=0)).to(device)
            act[size], _ = cost(lambda batch=batch: network(batch).value.cpu(), _SECONDS / 10)  # type: ignore[misc]
    return Costs(step, computing, act, count)


def measure_backends(source: EnvironmentSource, config: Environment, count: int, stop: Stop) -> dict[str, float]:
    """Core-seconds of a step by each backend, of `count` environments together.

    A backend is left out if the run would hardly save as much time as its start costs (EnvPool's import).
    """
    costs: dict[str, float] = {}
    for name in source.backends:
        config = replace(config, backend=name)
        if costs and not may_pay(source.backend(config), min(costs.values()), count, stop):
            continue
        with suppress(UsageError):  # the environment is not the same with this backend
            _, _, costs[name] = _play(source, config, count, _BACKEND_SECONDS)
    return costs


def may_pay(backend: Backend, cost: float, count: int, stop: Stop) -> bool:
    """Whether `backend` could save a run more than its start takes; without it a step costs `cost` core-seconds."""
    if not backend.startup_seconds:
        return True
    steps = min(stop.steps or math.inf, stop.seconds / cost if stop.seconds else math.inf)
    return (cost - backend.call_seconds / count) * _EXPECTED * steps > backend.startup_seconds


def _play(
    source: EnvironmentSource, config: Environment, count: int, seconds: float
) -> tuple[np.ndarray, float, float]:
    """Steps `count` environments with random actions: observations, and the seconds and core-seconds of a step of
    one."""
    environment = source.make_vector(count, config)
    try:
        obs = seen = environment.reset(np.random.SeedSequence(0)).copy()
        rng = np.random.default_rng(0)

        def play() -> None:
            nonlocal seen
            seen = environment.step(source.random_actions(rng, seen)).obs

        step, computing = cost(play, seconds)
    finally:
        close_in_time(environment.close, source.id)
    return obs, step / count, computing / count


def measure_pass(network: ActorCritic, size: int, steps: int = 1) -> float:
    """Seconds for each of about `size` observations in one forward and backward pass. For a recurrent network they are
    in sequences of `steps`."""
    device = next(network.parameters()).device
    space = network.packing.space
    rows = (min(steps, size), max(1, size // steps)) if network.state_size else (1, size)
    obs = torch.from_numpy(np.zeros((*rows, *(space.shape or ())), space.dtype)).to(device)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def once() -> None:
        output: PolicyOutput = network(obs)
        loss = output.value.sum() + output.distribution.entropy().sum()
        if output.bonus_value is not None:
            loss = loss + output.bonus_value.sum()
        torch.autograd.grad(loss, weights)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return cost(once, _SECONDS)[0] / (rows[0] * rows[1])


def cost(work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Seconds that `work` takes, and seconds of processor time, of all threads; the first call is not counted.

    Seconds in which no core was free are left out: computing would look like waiting.
    """
    work()
    times, began, used, preempted = 0, time.perf_counter(), time.process_time(), preempted_seconds()
    while not times or time.perf_counter() - began < seconds:
        work()
        times += 1
    preempted = preempted_seconds() - preempted  # before the clock, or a preemption in between makes `took` negative
    took = time.perf_counter() - began - preempted
    return took / times, (time.process_time() - used) / times


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
