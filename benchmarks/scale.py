"""What limits a run on N hosts (docs/scale.md): a model, and a check of it with actors that only sleep.

python benchmarks/scale.py limits --hosts 100 --cores 32 --step-ms 5 --bytes 7300   # of one's own case
python benchmarks/scale.py simulate   # 8 to 512 actors, with the real queue, weights and learner; a picture
python benchmarks/scale.py draw       # the picture again, from results/scale.json
"""

import argparse
import copy
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from common import RESULTS, write

from troupe.config import TrainConfig, build
from troupe.environments import EnvironmentSource
from troupe.networks import actor_critic
from troupe.networks.flat import FlatWeights
from troupe.runtime.assembly import make_learners
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import FIELDS, Rollout, RolloutSpec, allocate, stack
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.learning.loss_and_optimizer import optimizer_maker
from troupe.runtime.learning.weights import Master, WeightStore
from troupe.runtime.progress import Progress

CALL_SECONDS, BYTE_SECONDS = 1.2e-3, 0.55e-9  # processor time of the learner's machine for a parcel and for a byte
CALLS = 2  # under way to each host


@dataclass
class Case:
    """Costs in seconds, sizes in bytes; `troupe bench ENV` measures the first three on one core."""

    step: float = 1e-3  # of one environment
    act: float = 1e-5  # for one step
    learn: float = 1.5e-6  # for one step, all epochs
    size: float = 64  # of a step as it travels: observation, action, reward and the like
    weights: float = 20e3  # of the network
    hosts: float = 1
    cores: int = 32
    waiting: int = 1  # environments that wait at a time on each core: more than 1 if a step is no work
    rollout: int = 32 * 16  # steps of it
    parcel: int = 1  # rollouts in it
    network: float = 1.25e9  # bytes/s into the learner's machine: 10 Gbit/s
    ranks: int = 1  # learners on one gradient, each with its share of the hosts
    reduce: float = 0.0  # for one update of all ranks
    batch: int = 4096  # steps of one rank's update

    def limits(self) -> dict[str, float]:
        """Steps/s that each part could make, were all others without cost."""
        head = CALL_SECONDS / (self.rollout * self.parcel) + BYTE_SECONDS * self.size
        return {
            "actors": self.hosts * self.cores * self.waiting / (self.step + self.act),
            "network": self.ranks * self.network / self.size,
            "hand-over": self.ranks / head,
            "learner": self.ranks / (self.learn + self.reduce / self.batch),
        }

    @property
    def weights_seconds(self) -> float:
        """The shortest time between two versions where weights take a tenth of the network."""
        return self.hosts / self.ranks * self.weights / (0.1 * self.network)

    @property
    def memory(self) -> float:
        """Bytes of the rollouts that are under way to one learner."""
        return self.hosts / self.ranks * CALLS * self.parcel * self.rollout * self.size


# The check: actors that sleep


STEP_SECONDS, T, B = 0.05, 32, 16
ACTORS = (8, 64, 256, 512)
ROLLOUTS = 8  # in a batch
SECONDS = 3.0  # of each measurement
SPEC = RolloutSpec(gym.spaces.Box(-1, 1, (4,), np.float32), T, B)
SLEEPS = {"no time": 0.0, "40 ms": 0.04, "160 ms": 0.16}  # of an update, as if it were another machine's
REAL = "a real one"


