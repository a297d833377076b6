"""`troupe train CartPole-v1` with ten seeds: training seconds, whole-command seconds, evaluations, peak memory.

python benchmarks/cartpole.py [--held-out] [OPTION ...]   options of `troupe train`, such as --preset impala

The settings for CartPole-v1 were chosen with seeds 1 to 10. --held-out has seeds 11 to 20, which had no part in it.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from common import RESULTS, peak_memory_of_children_mb, troupe, write

SEEDS, HELD_OUT = range(1, 11), range(11, 21)


def main(seeds: range, *options: str) -> None:
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            run = Path(folder) / f"seed{seed}"
            _, whole = troupe("train", "CartPole-v1", "--seed", str(seed), "--run-dir", str(run), *options)
            summary = json.loads((run / "summary.json").read_text())
            runs.append(
                {
                    "seed": seed,
                    "outcome": summary["outcome"],
                    "mean_return": summary["evaluation"]["mean_return"],
                    "steps": summary["steps"],
                    "training_seconds": summary["training_seconds"],
                    "command_seconds": round(whole, 2),
                }
            )
            print(runs[-1], flush=True)
        RESULTS.mkdir(exist_ok=True)
        name = "-".join(["cartpole", *(option.strip("-") for option in options)])
        name += "-held-out" * (seeds == HELD_OUT)
        if seeds == SEEDS:
            troupe("plot", *(str(Path(folder) / f"seed{seed}") for seed in seeds), "-o", str(RESULTS / f"{name}.png"))
    write(
        name,
        {
            "command": " ".join([f"troupe train CartPole-v1 --seed {seeds[0]}..{seeds[-1]}", *options]),
            "lowest_mean_return": min(run["mean_return"] for run in runs),
            "median_training_seconds": statistics.median(run["training_seconds"] for run in runs),
            "longest_training_seconds": max(run["training_seconds"] for run in runs),
            "median_steps": statistics.median(run["steps"] for run in runs),
            "median_command_seconds": statistics.median(run["command_seconds"] for run in runs),
            "peak_memory_mb": round(peak_memory_of_children_mb()),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    held_out = "--held-out" in sys.argv
    main(HELD_OUT if held_out else SEEDS, *(option for option in sys.argv[1:] if option != "--held-out"))
