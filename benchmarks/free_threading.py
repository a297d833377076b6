"""Actors in threads on a free-threaded build of Python (docs/free_threading.md), as ratios in one run.

python3.14t benchmarks/free_threading.py [--seconds S] [--rounds N] [--only CASE ...]

free_threading.json   steps/s where a step burns 200 us of Python: serial, two threads, two processes, and two threads
                      with the lock on (computing); of pictures from two threads and from two processes (pictures); of
                      one and of two hogwild workers on CartPole, and how many of five seeds learn it (hogwild);
                      memory of eight actors and of one, in threads and in processes (memory); seconds from the start
                      of Python to the first steps (startup)

Every measurement is a Python of its own; those that are compared take turns, as the machine's speed varies.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import write

import troupe
from troupe.interpreter import threads_run_in_parallel

HERE = Path(__file__).parent
ENDLESS = {
    "stop.steps": 0, "stop.target": "none", "actor.auto": False, "learner.threads": 1, "evaluation.every_seconds": 0.0,
    "evaluation.final_episodes": 1, "evaluation.max_steps": 10,
}  # fmt: skip
TWO = {"actor.count": 2, "actor.environments": 8}
SERIAL = {"topology": "serial", "actor.count": 1, "actor.environments": 16}
THREADS, PROCESSES = {"actor.placement": "thread"}, {"actor.placement": "process"}
ARTICLE = {"network.hidden": [16], "network.activation": "relu", "network.shared": True}  # its network


class Figures(troupe.Callback):
    """When the first steps had been played, and how much memory the run takes with all its processes."""

    def __init__(self) -> None:
        self.first_step_seconds, self.memory_mb = 0.0, 0.0

    def on_report(self, run: troupe.Training, row: Mapping[str, Any]) -> None:
        if run.counts.played and not self.first_step_seconds:
            self.first_step_seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - _started(os.getpid())
        self.memory_mb = max(self.memory_mb, sum(map(_memory_mb, _family(os.getpid()))))


def _started(pid: int) -> float:
    """Seconds since the machine's start at which a process began."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    with suppress(OSError):  # one that has just ended
        for each in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [one for child in each.read_text().split() for one in _family(int(child))]
    return found


def _memory_mb(pid: int) -> float:
    """Its own, and its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:"))


def one(env: str, preset: str, seconds: float | None, settings: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """In a Python of its own: a run, and its figures."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        run = troupe.train(
            env, preset=preset, seconds=seconds, seed=seed, run_dir=f"{folder}/run", settings=settings,
            callbacks=[figures], display="silent",
        )  # fmt: skip
    return {
        "steps_per_s": run.steps / run.seconds, "outcome": run.outcome, "steps": run.steps,
        "first_step_seconds": figures.first_step_seconds, "memory_mb": figures.memory_mb,
    }  # fmt: skip