class Bench:
    """The parts of a run around one learner, which sleeps `update` seconds for an update; None: it learns."""

    def __init__(self, update: float | None):
        settings = {
            "env.id": "sleeping", "network.hidden": (64, 64), "network.normalize": False, "loss.kind": "impala",
            "loss.normalize_reward": False, "learner.epochs": 1, "learner.minibatches": 1, "learner.threads": 1,
        }  # fmt: skip
        config: TrainConfig = build(settings)
        actions = gym.spaces.Discrete(2)
        source = EnvironmentSource("sleeping", lambda: None, SPEC.space, actions)  # type: ignore[arg-type, return-value]
        network = actor_critic.build(SPEC.space, actions, config.network, "")
        flat = FlatWeights(copy.deepcopy(network))
        self.store, self.progress, self._update = WeightStore(flat.vector), Progress(), update
        self.master = Master(flat.vector, optimizer_maker(config.learner, flat.fixed), self.store)
        seeds = [np.random.SeedSequence(0)]
        (self.learner,) = make_learners(config, source, network, self.master, seeds, self.progress, Gate())
        self.queue = RolloutQueue([allocate(SPEC) for _ in range(3 * ROLLOUTS)])

    def learn(self) -> None:
        """One batch, as the topology does it."""
        rollouts = self.queue.get(ROLLOUTS)
        self.progress.consume(rollouts, self.store.version)
        batch = stack(rollouts)
        self.queue.release(rollouts)
        if self._update is None:
            self.learner.learn(batch)
        else:
            time.sleep(self._update)
            self.master.publish()

    def act(self, sleep: Callable[[], None]) -> None:
        """One actor: pulls, sleeps through a rollout, hands it over, for ever."""
        made, own, version = _made_up(), torch.empty_like(self.master.vector), -1
        with suppress(Closed):
            while True:
                version = self.store.pull(own, version)
                sleep()
                rollout = self.queue.acquire()
                for name in FIELDS:
                    np.copyto(getattr(rollout, name), getattr(made, name))
                rollout.policy_version[:] = version
                self.queue.put(rollout)


def _made_up() -> Rollout:
    rollout, rng = allocate(SPEC), np.random.default_rng()
    rollout.obs[:] = rng.uniform(-1, 1, rollout.obs.shape)
    rollout.action[:] = rng.integers(2, size=rollout.action.shape)
    rollout.behaviour_log_prob[:] = np.log(0.5)
    return rollout


def measure(update: float | None, actors: int) -> dict[str, Any]:
    """Steps/s that the learner takes, and their lag in updates."""
    bench, began = Bench(update), time.perf_counter()

    def work() -> None:
        time.sleep(random.random() * T * STEP_SECONDS)
        bench.act(lambda: time.sleep(T * STEP_SECONDS))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(actors)]
    for thread in threads:
        thread.start()
    while time.perf_counter() < began + 2 * T * STEP_SECONDS:
        bench.learn()
    first, since = bench.progress.counts.steps, time.perf_counter()
    bench.progress.take_lag()
    while time.perf_counter() < since + SECONDS:
        bench.learn()
    spent = time.perf_counter() - since
    steps, (lag, most) = bench.progress.counts.steps - first, bench.progress.take_lag()
    bench.queue.close()
    for thread in threads:
        thread.join()
    return {"actors": actors, "steps_per_s": round(steps / spent, 1), "lag_mean": round(lag, 2), "lag_max": most}


def simulate() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, update in {**SLEEPS, REAL: None}.items():
        for actors in ACTORS:
            rows.append({"learner": name, **measure(update, actors)})
            print(rows[-1], flush=True)
    setup = {"step_seconds": STEP_SECONDS, "rollout": [T, B], "rollouts_in_batch": ROLLOUTS}
    write("scale", {"command": "scale.py simulate", **setup, "rows": rows})
    draw()


# The picture


FRAMES = {"act": 7e-5, "size": 29_200, "weights": 2.7e6}
CASES = {  # costs: docs/scale.md
    "4 numbers, 1.5 us to learn a step": {},
    "the same, rollouts of 2,048 steps": {"rollout": 2048},
    "4 frames, 10 us (assumed)": {**FRAMES, "learn": 1e-5},
    "4 frames, 150 us, 16 learners": {**FRAMES, "learn": 1.5e-4, "ranks": 16},
    "4 frames, 150 us": {**FRAMES, "learn": 1.5e-4},
}


