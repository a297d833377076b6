"""Does the average of the weights (`learner.average_decay`) pay? Untuned, with it and without it, five seeds each.

python benchmarks/averaging.py [ENVIRONMENT ...]

Each run is `troupe train ENV --untuned --learner.average_decay D`, with the target, steps and seeds of environments.py.
A result is added to what is in the file already.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

from environments import SEEDS, THRESHOLDS

DECAYS = (0.99, 0.0)
MINUTES = 30  # of training at most; the limit that counts is the one on steps


def measure(name: str, seed: int, decay: float) -> dict[str, Any]:
    _, steps, _, target = THRESHOLDS[name]
    limits = ["--steps", str(steps), "--time", f"{MINUTES}m", "--target", str(target)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = ["--untuned", "--learner.average_decay", str(decay), "--seed", str(seed)]
        troupe("train", name, "--run-dir", str(run), *settings, *limits)
        summary = json.loads((run / "summary.json").read_text())
    kept = ("seed", "outcome", "steps", "best_steps", "training_seconds")
    return {"decay": decay} | {key: summary[key] for key in kept} | summary["evaluation"]


def main(names: list[str]) -> None:
    file = RESULTS / "averaging.json"
    results: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())["environments"] if file.exists() else {}
    for name in names:
        results[name] = []
        for seed in SEEDS:  # in turn, so that what else the machine does meets both alike
            for decay in DECAYS:
                results[name].append(measure(name, seed, decay))
                run = results[name][-1]
                print(name, seed, decay, f"{run['mean_return']:.1f}", run["steps"], run["training_seconds"], flush=True)
                write(file.stem, {"environments": results})
    for name, runs in results.items():
        for decay in DECAYS:
            those = [run for run in runs if run["decay"] == decay]
            scores = [run["mean_return"] for run in those]
            reached = f"{sum(score >= THRESHOLDS[name][0] for score in scores)} of {len(scores)}"
            steps = statistics.median(run["steps"] for run in those)
            print(f"{name:26} {decay:4} {reached} lowest {min(scores):10,.1f} {steps:12,.0f} steps")


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(THRESHOLDS):
        sys.exit(__doc__)
    main(sys.argv[1:] or list(THRESHOLDS))
