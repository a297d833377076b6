"""Actors on several hosts, which Ray simulates on this machine (pip install '.[cluster]').

    python benchmarks/cluster.py                 # all of it, about half an hour
    python benchmarks/cluster.py hosts pictures  # some of it

hosts      an environment that sleeps 20 ms, 16 to an actor: steps/s of two hosts, of one, equal actors on each
cartpole, python, pictures   one host against processes of this machine, median of five pairs: steps/s where a step is
           CartPole's, 200 us of Python, or brings a picture of 84 x 84 x 4
loss       ten runs, a host removed from each at a random moment: do they finish and learn, how long do they stand
learning   CartPole-v1 by two hosts: seeds that reach 475
sleepers   actors that sleep a second a step on four hosts, for a minute: what is lost, and the rate of the ideal
transport  milliseconds of a parcel with a rollout of CartPole, and of one with pictures, whole and by new frames

Each figure is a line with what it should be; the exit status is 1 where one is missed. cluster.json has the newest of
each.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import RESULTS, write
from costs import Costly, burns

import troupe
from troupe.runs.store.metrics import read_log
from troupe.runtime.cluster.engine import Node

QUIET = {
    "stop.target": "none", "evaluation.every_seconds": 0.0, "evaluation.every_steps": 0, "evaluation.final_episodes": 1,
}  # fmt: skip
LIGHT = {"learner.epochs": 1, "learner.minibatches": 1, "learner.threads": 1, "env.backend": "sync"}


class Pictures(gym.Env[np.ndarray, int]):
    """Four stacked frames of 84 x 84, of which each step brings one; episodes of 200 steps. Each frame is noise, which
    no compression shortens."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.frames = np.random.default_rng(0).integers(0, 255, (84, 84, 64), np.uint8)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return self._seen(), float(action == 0), self.steps >= 200, False, {}

    def _seen(self) -> np.ndarray:
        first = self.steps % 60
        return np.ascontiguousarray(self.frames[:, :, first : first + 4])


def sleeps_20_ms() -> Costly:
    return Costly(sleep=20e-3)


def sleeps_a_second() -> Costly:
    return Costly(sleep=1.0)


class Report:
    """The figures, and whether each is what it should be."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.missed: list[str] = []

    def add(self, name: str, value: float, bar: str, good: bool, **more: Any) -> None:
        self.figures[name] = {"value": value, "bar": bar, "good": good, "date": time.strftime("%Y-%m-%d"), **more}
        self.missed += [] if good else [name]
        spread = f"; {more['spread']}" if "spread" in more else ""
        print(f"{name}: {value:.4g}{spread} ({bar}){'' if good else ', MISSED'}", flush=True)


class Simulated:
    """A head without cores, and hosts."""

    def __init__(self, hosts: int, cores: int):
        from ray.cluster_utils import Cluster

        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # as actors without Ray; else they come last on a busy machine
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.cores, self.address = cores, self.cluster.address
        self.nodes = [self.add() for _ in range(hosts)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=self.cores, include_dashboard=False)


@contextmanager
def simulated(hosts: int, cores: int = 2) -> Iterator[Simulated]:
    made = Simulated(hosts, cores)
    try:
        yield made
    finally:
        made.cluster.shutdown()


def train(env: Any, address: str | None, seconds: float, **settings: Any) -> tuple[troupe.Run, list[dict[str, Any]]]:
    """A run without evaluations, and its reports."""
    with tempfile.TemporaryDirectory() as folder:
        given = QUIET | {"actor.cluster": address or "none"} | settings
        run = troupe.train(env, seconds=seconds, run_dir=f"{folder}/run", settings=given)
        return run, [row for row in read_log(run.path) if row["kind"] == "report"]


def steps_per_s(env: Any, address: str | None, seconds: float, **settings: Any) -> float:
    run, _ = train(env, address, seconds, **settings)
    return run.steps / run.seconds


def hosts(report: Report) -> None:
    shape = LIGHT | {"actor.environments": 16, "actor.rollout_steps": 4, "learner.rollouts": 1}
    with simulated(2) as cluster:
        two = steps_per_s(sleeps_20_ms, cluster.address, 20, **shape, **{"actor.count": 8})
        _remove(cluster)
        _until_gone(cluster)
        one = steps_per_s(sleeps_20_ms, cluster.address, 20, **shape, **{"actor.count": 4})
    report.add("two hosts, times one", two / one, "at least 1.9", two >= 1.9 * one, steps_per_s=[one, two])


def cartpole(report: Report) -> None:
    _against_local(report, "CartPole", "CartPole-v1")


def python(report: Report) -> None:
    _against_local(report, "200 us of Python", burns)


def pictures(report: Report) -> None:
    _against_local(report, "pictures", Pictures, **{"actor.environments": 8, "network.precision": "float32"})


def _against_local(report: Report, name: str, env: Any, **settings: Any) -> None:
    """The median of five pairs, each of which has the other order: the machine's speed varies."""
    shape = {"actor.count": 2, "actor.environments": 16, "actor.rollout_steps": 32, "actor.placement": "process"}
    settings = LIGHT | shape | settings  # processes, as on hosts
    pairs: list[tuple[float, float]] = []  # local, cluster
    with simulated(1) as cluster:
        for number in range(5):
            places = [("local", None), ("cluster", cluster.address)][:: -1 if number % 2 else 1]
            speed = {where: steps_per_s(env, address, 8, **settings) for where, address in places}
            pairs.append((speed["local"], speed["cluster"]))
    ratios = sorted(there / here for here, there in pairs)
    kept = statistics.median(ratios)
    spread = f"{len(ratios)} pairs, {ratios[0]:.2f} to {ratios[-1]:.2f}"
    report.add(f"one host, times local: {name}", kept, "at least 0.9", kept >= 0.9, spread=spread, steps_per_s=pairs)


