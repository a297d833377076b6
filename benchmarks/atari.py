"""Atari on this machine: speed against the limit, Pong until it is learned, another game for a quarter of an hour.

python benchmarks/atari.py speed|pong|breakout|precision
"""

import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from common import RESULTS, peak_memory_of_children_mb, troupe, write

BURN = [sys.executable, "-c", "while True: pass"]
COLOURS = ("#D55E00", "#0072B2")
EVERY = 20_000  # steps between two points of a training curve


def bench(*options: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(troupe("bench", "ALE/Pong-v5", "--json", "--time", "20s", *options)[0])
    print(options, f"{result['steps_per_s']:,.0f} of {result['limit_steps_per_s']:,.0f} steps/s", flush=True)
    return result


def speed() -> None:
    """Both networks and precisions with one pass over every step; and as it trains, alone and beside a busy process."""
    kinds = {}
    for network in ("a3c", "nature"):
        for precision, times in (("bfloat16", 3), ("float32", 1)):
            said = ["--preset", "impala", "--network.encoder", network, "--network.precision", precision]
            kinds[f"{network} {precision}"] = {"options": said, **_middle([bench(*said) for _ in range(times)])}
    alone, beside = [], []
    for _ in range(3):  # in turn: the machine's speed varies
        alone.append(bench("--preset", "appo"))
        burner = subprocess.Popen(BURN)
        try:
            beside.append(bench("--preset", "appo")["steps_per_s"])
        finally:
            burner.kill()
            burner.wait()
    write(
        "atari-speed",
        {
            "command": "troupe bench ALE/Pong-v5 --time 20s",
            "one_pass": kinds,
            "as_trained": _middle(alone),
            "beside_a_busy_process": {
                "alone": [result["steps_per_s"] for result in alone],
                "beside": beside,
                "kept": statistics.median(b / a["steps_per_s"] for a, b in zip(alone, beside, strict=True)),
            },
            "peak_memory_mb": round(peak_memory_of_children_mb()),
        },
    )


def _middle(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle by fraction, and the fractions of all."""
    ordered = sorted(results, key=lambda result: result["fraction"])
    return {**ordered[len(ordered) // 2], "fractions": [result["fraction"] for result in ordered]}


def learn(name: str, game: str, seeds: range, *options: str, at_once: int = 1, picture: bool = True) -> None:
    """`troupe train GAME` for every seed, with its curve; `at_once` of them share the machine."""
    with tempfile.TemporaryDirectory() as folder:

        def train(seed: int) -> dict[str, Any]:
            run = Path(folder) / f"seed{seed}"
            _, whole = troupe("train", game, "--seed", str(seed), "--run-dir", str(run), *options)
            result = _result(run, whole)
            print(result, flush=True)
            return result

        with ThreadPoolExecutor(at_once) as pool:
            runs = list(pool.map(train, seeds))
        RESULTS.mkdir(exist_ok=True)
        if picture:
            troupe("plot", *(str(Path(folder) / f"seed{seed}") for seed in seeds), "-o", str(RESULTS / f"{name}.png"))
    command = " ".join([f"troupe train {game} --seed {seeds[0]}..{seeds[-1]}", *options])
    memory = round(peak_memory_of_children_mb())
    write(name, {"command": command, "at_once": at_once, "runs": runs, "peak_memory_mb": memory})


def precision(steps: int = 400_000) -> None:
    """Pong in float32, three seeds, against the curves that `pong` left of the same seeds in bfloat16."""
    limits = ("--steps", str(steps), "--target", "none", "--network.precision", "float32")
    learn("atari-float32", "ALE/Pong-v5", range(1, 4), *limits, picture=False)
    compare({"float32": "atari-float32", "bfloat16": "atari-pong"}, steps, RESULTS / "atari-precision.png")


def compare(results: dict[str, str], steps: int, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (kind, name), colour in zip(results.items(), COLOURS, strict=False):
        for run in json.loads((RESULTS / f"{name}.json").read_text())["runs"]:
            points = [(at, mean) for at, mean in run["returns"] if at <= steps]
            axes.plot(*zip(*points, strict=True), color=colour, label=kind if run["seed"] == 1 else None)
    axes.set(xlabel="steps", ylabel="return", title="Pong, three seeds each: the last 100 episodes of training")
    axes.legend()
    figure.savefig(file, dpi=110)


def _result(run: Path, whole: float) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    returns: list[list[float]] = []
    for row in rows:
        known = row["kind"] == "report" and row["recent_return"] is not None
        if known and (not returns or row["steps"] >= returns[-1][0] + EVERY):
            returns.append([row["steps"], round(row["recent_return"], 2)])
    return {
        "seed": summary["seed"],
        "outcome": summary["outcome"],
        "evaluation": summary["evaluation"],
        "steps": summary["steps"],
        "steps_per_s": summary["steps_per_s"],
        "training_seconds": summary["training_seconds"],
        "command_seconds": round(whole, 1),
        "evaluations": [
            [row["steps"], round(row["seconds"]), round(row["mean"], 2)] for row in rows if row["kind"] == "evaluation"
        ],
        "returns": returns,
    }


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) == 2 else ""
    if which == "speed":
        speed()
    elif which == "pong":
        learn("atari-pong", "ALE/Pong-v5", range(1, 4))
    elif which == "breakout":
        learn("atari-breakout", "ALE/Breakout-v5", range(1, 4), "--time", "15m", at_once=3)
    elif which == "precision":
        precision()
    else:
        sys.exit(__doc__)