def draw() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    result = json.loads((RESULTS / "scale.json").read_text())
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    offered = T * B / (T * result["step_seconds"])  # steps/s of an actor
    marks = dict(zip((*SLEEPS, REAL), ("o", "s", "D", "x"), strict=True))
    for colour, (name, mark) in enumerate(marks.items()):
        seen = [row for row in result["rows"] if row["learner"] == name]
        if update := SLEEPS.get(name):
            xs = np.geomspace(ACTORS[0], ACTORS[-1], 200)
            left.plot(xs, np.minimum(xs * offered, ROLLOUTS * T * B / update), color=f"C{colour}", alpha=0.5)
        label = "a small network learns" if name == REAL else f"an update takes {name}"
        left.plot(
            [row["actors"] for row in seen], [row["steps_per_s"] for row in seen], mark, color=f"C{colour}", label=label
        )
    left.set(xscale="log", yscale="log", xlabel="actors that sleep", ylabel="steps/s")
    left.set_xticks(ACTORS, [str(number) for number in ACTORS])
    left.minorticks_off()
    left.set_title("measured (dots) and min(actors, learner)", fontsize=10)
    left.legend(fontsize=8)
    hosts = np.geomspace(1, 1000, 200)
    for colour, (name, costs) in enumerate(CASES.items()):
        found = [min(Case(hosts=number, **costs).limits().values()) for number in hosts]
        right.plot(hosts, found, color=f"C{colour}", label=name)
        limits = Case(hosts=1000, **costs).limits()
        limit = min(limits, key=limits.__getitem__)
        right.annotate(limit, (hosts[-1], found[-1]), ha="right", va="bottom", fontsize=8)
    right.set(xscale="log", yscale="log", ylim=(3e3, 1e8), xlabel="hosts of 32 cores; a step takes 1 ms")
    right.set_title("the model, and what limits 1,000 hosts", fontsize=10)
    right.legend(fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "scale.png", dpi=110)
    print(f"wrote {RESULTS / 'scale.png'}")


def show(case: Case) -> None:
    limits = case.limits()
    least = min(limits, key=limits.__getitem__)
    for name, speed in sorted(limits.items(), key=lambda item: item[1]):
        print(f"{name:10} {speed:14,.0f} steps/s{'   limits' if name == least else ''}")
    print(f"new weights reach the hosts every {case.weights_seconds:.2f} s or later")
    print(f"rollouts under way to a learner: {case.memory / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulate")
    commands.add_parser("draw")
    one = commands.add_parser("limits")
    one.add_argument("--hosts", type=int, default=1)
    one.add_argument("--cores", type=int, default=32)
    one.add_argument("--waiting", type=int, default=1, help="environments that wait at a time on each core")
    one.add_argument("--step-ms", type=float, default=1.0, help="of one environment")
    one.add_argument("--act-us", type=float, default=10.0, help="a step's share of a pass of the policy")
    one.add_argument("--learn-us", type=float, default=1.5, help="for a step, all epochs")
    one.add_argument("--bytes", type=float, default=64, help="of a step as it travels")
    one.add_argument("--weights-mb", type=float, default=0.02)
    one.add_argument("--rollout", type=int, default=512, help="steps of all environments of an actor in it")
    one.add_argument("--parcel", type=int, default=1, help="rollouts in it")
    one.add_argument("--gbit", type=float, default=10.0, help="of the network into a learner's machine")
    one.add_argument("--learners", type=int, default=1)
    one.add_argument("--reduce-ms", type=float, default=0.0, help="for one update of all learners")
    one.add_argument("--batch", type=int, default=4096, help="steps of one learner's update")
    asked = parser.parse_args()
    if asked.command == "limits":
        show(
            Case(
                step=asked.step_ms * 1e-3, act=asked.act_us * 1e-6, learn=asked.learn_us * 1e-6, size=asked.bytes,
                weights=asked.weights_mb * 1e6, hosts=asked.hosts, cores=asked.cores, waiting=asked.waiting,
                rollout=asked.rollout, parcel=asked.parcel, network=asked.gbit * 1e9 / 8, ranks=asked.learners,
                reduce=asked.reduce_ms * 1e-3, batch=asked.batch,
            )
        )  # fmt: skip
    else:
        {"simulate": simulate, "draw": draw}[asked.command]()


if __name__ == "__main__":
    main()