def loss(report: Report, runs: int = 10) -> None:
    """Learned: the return of the last reports is more than that of the first ones."""
    finished = learned = restarts = 0
    longest, rng = 0.0, random.Random(0)
    shape = {"actor.count": 4, "actor.environments": 8, "actor.auto": False}
    with simulated(2) as cluster:
        for _ in range(runs):
            watched, moment = _Standstill(), rng.uniform(0, 10)
            with tempfile.TemporaryDirectory() as folder:
                watched.follow(Path(folder) / "run")
                removed = threading.Thread(target=_remove_later, args=(cluster, watched, moment), daemon=True)
                removed.start()
                run = troupe.train(
                    "CartPole-v1", cluster=cluster.address, seconds=20, run_dir=f"{folder}/run", settings=QUIET | shape
                )
                longest = max(longest, watched.stop())
                rows = [row for row in read_log(run.path) if row["kind"] == "report"]
                returns = [row["recent_return"] for row in rows if row["recent_return"] is not None]
                finished += run.outcome == "time"
                learned += returns[-1] > 1.2 * returns[0]
                restarts += rows[-1]["restarts"]
            removed.join()
            cluster.nodes.append(cluster.add())
    report.add("runs that lost a host and finished", finished, f"{runs}", finished == runs)
    report.add("of these, learned", learned, f"{runs}", learned == runs)
    report.add("hosts that were noticed to be lost", restarts, f"{runs}", restarts == runs)
    report.add("longest standstill, s", longest, "at most 10", longest <= 10)
    left = len(_processes(b"ray::Host"))
    report.add("hosts left afterwards", left, "0", left == 0)


def _remove(cluster: Simulated) -> None:
    cluster.cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)


def _remove_later(cluster: Simulated, watched: "_Standstill", seconds: float) -> None:
    """That long after the first steps."""
    watched.begun.wait()
    time.sleep(seconds)
    _remove(cluster)


def _until_gone(cluster: Simulated) -> None:
    """Until the head knows of the removal, too."""
    from troupe.runtime.cluster import ray_engine

    with ray_engine.connected(cluster.address) as engine:
        while len(engine.nodes()) > len(cluster.nodes):
            time.sleep(0.5)


class _Standstill:
    """The longest time in which a run reports no step more, once it has reported some."""

    def follow(self, path: Path) -> None:
        self._ended, self.begun, self._longest = threading.Event(), threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch, args=(path,), daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._longest

    def _watch(self, path: Path) -> None:
        seen, since = 0, time.monotonic()
        while not self._ended.wait(0.1):
            with suppress(Exception):  # a row is half written
                steps = read_log(path)[-1]["steps"]
                if steps:
                    self.begun.set()
                if steps != seen:
                    self._longest = max(self._longest, time.monotonic() - since) if seen else 0.0
                    seen, since = steps, time.monotonic()


