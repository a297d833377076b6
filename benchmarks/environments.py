"""Gymnasium's environments against a threshold of ours: five seeds each, by the tuned settings and untuned.

python benchmarks/environments.py tuned|untuned [ENVIRONMENT ...]

A result is added to what is in the file already, so that environments can be measured one at a time. The threshold is
reached where every seed's final evaluation (100 greedy episodes of the best weights) is at or above it; untuned, no
other seed is tried after one that missed it. Tuned is what a user's command does, `troupe train ENV --seed K`: no limit
is given, for a limit beyond a fixed `learner.anneal_steps` buys steps in which nothing is learned.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

SEEDS = range(1, 6)
# The threshold for the mean return; and for an untuned run its limits in steps and minutes of training, and its target,
# a little above the threshold.
THRESHOLDS = {
    "CartPole-v1": (475, 150_000, 0.2, 485),
    "Acrobot-v1": (-85, 500_000, 1, -83),
    "MountainCar-v0": (-115, 1_000_000, 2, -112),
    "MountainCarContinuous-v0": (90, 300_000, 1, 91),
    "Pendulum-v1": (-180, 500_000, 1, -165),
    "LunarLander-v3": (240, 1_500_000, 4, 250),
    "LunarLanderContinuous-v3": (240, 1_500_000, 4, 250),
    "BipedalWalker-v3": (280, 5_000_000, 20, 290),
    "HalfCheetah-v5": (4_500, 2_000_000, 10, 4_700),
    "Hopper-v5": (2_400, 2_000_000, 15, 2_600),
}


def measure(name: str, kind: str) -> dict[str, Any]:
    threshold, steps, minutes, target = THRESHOLDS[name]
    limits = ["--steps", str(steps), "--time", f"{minutes}m", "--untuned", "--target", str(target)]
    options = limits if kind == "untuned" else []
    runs: list[dict[str, Any]] = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            _, whole = troupe("train", name, "--seed", str(seed), "--run-dir", str(run), *options)
            summary = json.loads((run / "summary.json").read_text())
        kept = ("seed", "outcome", "steps", "best_steps", "training_seconds", "peak_memory_mb")
        runs.append({key: summary[key] for key in kept} | summary["evaluation"] | {"command_seconds": whole})
        print(name, seed, f"{runs[-1]['mean_return']:.1f}", summary["steps"], summary["training_seconds"], flush=True)
        if kind == "untuned" and runs[-1]["mean_return"] < threshold:
            break
    scores = [run["mean_return"] for run in runs]
    return {
        "command": " ".join(["troupe train", name, f"--seed {SEEDS[0]}..{SEEDS[-1]}", *options]),
        "threshold": threshold,
        "reached": sum(score >= threshold for score in scores),
        "lowest": min(scores),
        "mean": statistics.mean(scores),
        "steps": statistics.median(run["steps"] for run in runs),
        "seconds": statistics.median(run["training_seconds"] for run in runs),
        "runs": runs,
    }


def main(kind: str, names: list[str]) -> None:
    file = RESULTS / f"environments-{kind}.json"
    results: dict[str, Any] = json.loads(file.read_text())["environments"] if file.exists() else {}
    for name in names or THRESHOLDS:
        results[name] = measure(name, kind)
        write(file.stem, {"environments": results})
    for name, result in results.items():
        seeds = f"{result['reached']} of {len(result['runs'])} at {result['threshold']:,}"
        spent = f"{result['steps']:12,.0f} steps {result['seconds']:6.1f} s"
        print(f"{name:26} {seeds:18} lowest {result['lowest']:10,.1f} {spent}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("tuned", "untuned") or not set(sys.argv[2:]) <= set(THRESHOLDS):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
