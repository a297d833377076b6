"""How long the page of `troupe dashboard` takes with 50 runs of 10,000 reports each, in a headless Chromium.

    python benchmarks/dashboard.py            # into benchmarks/results/dashboard.json

It writes 50 runs (550 MB) into a temporary folder, starts the command and opens the page twice: right after the start,
when nothing has been read, and when all has been. Seconds count from the navigation until the curves of all runs are
drawn. The files were written just before, so they come from memory and not from a disk.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.browser import Browser
from troupe import config

RUNS, SEEDS, ROWS = 50, 5, 10_000
LOADED = f"plots.get('steps')?.u?.series.length > {RUNS} && performance.now()"


def report(number: int, rng: random.Random) -> dict[str, object]:
    """A row with the length and the kinds of values that a run writes."""
    mean = 500 * (1 - math.exp(-number / 2000)) + rng.gauss(0, 20)
    stages = {"env": 0.3456, "act": 0.4567, "wait": 0.1567, "other": 0.0345}
    numbers = {name: rng.random() for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")}
    numbers |= {name: rng.random() for name in ("explained_variance", "gradient_norm", "lag_mean", "length_mean")}
    return {
        "kind": "report", "wall": 1.7e9 + 2 * number, "seconds": 2.0 * number, "steps": 20_000 * number,
        "episodes": 100 * number, "return_mean": mean, "return_min": mean - 50, "return_max": mean + 50,
        "recent_return": mean, "return_per_1000_steps": 1000.0, "updates": 150 * number, "skipped_updates": 0,
        "learning_rate": 0.001, "queue_depth": 2, "queue_capacity": 7, "lag_max": 3, "stale": 0, "restarts": 0,
        "numbers": {"actors": 2, "predictors": 0, "learners": 1}, **numbers, "epsilon": 0.0, "steps_per_s": 12345.678,
        "updates_per_s": 123.456, "stage_seconds": {"actor": stages, "learner": stages},
        "shares": {"actor": stages, "learner": stages}, "bottleneck": "actor: act",
    }  # fmt: skip


def write_runs(folder: Path) -> int:
    """Writes the runs, ten groups of five seeds; returns their size in bytes."""
    rng, size = random.Random(0), 0
    rows = []
    for number in range(ROWS):
        row = report(number, rng)
        rows.append(json.dumps(row))
        if number % 50 == 0:
            evaluation = {"purpose": "progress", "mean": row["return_mean"], "min": 0.0, "max": 500.0, "episodes": 20}
            rows.append(
                json.dumps({"kind": "evaluation", "steps": row["steps"], "seconds": row["seconds"]} | evaluation)
            )
    text = "\n".join(rows) + "\n"
    for number in range(RUNS):
        group, seed = divmod(number, SEEDS)
        run = folder / f"group{group}" / f"seed{seed}"
        run.mkdir(parents=True)
        settings = {"learner.learning_rate": (1 + group) * 1e-4}
        (run / "config.toml").write_text(
            config.to_toml(config.resolve("CartPole-v1", settings=settings | {"seed": seed}))
        )
        (run / "metrics.jsonl").write_text(text)
        size += len(text)
    return size


def main() -> None:
    load = os.getloadavg()[0]  # programs that want a core, before this one
    with tempfile.TemporaryDirectory() as folder:
        size = write_runs(Path(folder))
        command = [sys.executable, "-m", "troupe", "dashboard", folder, "--port", "0"]
        with Browser() as browser, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout
                address = server.stdout.readline().split(": ", 1)[1].split()[0]
                browser.open(address)
                cold = browser.wait_for(LOADED) / 1000
                all_read = browser.wait_for("$('status').textContent.endsWith('live') && performance.now()")
                browser.open("about:blank")
                browser.open(address)
                warm = browser.wait_for(LOADED) / 1000
                memory = Path(f"/proc/{server.pid}/status").read_text().split("VmRSS:")[1].split()[0]
            finally:
                server.terminate()
        result = {
            "runs": RUNS, "rows": ROWS, "megabytes": round(size / 1e6), "seconds_first": round(cold, 2),
            "seconds_all_read": round(all_read / 1000, 2), "seconds_again": round(warm, 2),
            "load_before": round(load, 1),
            "server_megabytes": round(int(memory) / 1024), "console_errors": browser.errors,
        }  # fmt: skip
        print(json.dumps(result, indent=1))
        write("dashboard", result)


if __name__ == "__main__":
    main()
