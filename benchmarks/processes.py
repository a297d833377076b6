"""Actors in processes: what computes is shared out over the cores, what waits overlaps, moving costs nothing.

processes.json   steps/s of serial and of two processes where a step burns 200 us; of 1 to 16 actors
                 where a step sleeps 2 ms, and with one of sixteen that sleeps 20 ms; the time a
                 rollout of images takes from an actor's process to the learner, beside a memcpy of it
"""

import os
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from common import write
from costs import Costly, burns, one_is_slow, sleeps

import troupe
from troupe.config import resolve
from troupe.environments import EnvironmentSource, find
from troupe.networks.actor_critic import build
from troupe.runtime.assembly import assemble
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.progress import Progress
from troupe.runtime.topologies import Topology

QUIET = {
    "stop.steps": 0, "stop.target": "none", "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1,
}  # fmt: skip
LIGHT = {"learner.rollouts": 4, "actor.rollout_steps": 32, "actor.environments": 1}  # learning costs 10 us a step


def steps_per_s(env: Any, preset: str, seconds: float, **settings: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = troupe.train(env, preset=preset, seconds=seconds, run_dir=f"{folder}/run", settings=QUIET | settings)
        return run.steps / run.seconds


def computing() -> dict[str, Any]:
    """A step burns 200 us of the interpreter's time: serial with one actor, async with two in processes."""
    serial, two = [], []
    for _ in range(3):  # in turn: the machine's speed varies
        serial.append(steps_per_s(burns, "appo", 8, topology="serial"))
        two.append(steps_per_s(burns, "appo", 8, **{"actor.count": 2, "actor.environments": 8}))
        print(f"serial {serial[-1]:,.0f}, two processes {two[-1]:,.0f} steps/s: {two[-1] / serial[-1]:.2f}")
    ratios = [b / a for a, b in zip(serial, two, strict=True)]
    return {"serial": serial, "two_processes": two, "ratio_median": statistics.median(ratios), "ratios": ratios}


def waiting() -> dict[str, Any]:
    """A step sleeps 2 ms: N actors make N times the steps."""
    speeds: dict[int, list[float]] = {number: [] for number in (1, 2, 4, 8, 16)}
    for _ in range(2):
        for number, measured in speeds.items():
            measured.append(steps_per_s(sleeps, "impala", 8, **LIGHT, **{"actor.count": number}))
    means = {number: statistics.mean(measured) for number, measured in speeds.items()}
    for number, mean in means.items():
        print(f"{number} actors: {mean:,.0f} steps/s, {mean / means[1]:.2f} times one")
    return {"steps_per_s": speeds, "times_one": {number: mean / means[1] for number, mean in means.items()}}


def one_slow() -> dict[str, Any]:
    """Sixteen actors, one of whose environments sleeps 20 ms; and Gymnasium's lock-step version of the same."""
    with_it, without = [], []
    for _ in range(2):
        without.append(steps_per_s(sleeps, "impala", 8, **LIGHT, **{"actor.count": 16}))
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SLOW"] = folder
            with_it.append(steps_per_s(one_is_slow, "impala", 8, **LIGHT, **{"actor.count": 16}))
    lock_step = {name: _lock_step(slow) for name, slow in (("without", 2e-3), ("with", 20e-3))}
    kept = statistics.mean(with_it) / statistics.mean(without)
    print(f"one slow in sixteen: {kept:.2f} is kept; in lock step {lock_step['with'] / lock_step['without']:.2f}")
    return {"without": without, "with": with_it, "kept": kept, "lock_step": lock_step}


def _lock_step(slow: float) -> float:
    makers = [partial(Costly, sleep=slow if number == 0 else 2e-3) for number in range(16)]
    vector = gym.vector.AsyncVectorEnv(makers)
    vector.reset(seed=0)
    action, steps, began = np.zeros(16, np.int64), 0, time.perf_counter()
    while time.perf_counter() - began < 5:
        vector.step(action)
        steps += 16
    speed = steps / (time.perf_counter() - began)
    vector.close()
    return speed


class Images(gym.Env[np.ndarray, int]):
    """84 x 84 x 4 bytes, and nothing else that costs time."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(2)
    _image = np.zeros((84, 84, 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._image, {}

    def step(self, action: int) -> Any:
        return self._image, time.perf_counter() % 1.0, False, False, {}


def moving() -> dict[str, float]:
    """From the moment an actor's process has filled 32 steps x 16 environments to the learner's having them.

    perf_counter is one clock for all processes of a machine. The reward of the last row says when its
    environment stepped; what an actor still does after that is measured in a thread and taken off.
    """
    source = find(Images)
    numbers = {"actor.count": 1, "actor.environments": 16, "actor.rollout_steps": 32}
    tails, arrivals, copies = [], [], []
    (runner,) = _parts(source, numbers | {"actor.placement": "thread"}).runners
    for _ in range(40):
        rollout = runner.queue.acquire()
        runner.actor.collect(rollout)
        tails.append(_since(rollout))
        runner.queue.release([rollout])
        began = time.perf_counter()
        rollout.obs.copy()
        copies.append(time.perf_counter() - began)
    parts = _parts(source, numbers | {"actor.placement": "process"})
    with Supervisor(parts.gate, parts.wake) as supervisor:
        (runner,) = parts.runners
        supervisor.start("actor-0", partial(runner.run, parts.queue.put))
        for _ in range(40):
            (rollout,) = parts.queue.get(1)
            arrivals.append(_since(rollout))
            parts.queue.release([rollout])
            time.sleep(0.05)  # the actor waits for this one: nothing else is under way
    parts.close()
    move, copy = (statistics.median(arrivals) - statistics.median(tails)) * 1e6, statistics.median(copies) * 1e6
    print(f"moving {rollout.obs.nbytes / 1e6:.1f} MB: {move:,.0f} us; a memcpy of it: {copy:,.0f} us")
    return {"move_us": move, "memcpy_us": copy, "megabytes": rollout.obs.nbytes / 1e6}


def _parts(source: EnvironmentSource, settings: dict[str, Any]) -> Topology:
    config = resolve(source.id, "impala", settings)
    network = build(source.observation_space, source.action_space, config.network)
    return assemble(config, source, network, np.random.SeedSequence(0), Progress())


def _since(rollout: Rollout) -> float:
    return (time.perf_counter() - float(rollout.reward[-1, -1])) % 1.0


if __name__ == "__main__":
    write("processes", {"computing": computing(), "waiting": waiting(), "one_slow": one_slow(), "moving": moving()})
