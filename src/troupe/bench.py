"""`troupe bench`: the cost of a step in each stage, the limit that this implies, and what training reaches."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from troupe.config import TrainConfig, UsageError, replace, resolve
from troupe.environments import quiet_gymnasium, settle
from troupe.interpreter import threads_run_in_parallel
from troupe.networks.custom import find_network
from troupe.preparation import fit
from troupe.run import saved_run
from troupe.runs.report.reporter import bottleneck, shares_of
from troupe.runs.store.metrics import read_log
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import stack
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.execution.runner import ThreadRunner
from troupe.runtime.initial_network import first_network
from troupe.runtime.measure import cores, cost, measure
from troupe.runtime.progress import PREEMPTED, WAIT, Progress
from troupe.runtime.topologies import Topology
from troupe.text import table
from troupe.torch_threads import one_torch_thread
from troupe.trainer import train
from troupe.user_code.files import without_folder

STAGE_SECONDS = 1.0
_MOSTLY_PREEMPTED = 0.3  # of the time: the measurement is dominated by the lack of a free core
_DOING = {"env": "the environment", "act": "acting", "move": "copying rollouts", "learn": "learning"}


@dataclass(frozen=True)
class Result:
    """Core-seconds per step of each stage alone, and the speed that a whole training run reaches.

    `env_waits` is the share of a step in which the environment waits rather than computes; `bottleneck`
    (runs/report/reporter.py) and `waits`, the share of its time that each kind of part waits for another, are of the
    run itself.
    """

    config: TrainConfig
    placement: str
    stages: Mapping[str, float]
    env_waits: float
    cores: int
    steps_per_s: float
    updates_per_s: float
    bottleneck: str
    waits: Mapping[str, float]
    preempted: float = 0.0  # largest share of a part's time in which no core was free

    @property
    def limit(self) -> float:
        """C cores divided by the core-seconds of a step: no schedule is faster."""
        return self.cores / sum(self.stages.values())

    @property
    def fraction(self) -> float:
        return self.steps_per_s / self.limit

    def summary(self) -> dict[str, Any]:
        return {
            "environment": without_folder(self.config.env.id),
            "preset": self.config.preset,
            "topology": self.config.topology,
            "placement": self.placement,
            "actors": self.config.actor.count,
            "environments_per_actor": self.config.actor.environments,
            "cores": self.cores,
            "stages": dict(self.stages),
            "limit_steps_per_s": self.limit,
            "steps_per_s": self.steps_per_s,
            "updates_per_s": self.updates_per_s,
            "fraction": self.fraction,
            "bottleneck": self.bottleneck,
            "waits": dict(self.waits),
            "preempted": self.preempted,
            "advice": self.advice(),
        }

    def table(self) -> str:
        config, whole = self.config, sum(self.stages.values())
        where = {"process": "processes", "thread": "threads"}.get(self.placement, self.placement)
        head = ("stage", "core-us per step", "share", "alone, steps/s")
        stages = [
            (name, f"{spent * 1e6:.2f}", f"{spent / whole:.0%}", f"{1 / spent:,.0f}")
            for name, spent in self.stages.items()
        ]
        lines = [
            f"{without_folder(config.env.id)}, preset {config.preset}: {config.topology}, {config.actor.count} x "
            f"{config.actor.environments} environments in {where}, "
            f"rollouts of {config.actor.rollout_steps} steps, "
            f"{config.learner.epochs} pass{'es' if config.learner.epochs > 1 else ''}",
            "",
            *table([head, *stages], "<>>>", "    "),
        ]
        waits = ", ".join(f"{part} waits {share:.0%} of its time" for part, share in self.waits.items())
        return "\n".join(
            [
                *lines,
                "",
                f"limit    {self.limit:>12,.0f} steps/s on {self.cores} cores",
                f"training {self.steps_per_s:>12,.0f} steps/s, {self.updates_per_s:,.0f} updates/s: "
                f"{self.fraction:.0%} of the limit; every step in at least one gradient",
                f"together: bottleneck {self.bottleneck}; {waits}",
                *(f"to change: {advice}" for advice in self.advice()),
            ]
        )

    def advice(self) -> list[str]:
        """What would make it faster, according to the measurements."""
        advice = []
        if self.preempted > _MOSTLY_PREEMPTED:
            advice.append(f"no core was free {self.preempted:.0%} of the time: end other programs or use fewer threads")
        elif self.placement == "thread" and self.fraction < 0.7 and self.cores > 1 and not threads_run_in_parallel():
            advice.append("threads share one interpreter lock: --actor.placement process, or larger batches per call")
        return [*advice, *self._about(self.bottleneck.rpartition(" ")[2])]

    def _about(self, stage: str) -> list[str]:
        """What can be done about the stage that limits the run, or else about the costliest one."""
        config = self.config
        more_actors = f"--actors {2 * config.actor.count} --actor.environments {max(1, config.actor.environments // 2)}"
        if stage == "delay":
            return [f"env.delay_seconds is the bottleneck: more actors overlap it ({more_actors}), or a shorter one"]
        if stage == "env_wait" or (stage == "env" and self.env_waits > 0.5):
            return [f"the environment waits {self.env_waits:.0%} of a step: more actors overlap that ({more_actors})"]
        if stage == "nothing":
            return [
                "nothing is busy, every part waits for another: larger batches per call (--actor.environments, "
                "--actor.rollout_steps), or leave the processors to this program alone"
            ]
        costliest = max(self.stages, key=lambda name: self.stages[name])
        if stage == "turn":
            return [
                f"one thread computes at a time, and {_DOING[costliest]} takes most of it: --actor.placement process, "
                "or --threads free where batches are large"
            ]
        if stage == "predict":
            return ["the predictors are the bottleneck: more of them (--inference.predictors) or a smaller network"]
        if stage not in self.stages:
            stage = costliest
        if stage == "act" and config.actor.window_steps:
            return ["acting is the bottleneck: a window plays one environment, rollouts many (--actor.window_steps 0)"]
        if stage == "act":
            return ["acting is the bottleneck: give each actor more environments (--actor.environments)"]
        if stage == "learn" and config.learner.epochs > 1:
            return [f"learning is the bottleneck: {config.learner.epochs} passes over each batch (--learner.epochs)"]
        if stage == "learn":
            return ["learning is the bottleneck: larger batches or a smaller network (--network.hidden)"]
        if stage == "env":
            return ["the environment is the bottleneck: a faster one, or more cores"]
        return ["copying rollouts is the bottleneck: smaller observations"]


@quiet_gymnasium()
def bench(env: str, preset: str, settings: Mapping[str, Any], seconds: float) -> Result:
    """Measures each stage alone in one thread, then trains for `seconds` with all of them together."""
    if seconds <= 0:
        raise UsageError("--time 0: expected a time above 0")
    asked = resolve(env, preset, settings)
    if asked.actor.cluster != "none":
        raise UsageError("actor.cluster: bench measures this machine; train takes a cluster (--cluster)")
    config, source = settle(asked, env)
    own = find_network(None, config)
    config, _ = fit(config, source, own)
    network, _, _ = first_network(own, source, config)
    alone = {"topology": "serial", "actor.count": 1, "learner.count": 1, "actor.placement": "thread"}
    alone |= {"inference.kind": "local", "adjust.every_seconds": 0.0, "record": False, "learner.threads": 1}
    topology = assemble(replace(config, alone), source, network, np.random.SeedSequence(config.seed), Progress())
    with closing(topology), one_torch_thread():
        size = max(1, config.actor.environments // config.actor.parts)
        costs = measure(source, config.env, network, [size])
        stages = {
            "env": costs.step_computing,
            "act": costs.act[size] / size,
            **_stages(topology),
        }
    quiet = {"stop.seconds": seconds, "stop.steps": 0, "stop.target": "none", "record": False}
    quiet |= {"evaluation.every_steps": 0, "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1}
    numbers: dict[str, Any] = {"actor.count": config.actor.count, "actor.environments": config.actor.environments}
    numbers |= {"learner.rollouts": config.learner.rollouts, "actor.auto": False}
    numbers |= {"network.precision": config.network.precision, "learner.threads": config.learner.threads}
    numbers |= {"env.threads": config.env.threads, "env.backend": config.env.backend}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        try:
            run = train(
                env, preset=preset, settings={**settings, **numbers, **quiet}, run_dir=directory, display="silent"
            )
        except (KeyboardInterrupt, SystemExit) as stop:
            raise KeyboardInterrupt(saved_run(stop).signal) from None  # the run is deleted with its directory
        (*_, last) = (row for row in read_log(directory) if row["kind"] == "report")
    shares = {part: shares_of(seconds) for part, seconds in last["stage_seconds"].items()}
    waits = {part: stages.get(WAIT, 0.0) for part, stages in shares.items() if stages}
    return Result(
        config, placement_of(config, source).name, stages, 1 - costs.computing, cores(),
        run.steps / run.seconds, run.updates / run.seconds, bottleneck(shares) or "unknown", waits,
        max((stages.get(PREEMPTED, 0.0) for stages in shares.values()), default=0.0),
    )  # fmt: skip


def _stages(topology: Topology) -> dict[str, float]:
    """Core-seconds per step for copying rollouts into a batch, and for learning from it."""
    (runner,), (learner,), queue = topology.runners, topology.learners, topology.queue
    assert isinstance(runner, ThreadRunner)
    rollouts = [queue.acquire() for _ in range(topology.config.learner.rollouts)]
    for rollout in rollouts:
        runner.actor.collect(rollout)
    steps = sum(rollout.steps for rollout in rollouts)
    batch = stack(rollouts)
    return {
        "move": _seconds(lambda: stack(rollouts), STAGE_SECONDS / 5) / steps,
        "learn": _seconds(lambda: learner.learn(batch), STAGE_SECONDS) / steps,
    }


def _seconds(work: Callable[[], object], for_seconds: float) -> float:
    """The duration of `work`, after a warm-up."""
    cost(work, for_seconds / 5)
    return cost(work, for_seconds)[0]
