"""Environments from other people's packages, untuned: each is one command, `troupe train ID`.

python benchmarks/wild.py [ID ...]      after pip install -c constraints.txt -r benchmarks/wild-requirements.txt

One seed each, for a limited time, then 50 greedy episodes of the agent that was kept. A random policy plays as many.
Results are added to those in the file already, so that environments can be measured one at a time.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import RESULTS, troupe, write

from troupe.environments import find

EPISODES = 50
MOST_STEPS = 5_000  # of a random episode: some environments end only when something is achieved


class Case(NamedTuple):
    package: str
    minutes: float
    best: str  # what is known: a bound that follows from the reward, or "" where nothing is
    options: tuple[str, ...] = ()  # workarounds: what the command needs besides the id
    memory: str = ""  # why, where an option is what the task is about rather than a workaround


CASES = {
    "MiniGrid-Empty-8x8-v0": Case("minigrid", 1, "0.961: 11 steps of 256, at 0.9 / 256 each"),
    "MiniGrid-DoorKey-5x5-v0": Case("minigrid", 2, "below 1: less 0.9 / 250 for each step"),
    "highway-fast-v0": Case("highway-env", 3, "at most 30: 1 for each of 30 steps"),
    "MinAtar/Breakout-v1": Case("MinAtar", 1.5, ""),
    "MinAtar/SpaceInvaders-v1": Case("MinAtar", 1.5, ""),
    "dm_control/cartpole-balance-v0": Case("shimmy, dm-control", 1.5, "at most 1,000: 1 for each of 1,000 steps"),
    "PointMaze_UMazeDense-v3": Case("gymnasium-robotics", 1.5, "below 300: 1 for each of 300 steps"),
    "FetchReachDense-v4": Case("gymnasium-robotics", 1.5, "below 0: minus the distance"),
    "stocks-v0": Case("gym-anytrading", 1, ""),
    "FlappyBird-v0": Case("flappy-bird-gymnasium", 1.5, ""),
    "PandaReachDense-v3": Case("panda-gym", 1.5, "below 0: minus the distance"),
    "tetris_gymnasium/Tetris": Case("tetris-gymnasium", 1.5, ""),
    "gym_pusht/PushT-v0": Case("gym-pusht", 1.5, "below 300: the share that is covered, in each of 300 steps"),
    "popgym-RepeatFirstEasy-v0": Case("popgym", 1, "1", ("--network.core", "gru"), "the task is about memory"),
}


def random_return(name: str) -> float:
    """The mean return of a policy that draws each action from the action space."""
    env = find(name).make()
    env.action_space.seed(0)
    totals = []
    for episode in range(EPISODES):
        env.reset(seed=episode)
        total, over = 0.0, False
        for _ in range(MOST_STEPS):
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(np.asarray(reward).item())
            over = bool(terminated or truncated)
            if over:
                break
        totals.append(total)
    env.close()
    return statistics.mean(totals)


def measure(name: str, case: Case) -> dict[str, Any]:
    options = ["--time", f"{case.minutes:g}m", "--target", "none", *case.options]
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        _, whole = troupe("train", name, "--seed", "1", "--run-dir", run, *options)
        summary = json.loads((Path(run) / "summary.json").read_text())
        printed, _ = troupe("evaluate", run, "--episodes", str(EPISODES), "--json")
    kept = ("steps", "best_steps", "episodes", "training_seconds", "peak_memory_mb")
    return {
        "package": case.package,
        "command": " ".join(["troupe train", name, "--seed 1", *options]),
        "workarounds": "" if case.memory else " ".join(case.options),
        "random": random_return(name),
        "best": case.best,
        "command_seconds": whole,
        "evaluation": json.loads(printed),
        **{key: summary[key] for key in kept},
    }


def main(names: list[str]) -> None:
    file = RESULTS / "wild.json"
    results: dict[str, Any] = json.loads(file.read_text())["environments"] if file.exists() else {}
    for name in names or CASES:
        results[name] = measure(name, CASES[name])
        write(file.stem, {"environments": results})
    print("| environment | package | random | reached | best known | steps | minutes | workarounds |")
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        reached, minutes = result["evaluation"]["mean_return"], result["training_seconds"] / 60
        print(
            f"| {name} | {result['package']} | {result['random']:.4g} | {reached:.4g} | {result['best'] or '-'} | "
            f"{result['steps']:,} | {minutes:.1f} | {result['workarounds'] or 'none'} |"
        )


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(CASES):
        sys.exit(__doc__)
    main(sys.argv[1:])
