"""GA3C's controller against the best of a sweep of fixed numbers, on CartPole-v1.

ga3c.json   steps/s of every fixed setting; the setting a run of 90 s settled at, from the preset's own
            start and from one far away; and each of these beside the best fixed one, in turn
"""

import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import write

import troupe

QUIET = {
    "stop.steps": 0, "stop.target": "none", "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1,
}  # fmt: skip
Numbers = tuple[int, int, int]  # actors, predictors, learners


def run(seconds: float, numbers: Numbers, adjust_seconds: float) -> tuple[float, Numbers]:
    """Steps/s, and the numbers it ended with."""
    actors, predictors, learners = numbers
    settings: dict[str, Any] = QUIET | {
        "actor.count": actors, "inference.predictors": predictors, "learner.count": learners,
        "adjust.every_seconds": adjust_seconds,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done = troupe.train("CartPole-v1", preset="ga3c", seconds=seconds, run_dir=f"{folder}/run", settings=settings)
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    ended = [row["numbers"] for row in rows if row["kind"] == "report"][-1]
    return done.steps / done.seconds, (ended["actors"], ended["predictors"], ended["learners"])


if __name__ == "__main__":
    sweep = []
    for numbers in itertools.product((2, 4, 8, 16, 32), (1, 2), (1, 2)):
        speed, _ = run(4, numbers, 0.0)
        sweep.append((speed, numbers))
        print(numbers, f"{speed:,.0f} steps/s")
    _, best = max(sweep)
    settled = {}
    for start in ((8, 1, 1), (2, 2, 2)):
        _, numbers = run(90, start, 2.0)
        beside = [(run(5, numbers, 0.0)[0], run(5, best, 0.0)[0]) for _ in range(4)]
        ratio = statistics.median(ours / theirs for ours, theirs in beside)
        settled[str(start)] = {"settled": numbers, "steps_per_s_beside_best": beside, "ratio_median": ratio}
        print(f"from {start} to {numbers}: {ratio:.2f} of the best fixed, {best}")
    write("ga3c", {"sweep": [(list(numbers), speed) for speed, numbers in sweep], "best": best, "settled": settled})