def measured(
    env: str,
    seconds: float | None,
    *settings: Mapping[str, Any],
    preset: str = "appo",
    lock: bool = False,
    seed: int = 1,
) -> dict[str, Any]:
    """`one`, with the lock off or on."""
    together = {name: value for each in settings for name, value in each.items()}
    asked = json.dumps([env, preset, seconds, together, seed])
    variables = dict(os.environ)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # other builds refuse to start
        variables["PYTHON_GIL"] = str(int(lock))
    done = subprocess.run([sys.executable, __file__, "one", asked], capture_output=True, text=True, env=variables)
    if done.returncode:
        sys.exit(f"{asked} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turn(rounds: int, ways: Mapping[str, Callable[[], dict[str, Any]]], figure: str) -> dict[str, list[float]]:
    """The figure of each way, measured in turn."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seen[name].append(way()[figure])
            print(f"  {name}: {seen[name][-1]:,.2f}", flush=True)
    return seen


def ratio(seen: Mapping[str, list[float]], name: str, to: str) -> float:
    """The median of those in each round."""
    return statistics.median(a / b for a, b in zip(seen[name], seen[to], strict=True))


def computing(rounds: int, seconds: float) -> dict[str, Any]:
    burns = f"{HERE / 'costs.py'}:burns"
    ways = {
        "serial": lambda: measured(burns, seconds, ENDLESS, SERIAL),
        "two threads": lambda: measured(burns, seconds, ENDLESS, TWO, THREADS),
        "two processes": lambda: measured(burns, seconds, ENDLESS, TWO, PROCESSES),
        "two threads, lock on": lambda: measured(burns, seconds, ENDLESS, TWO, THREADS, lock=True),
    }
    seen = in_turn(rounds, ways, "steps_per_s")
    return {
        "steps_per_s": seen,
        "threads_to_serial": ratio(seen, "two threads", "serial"),
        "threads_to_processes": ratio(seen, "two threads", "two processes"),
        "threads_to_serial_lock_on": ratio(seen, "two threads, lock on", "serial"),
    }


def pictures(rounds: int, seconds: float) -> dict[str, Any]:
    env, light = f"{HERE / 'processes.py'}:Images", {"network.encoder": "flat", "learner.rollouts": 1}
    ways = {
        "two threads": lambda: measured(env, seconds, ENDLESS, TWO, light, THREADS, preset="impala"),
        "two processes": lambda: measured(env, seconds, ENDLESS, TWO, light, PROCESSES, preset="impala"),
    }
    seen = in_turn(rounds, ways, "steps_per_s")
    return {"steps_per_s": seen, "threads_to_processes": ratio(seen, "two threads", "two processes")}


def hogwild(rounds: int, seconds: float) -> dict[str, Any]:
    def workers(number: int) -> dict[str, Any]:
        return measured("CartPole-v1", seconds, ENDLESS, ARTICLE, THREADS, {"actor.count": number}, preset="a3c")

    seen = in_turn(rounds, {"one worker": lambda: workers(1), "two workers": lambda: workers(2)}, "steps_per_s")
    learned = [measured("CartPole-v1", None, THREADS, preset="a3c", seed=seed)["outcome"] for seed in range(1, 6)]
    solved = learned.count("solved")
    return {"steps_per_s": seen, "two_to_one": ratio(seen, "two workers", "one worker"), "learned_of_5": solved}


def memory(rounds: int, seconds: float) -> dict[str, Any]:
    env, few = f"{HERE / 'costs.py'}:burns", {"actor.environments": 1}
    ways = {
        f"{number} in {where}": lambda number=number, placed=placed: measured(
            env, seconds, ENDLESS, few, placed, {"actor.count": number}
        )
        for where, placed in (("threads", THREADS), ("processes", PROCESSES))
        for number in (1, 8)
    }
    seen = in_turn(rounds, ways, "memory_mb")
    return {
        "memory_mb": seen,
        "threads_8_to_1": ratio(seen, "8 in threads", "1 in threads"),
        "processes_8_to_1": ratio(seen, "8 in processes", "1 in processes"),
    }


def startup(rounds: int, seconds: float) -> dict[str, Any]:
    env = f"{HERE / 'costs.py'}:burns"
    ways = {
        "serial": lambda: measured(env, seconds, ENDLESS, SERIAL),
        "two threads": lambda: measured(env, seconds, ENDLESS, TWO, THREADS),
        "two processes": lambda: measured(env, seconds, ENDLESS, TWO, PROCESSES),
    }
    seen = in_turn(rounds, ways, "first_step_seconds")
    more = {name: statistics.median(seen[name]) - statistics.median(seen["serial"]) for name in seen}
    return {"first_step_seconds": seen, "above_serial_seconds": more}


CASES = {each.__name__: each for each in (computing, pictures, hogwild, memory, startup)}


def main() -> None:
    parser = argparse.ArgumentParser(description="threads on a free-threaded build of Python")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of training in each run")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the ways that are compared")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--dry", action="store_true", help="on any build, and write nothing: to see that it works")
    asked = parser.parse_args()
    if not (threads_run_in_parallel() or asked.dry):
        sys.exit("this Python has a lock, or an import has turned it on: use a free-threaded build and PYTHON_GIL=0")
    result = {}
    for name in asked.only:
        print(name, flush=True)
        result[name] = CASES[name](asked.rounds, asked.seconds)
        print(json.dumps({key: value for key, value in result[name].items() if key != "steps_per_s"}), flush=True)
    if not asked.dry and asked.only == list(CASES):
        write("free_threading", result | {"build": sys.version})


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(*json.loads(sys.argv[2]))))
    else:
        main()
