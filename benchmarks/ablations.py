"""Whether single defaults pay: `--untuned` with one setting changed against `--untuned` as it is, seed by seed.

python benchmarks/ablations.py [--seeds N] [--variant VARIANT ...] [ENVIRONMENT ...]

All runs are serial, so that they depend neither on the speed of the machine nor on what else it does, have a fixed
number of steps, and use seeds from 101 on, which had no part in the choice of the defaults. Each variant is run where
it can matter: no entropy bonus where actions are numbers, clipped rewards where they are rare or uneven. A result is
added to what is in the file already; what is there is not measured again.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, troupe, write

FIRST_SEED = 101
HERE = Path(__file__).parent
FILES = {"lock": f"{HERE}/lock.py:lock"}
STEPS = {  # of a run; it is evaluated ten times
    "CartPole-v1": 40_000,
    "Acrobot-v1": 200_000,
    "MountainCar-v0": 200_000,
    "Pendulum-v1": 250_000,
    "LunarLander-v3": 300_000,
    "MountainCarContinuous-v0": 100_000,
    "LunarLanderContinuous-v3": 300_000,
    "HalfCheetah-v5": 200_000,
    "Hopper-v5": 200_000,
    "lock": 100_000,
}
BOX = ("Pendulum-v1", "LunarLanderContinuous-v3", "HalfCheetah-v5", "Hopper-v5")
UNEVEN = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "Pendulum-v1",
    "LunarLander-v3",
    "MountainCarContinuous-v0",
    "lock",
)
MIXED = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "LunarLander-v3", "HalfCheetah-v5")
KL_STOP = f"{HERE}/kl_stop.py"
VARIANTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "default": ([], tuple(STEPS)),
    "no entropy bonus": (["--loss.entropy_coefficient", "0"], BOX),
    "rewards clipped at 10": (["--loss.reward_clip", "10"], UNEVEN),
    # Over the 16 minibatches of an epoch: as over the whole batch.
    "advantages by moving averages": (["--learner.advantage_decay", "0.9375"], MIXED),
    "Adam's epsilon 1e-5": (["--learner.epsilon", "1e-5"], MIXED),
    "stop at a KL of 0.03": (
        ["--loss.kind", f"{KL_STOP}:appo", "--learner.optimizer", f"{KL_STOP}:AdamOrNothing"],
        MIXED,
    ),
    "2 epochs, not 4": (["--learner.epochs", "2"], MIXED),
}


def measure(name: str, settings: list[str], seed: int) -> dict[str, Any]:
    steps = STEPS[name]
    options = ["--untuned", "--topology", "serial", "--device", "cpu", "--steps", str(steps), "--target", "none"]
    options += ["--evaluation.every_seconds", "0", "--evaluation.every_steps", str(steps // 10), *settings]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        troupe("train", FILES.get(name, name), "--seed", str(seed), "--run-dir", str(run), "--quiet", *options)
        summary = json.loads((run / "summary.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row["mean"] for row in rows if row.get("purpose") == "progress"]
    logged = {name: [row[name] for row in rows if row.get(name) is not None] for name in ("approx_kl", "stopped")}
    return {
        "seed": seed,
        "evaluations": [round(value, 2) for value in evaluations],
        "final": round(summary["evaluation"]["mean_return"], 2),
        **{name: round(statistics.median(values), 4) for name, values in logged.items() if values},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="one setting changed against the defaults")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only this one (may be repeated)")
    parser.add_argument("environments", nargs="*", default=list(STEPS))
    asked = parser.parse_args()
    file = RESULTS / "ablations.json"
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    if file.exists():
        results = json.loads(file.read_text())["environments"]
    for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
        for name in asked.environments:
            for variant, (settings, where) in VARIANTS.items():
                if variant not in (asked.variant or VARIANTS) or name not in where:
                    continue
                runs = results.setdefault(name, {}).setdefault(variant, [])
                if seed in [run["seed"] for run in runs]:
                    continue
                runs.append(measure(name, settings, seed))
                print(name, variant, runs[-1], flush=True)
                write(file.stem, {"environments": results})
    for name, variants in results.items():
        for variant, runs in variants.items():
            during = statistics.mean(statistics.mean(run["evaluations"]) for run in runs)
            final = [run["final"] for run in runs if run["final"] is not None]  # None: ended before that evaluation
            ends = f"final {statistics.mean(final):9.1f}, lowest {min(final):9.1f}" if final else "no final evaluation"
            print(f"{name:26} {variant:30} {len(runs)} seeds: while training {during:9.1f}, {ends}")


if __name__ == "__main__":
    main()
