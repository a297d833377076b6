"""`troupe train CartPole-v0 --preset article --seeds 10`: steps/s with the delay in place, and what was learned."""

import json
import shutil
import statistics
import tempfile
from pathlib import Path

from common import RESULTS, troupe, write

SEEDS = range(1, 11)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        printed, _ = troupe(
            "train",
            "CartPole-v0",
            "--preset",
            "article",
            "--seed",
            "1",
            "--seeds",
            "10",
            "--run-dir",
            str(runs),
            "--quiet",
        )
        print(printed)
        summaries = [json.loads((runs / f"seed{seed}" / "summary.json").read_text()) for seed in SEEDS]
        RESULTS.mkdir(exist_ok=True)
        shutil.copy(runs / "learning.png", RESULTS / "article.png")
    means = [summary["evaluation"]["mean_return"] for summary in summaries]
    speeds = [summary["steps_per_s"] for summary in summaries]
    write(
        "article",
        {
            "command": "troupe train CartPole-v0 --preset article --seed 1 --seeds 10",
            "mean_of_means": statistics.mean(means),
            "mean_returns": means,
            "steps_per_s": speeds,
            "lowest_steps_per_s": min(speeds),
        },
    )
