"""`troupe train CartPole-v1 --seed 1..10`: training seconds, whole-command seconds, evaluations, peak memory."""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from common import RESULTS, peak_memory_of_children_mb, troupe, write

SEEDS = range(1, 11)


def main(*options: str) -> None:
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            place = Path(folder) / f"seed{seed}"
            _, whole = troupe("train", "CartPole-v1", "--seed", str(seed), "--run-dir", str(place), *options)
            summary = json.loads((place / "summary.json").read_text())
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
        troupe("plot", *(str(Path(folder) / f"seed{seed}") for seed in SEEDS), "-o", str(RESULTS / f"{name}.png"))
    write(
        name,
        {
            "command": " ".join(["troupe train CartPole-v1 --seed 1..10", *options]),
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
    main(*sys.argv[1:])