def learning(report: Report, seeds: int = 5) -> None:
    solved, times = 0, []
    with simulated(2) as cluster:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                run = troupe.train(
                    "CartPole-v1",
                    cluster=cluster.address,
                    seed=seed,
                    run_dir=f"{folder}/run",
                    settings={"actor.count": 4},
                )
                solved += run.scores is not None and run.scores.mean >= 475
                times.append(run.seconds)
    report.add("seeds that reach 475 by two hosts", solved, f"{seeds}", solved == seeds, seconds=times)


def sleepers(report: Report, actors: int = 256) -> None:
    shape = LIGHT | {"actor.count": actors, "actor.environments": 1, "actor.rollout_steps": 4, "learner.rollouts": 16}
    with simulated(4) as cluster:
        run, rows = train(sleeps_a_second, cluster.address, 60, **shape, **{"actor.hang_seconds": 60.0})
    lost = rows[-1]["restarts"]
    rate = sum(host["steps"] for host in rows[-1]["hosts"].values()) / run.seconds / actors
    report.add(f"{actors} sleeping actors, lost", lost, "0", lost == 0)
    report.add(f"{actors} sleeping actors, steps/s of the ideal", rate, "at least 0.9", rate >= 0.9)


def transport(report: Report) -> None:
    from troupe.runtime.cluster import ray_engine

    with simulated(1) as cluster, ray_engine.connected(cluster.address) as engine:
        (node,) = engine.nodes()
        for name, arrays, most in (
            ("a rollout of CartPole, 32 x 16", {"obs": np.zeros((33, 16, 4), np.float32)}, 3.0),
            ("pictures, 15 MB", {"obs": np.zeros((33, 16, 84, 84, 4), np.uint8)}, 90.0),
            ("one frame of four, 3.7 MB", {"obs": np.zeros((33, 16, 84, 84, 1), np.uint8)}, 30.0),
        ):
            spent = _round_trip(engine, node, arrays)
            report.add(f"ms of a call with {name}", spent, f"at most {most:g}", spent <= most)
    stacked = np.random.default_rng(0).integers(0, 255, (33, 16, 84, 84, 4), np.uint8)
    for name, work in (("to find the new frames of 15 MB", _new_frames), ("to stack them again", _stacked)):
        began = time.perf_counter()
        for _ in range(5):
            work(stacked)
        spent = 200 * (time.perf_counter() - began)
        report.add(f"ms {name}", spent, "for comparison", True)


def _round_trip(engine: Any, node: Node, arrays: dict[str, np.ndarray], calls: int = 30) -> float:
    """Milliseconds from the request to the copy here: the median."""
    import ray

    class Sender:
        def send(self) -> dict[str, np.ndarray]:
            return {name: array.copy() for name, array in arrays.items()}

    sender = ray.remote(Sender).options(num_cpus=0).remote()
    into = {name: np.empty_like(array) for name, array in arrays.items()}
    spent = []
    for _ in range(calls):
        began = time.perf_counter()
        ticket = sender.send.remote()
        engine.wait([ticket], 10.0)
        for name, array in engine.result(ticket).items():
            into[name][...] = array
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def _new_frames(stacked: np.ndarray) -> np.ndarray:
    """The last frame of each stack, where the others are those of the stack before; four bytes are compared at once."""
    words = stacked.view(np.uint32)[..., 0]
    assert not np.array_equal(words[1:] & 0xFFFFFF, words[:-1] >> 8)  # here they are not: the price is the same
    return np.ascontiguousarray(stacked[..., -1])


def _stacked(stacked: np.ndarray) -> np.ndarray:
    frames, again = stacked[..., -1], np.empty_like(stacked)
    for lag in range(4):
        again[lag:, ..., 3 - lag] = frames[: len(frames) - lag]
    return again


def _processes(name: bytes) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(name):
                found.append(int(process.name))
    return found


PARTS: dict[str, Callable[[Report], None]] = {
    each.__name__: each for each in (hosts, cartpole, python, pictures, loss, learning, sleepers, transport)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="those to measure (all)")
    parser.add_argument("--actors", type=int, default=256, help="of sleepers (256: some 20 GB of memory)")
    options = parser.parse_args()
    report = Report()
    for name in options.parts or PARTS:
        if name == "sleepers":
            sleepers(report, options.actors)
        else:
            PARTS[name](report)
    file = RESULTS / "cluster.json"
    known = json.loads(file.read_text())["figures"] if file.exists() else {}
    write("cluster", {"figures": known | report.figures})
    sys.exit(f"missed: {', '.join(report.missed)}" if report.missed else 0)


if __name__ == "__main__":
    main()
