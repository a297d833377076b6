"""What a memory is good for, and what it costs: cues to be remembered, a CartPole without velocities, three tasks of
POPGym (Morad et al. 2023), steps per second. Two runs share the machine, except where their speed is measured.

python benchmarks/memory.py [SEEDS] [SCALE]      # SCALE below 1 shortens every run: to see that it works
"""

import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

CORES = ("lstm", "gru", "none")
SERIAL = [
    "--topology", "serial", "--actor.count", "1", "--actor.environments", "16", "--learner.rollouts", "1",
    "--actor.rollout_steps", "128", "--evaluation.every_seconds", "0", "--evaluation.every_steps", "10000",
]  # fmt: skip
CUE = [*SERIAL, "--network.core_units", "64", "--loss.gamma", "0.998", "--loss.lam", "0.99", "--target", "0.99"]
HIDDEN = f"{Path(__file__).parent}/hidden.py"
TASKS: dict[str, tuple[tuple[str, ...], list[str], int]] = {  # with which cores, what else is said, the most steps
    f"{HIDDEN}:cue20": (CORES, CUE, 200_000),
    f"{HIDDEN}:cue50": (CORES, CUE, 400_000),
    f"{HIDDEN}:cue100": (CORES, CUE, 800_000),
    f"{HIDDEN}:positions": (CORES, [*SERIAL, "--target", "475"], 500_000),
    "popgym:popgym-RepeatFirstEasy-v0": (("gru",), ["--target", "0.95"], 1_000_000),
    "popgym:popgym-RepeatPreviousEasy-v0": (("gru",), ["--target", "0.95"], 1_000_000),
    "popgym:popgym-PositionOnlyCartPoleEasy-v0": (("gru",), ["--target", "0.98"], 1_000_000),
}
COSTS: dict[str, tuple[list[str], int]] = {  # the same network, without memory and with an LSTM of 128
    "CartPole-v1": (["--untuned", "--topology", "serial"], 60_000),
    "ALE/Pong-v5": (["--network.precision", "float32"], 40_000),
}


def main(seeds: int = 5, scale: float = 1.0) -> None:
    result: dict[str, Any] = {"seeds": seeds, "tasks": {}, "cost": {}}
    with tempfile.TemporaryDirectory() as folder:
        for task, (cores, settings, steps) in TASKS.items():
            name, limit = task.rpartition(":")[2], int(steps * scale)
            with ThreadPoolExecutor(2) as pool:
                runs = {
                    core: pool.map(
                        partial(trained, Path(folder), task, core, settings=settings, steps=limit),
                        range(1, seeds + 1),
                    )
                    for core in cores
                }
                result["tasks"][name] = {core: figures(list(done)) for core, done in runs.items()}
            print(name, json.dumps(result["tasks"][name]), flush=True)
        for env, (settings, steps) in COSTS.items():
            result["cost"][env] = cost(Path(folder), env, settings, int(steps * scale), seeds)
            print(env, json.dumps(result["cost"][env]), flush=True)
    if scale == 1.0:
        write("memory", result)
    else:
        print(f"not written to {RESULTS}: the runs were shortened")


def trained(folder: Path, env: str, core: str, seed: int, *, settings: list[str], steps: int) -> dict[str, Any]:
    """One run until its target is confirmed, and the figures of its summary."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    asked = ["--network.core", core, "--steps", str(steps), "--seed", str(seed), "--run-dir", str(run), "--quiet"]
    troupe("train", env, *settings, *asked)
    summary = json.loads((run / "summary.json").read_text())
    evaluation = summary["evaluation"]
    return {
        "seed": seed,
        "mean_return": evaluation["mean_return"],
        "steps": summary["steps"],
        "seconds": summary["training_seconds"],
    }


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "lowest": min(run["mean_return"] for run in runs),
        "mean": statistics.mean(run["mean_return"] for run in runs),
        "median_steps": statistics.median(run["steps"] for run in runs),
        "median_seconds": statistics.median(run["seconds"] for run in runs),
        "runs": runs,
    }


def cost(folder: Path, env: str, settings: list[str], steps: int, times: int) -> dict[str, Any]:
    """Steps per second of training, by turns, since the machine's speed varies."""
    speeds: dict[str, list[float]] = {"none": [], "lstm": []}
    still = [*settings, "--target", "none", "--evaluation.every_seconds", "0", "--evaluation.final_episodes", "1"]
    for seed in range(times):
        for core, measured in speeds.items():
            run = trained(folder, env, core, seed, settings=still, steps=steps)
            measured.append(run["steps"] / run["seconds"])
    ratios = [lstm / none for lstm, none in zip(speeds["lstm"], speeds["none"], strict=True)]
    return {"steps_per_s": speeds, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
