"""Runs that collapse, and what going back to the best weights does about it: `--on-collapse rollback`.

CartPole-v1 with a learning rate of 0.05, fifty times the default, the same seeds with and without rollback. A run's
level is the mean of its evaluations over the second half of its steps: how good it is at an arbitrary moment.

python benchmarks/stability.py [SEEDS] [STEPS]
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

TOO_LARGE = [
    "--untuned", "--target", "none", "--topology", "serial", "--actor.count", "1", "--actor.environments", "16",
    "--learner.rollouts", "1", "--learner.learning_rate", "0.05",
    "--evaluation.every_seconds", "0", "--evaluation.every_steps", "2000",
]  # fmt: skip
ANSWERS = ("report", "rollback")


def main(seeds: int = 10, steps: int = 100_000) -> None:
    runs: dict[str, list[dict[str, Any]]] = {answer: [] for answer in ANSWERS}
    command = ["train", "CartPole-v1", *TOO_LARGE, "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, seeds + 1):
            for answer in ANSWERS:
                run = Path(folder) / f"{answer}{seed}"
                troupe(*command, "--seed", str(seed), "--on-collapse", answer, "--run-dir", str(run))
                runs[answer].append(result(run, steps))
                told = {name: value for name, value in runs[answer][-1].items() if name != "evaluations"}
                print(answer, told, flush=True)
    picture(runs, RESULTS / "stability.png")
    write(
        "stability",
        {
            "command": " ".join(["troupe", *command, f"--seed 1..{seeds} --on-collapse {'|'.join(ANSWERS)}"]),
            "answers": {answer: figures(done) for answer, done in runs.items()},
            "runs": runs,
        },
    )


def result(run: Path, steps: int) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [(row["steps"], row["mean"]) for row in rows if row["kind"] == "evaluation" and row["purpose"] == "progress"]
    return {
        "seed": summary["seed"],
        "level": statistics.mean(mean for at, mean in seen if at > steps / 2),
        "last": seen[-1][1],
        "best_weights": summary["evaluation"]["mean_return"],
        "collapses": summary["collapses"],
        "rollbacks": summary["rollbacks"],
        "collapsed_at": [row["steps"] for row in rows if row["kind"] == "collapse"],
        "training_seconds": summary["training_seconds"],
        "evaluations": seen,
    }


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    levels = [run["level"] for run in runs]
    return {
        "mean_level": statistics.mean(levels),
        "lowest_level": min(levels),
        "mean_last": statistics.mean(run["last"] for run in runs),
        "mean_best_weights": statistics.mean(run["best_weights"] for run in runs),
        "runs_that_collapsed": sum(run["collapses"] > 0 for run in runs),
        "rollbacks": sum(run["rollbacks"] for run in runs),
    }


def picture(runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Every run's evaluations, a cross where it collapsed, and the mean of all."""
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from troupe.runs.report.plots import COLOURS, INK, STYLE

    titles = {"report": "--on-collapse report (the default)", "rollback": "--on-collapse rollback"}
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        for panel, answer, colour in zip(figure.subplots(1, 2, sharey=True), ANSWERS, COLOURS, strict=False):
            curves = [np.array(run["evaluations"]).T for run in runs[answer]]
            for run, (steps, means) in zip(runs[answer], curves, strict=True):
                panel.plot(steps, means, color=colour, lw=0.8, alpha=0.35)
                at = np.isin(steps, run["collapsed_at"])
                panel.plot(steps[at], means[at], "X", color=INK, ms=8, mec="white")
            grid = np.linspace(max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves), 200)
            mean = np.mean([np.interp(grid, steps, means) for steps, means in curves], axis=0)
            panel.plot(grid, mean, color=colour, lw=2.4)
            panel.set(title=titles[answer], xlabel="environment steps")
        figure.axes[0].set_ylabel("mean return of an evaluation (cross: a collapse)")
        figure.suptitle("CartPole-v1, learning rate 0.05", x=0.01, ha="left", weight="bold", size=14)
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
