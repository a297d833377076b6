"""`troupe bench`: what a step costs in each stage, the limit that implies, and what training reaches."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from troupe.config import TrainConfig, UsageError, replace, resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.runtime.progress import Progress
from troupe.runtime.rollout import stack
from troupe.runtime.seat import ThreadSeat
from troupe.runtime.topologies import Parts, assemble
from troupe.trainer import one_torch_thread, train

STAGE_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """Core-seconds per step of each stage, and steps per second of a whole training run."""

    config: TrainConfig
    stages: Mapping[str, float]
    cores: int
    steps_per_s: float
    updates_per_s: float

    @property
    def limit(self) -> float:
        """C / (e + a + l): no schedule on C cores does more."""
        return self.cores / sum(self.stages.values())

    def summary(self) -> dict[str, Any]:
        return {
            "environment": self.config.env.id,
            "preset": self.config.preset,
            "topology": self.config.topology,
            "actors": self.config.actor.count,
            "environments_per_actor": self.config.actor.environments,
            "cores": self.cores,
            "stages": dict(self.stages),
            "limit_steps_per_s": self.limit,
            "steps_per_s": self.steps_per_s,
            "updates_per_s": self.updates_per_s,
            "fraction": self.steps_per_s / self.limit,
        }

    def table(self) -> str:
        config, whole = self.config, sum(self.stages.values())
        lines = [
            f"{config.env.id}, preset {config.preset}: {config.topology}, {config.actor.count} x "
            f"{config.actor.environments} environments, rollouts of {config.actor.rollout_steps} steps, "
            f"{config.learner.epochs} pass{'es' if config.learner.epochs > 1 else ''}",
            "",
            f"{'stage':8}{'core-us per step':>18}{'share':>8}{'alone, steps/s':>18}",
        ]
        for name, cost in self.stages.items():
            lines.append(f"{name:8}{cost * 1e6:>18.2f}{cost / whole:>8.0%}{1 / cost:>18,.0f}")
        slowest = max(self.stages, key=lambda name: self.stages[name])
        return "\n".join(
            [
                *lines,
                "",
                f"limit    {self.limit:>12,.0f} steps/s on {self.cores} cores",
                f"training {self.steps_per_s:>12,.0f} steps/s, {self.updates_per_s:,.0f} updates/s: "
                f"{self.steps_per_s / self.limit:.0%} of the limit; every step in at least one gradient",
                f"{slowest} costs most",
            ]
        )


def bench(env: str, preset: str, settings: Mapping[str, Any], seconds: float) -> Result:
    """Measures each stage alone in one thread, then trains for `seconds` with all of them together."""
    if seconds <= 0:
        raise UsageError("--time 0: there must be some time to train in")
    source = find(env)
    config = resolve(source.id, preset, settings)
    network = build(source.observation_space, source.action_space, config.network)
    here = replace(config, {"topology": "serial", "actor.count": 1, "learner.count": 1, "actor.place": "thread"})
    parts = assemble(here, source, network, np.random.SeedSequence(config.seed), Progress())
    with closing(parts), one_torch_thread():
        stages = _stages(parts)
    quiet = {"stop.seconds": seconds, "stop.steps": 0, "stop.target": "none"}
    quiet |= {"evaluation.every_steps": 0, "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1}
    with tempfile.TemporaryDirectory() as folder:
        run = train(env, preset=preset, settings=dict(settings) | quiet, run_dir=Path(folder) / "run")
        if run.signal:
            raise KeyboardInterrupt(run.signal)
        return Result(config, stages, _cores(), run.steps / run.seconds, run.updates / run.seconds)


def _stages(parts: Parts) -> dict[str, float]:
    """Core-seconds per step of acting, stepping environments, and learning, each from the parts themselves."""
    (seat,), (learner,), queue = parts.actors, parts.learners, parts.queue
    assert isinstance(seat, ThreadSeat)
    actor = seat.actor
    rollouts = [queue.acquire() for _ in range(parts.config.learner.rollouts)]

    def collect() -> None:
        for rollout in rollouts:
            actor.collect(rollout)

    def learn() -> None:
        learner.learn(stack(rollouts))

    _for_a_while(collect, 0.2)
    actor.watch.seconds.clear()
    steps = _for_a_while(collect, STAGE_SECONDS) * sum(rollout.steps for rollout in rollouts)
    env, act = (actor.watch.seconds[stage] / steps for stage in ("env", "act"))
    _for_a_while(learn, 0.2)
    began = time.perf_counter()
    learned = _for_a_while(learn, STAGE_SECONDS) * sum(rollout.steps for rollout in rollouts)
    return {"env": env, "act": act, "learn": (time.perf_counter() - began) / learned}


def _for_a_while(work: Callable[[], None], seconds: float) -> int:
    """Repeats `work` for that long; returns how often."""
    times, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
        times += 1
    return times


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
