"""The published settings of a preset against those tuned for CartPole-v1: ten seeds each.

python benchmarks/published.py [--seeds N] [PRESET ...]

Each run is `troupe train CartPole-v1 --preset P [--untuned] --steps N --target 475`, with workers in threads; impala is
run in topology serial, as its lag depends on what else the machine does. Only steps are compared. A result is added to
what is in the file already; what is there is not measured again.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

STEPS = {"a3c": 30_000, "impala": 500_000, "ga3c": 30_000, "a3c-lstm": 30_000}
TOPOLOGIES = {"impala": ["--topology", "serial", "--actor.count", "1"]}
SETTINGS = {"published": ["--untuned"], "tuned": []}


def options(preset: str, kind: str) -> list[str]:
    """All but the seed and the run directory."""
    evaluations = ["--evaluation.every_steps", str(STEPS[preset] // 20), "--evaluation.every_seconds", "0"]
    limits = ["--steps", str(STEPS[preset]), "--target", "475", "--time", "30m"]
    topology = TOPOLOGIES.get(preset, ["--actor.placement", "thread"])
    return ["--preset", preset, *SETTINGS[kind], *limits, *evaluations, *topology]


def measure(preset: str, kind: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        troupe("train", "CartPole-v1", "--seed", str(seed), "--run-dir", str(run), "--quiet", *options(preset, kind))
        summary = json.loads((run / "summary.json").read_text())
    kept = {name: summary[name] for name in ("seed", "outcome", "steps", "best_steps")}
    return kept | {"mean_return": summary["evaluation"]["mean_return"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="published settings against tuned ones")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("presets", nargs="*", default=list(STEPS))
    asked = parser.parse_args()
    file = RESULTS / "published.json"
    results: dict[str, Any] = json.loads(file.read_text())["presets"] if file.exists() else {}
    for preset in asked.presets:
        for seed in range(1, asked.seeds + 1):
            for kind in SETTINGS:
                command = " ".join(["troupe train CartPole-v1", *options(preset, kind)])
                entry = results.setdefault(preset, {}).setdefault(kind, {"command": command, "runs": []})
                if seed not in [run["seed"] for run in entry["runs"]]:
                    entry["runs"].append(measure(preset, kind, seed))
                    print(preset, kind, entry["runs"][-1], flush=True)
                    write(file.stem, {"presets": results})
    for preset, kinds in results.items():
        for kind, entry in kinds.items():
            returns = [run["mean_return"] for run in entry["runs"]]
            solved = sum(run["outcome"] == "solved" for run in entry["runs"])
            steps = statistics.median(run["steps"] for run in entry["runs"])
            spread = f"mean {statistics.mean(returns):.1f}, lowest {min(returns):.1f}"
            print(f"{preset:9} {kind:9} {solved} of {len(returns)} solved, {spread}, median {steps:,.0f} steps")


if __name__ == "__main__":
    main()
