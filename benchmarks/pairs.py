"""Speed of two source trees, before and after a change, in pairs: the machine's speed varies, a ratio less.

python benchmarks/pairs.py BEFORE_SRC AFTER_SRC [--pairs N] [--seconds S] [--case NAME]

The trees take turns: before, after, after, before, ... Each run trains for S seconds, with settings that are not chosen
by a measurement at its start. The first quarter does not count, so that starting up does not. The script uses the
command line and the files of a run only, so it drives both trees in the same way.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from common import troupe

CASES = {
    "cartpole-appo": ["CartPole-v1", "--preset", "appo", "--env.backend", "native"],
    "cartpole-impala": ["CartPole-v1", "--preset", "impala", "--env.backend", "native"],
    "pong-impala": [
        "ALE/Pong-v5",
        "--preset",
        "impala",
        "--network.encoder",
        "nature",
        "--env.threads",
        "1",
        "--network.precision",
        "bfloat16",
    ],
    "python-processes": [f"{Path(__file__).parent}/costs.py:burns"],  # a step burns 200 us; two actors in processes
}
ENDLESS = [
    "--steps", "0", "--target", "none", "--seed", "1", "--actor.auto", "false", "--learner.threads", "1",
    "--evaluation.every_steps", "0", "--evaluation.every_seconds", "0", "--evaluation.final_episodes", "1",
    "--evaluation.max_steps", "10",
]  # fmt: skip


def steps_per_s(src: Path, case: str, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        limits = [*ENDLESS, "--time", f"{seconds}s", "--run-dir", str(run), "--quiet"]
        troupe("train", *CASES[case], *limits, src=src)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [(row["steps"], row["seconds"]) for row in rows if row["kind"] == "report"]
    grew = [now for last, now in pairwise(seen) if now[0] > last[0] and now[1] > seconds / 4]
    if len(grew) < 2:
        sys.exit(f"{case}: {seconds} seconds are too few for {src}; use a larger --seconds")
    (first, began), *_, (last, ended) = grew
    return (last - first) / (ended - began)


def compare(case: str, trees: tuple[Path, Path], pairs: int, seconds: float) -> None:
    print(f"{case}\n{'pair':>6}{'before, steps/s':>18}{'after, steps/s':>18}{'after/before':>14}", flush=True)
    logs = []
    for pair in range(pairs):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        speeds = {tree: steps_per_s(trees[tree], case, seconds) for tree in order}
        logs.append(math.log(speeds[1] / speeds[0]))
        print(f"{pair + 1:>6}{speeds[0]:>18,.0f}{speeds[1]:>18,.0f}{math.exp(logs[-1]):>14.3f}", flush=True)
    mean = math.exp(statistics.mean(logs))
    error = f", standard error {statistics.stdev(logs) / math.sqrt(pairs):.1%}" if pairs > 1 else ""
    print(f"  mean {mean:.3f} ({math.exp(min(logs)):.3f} to {math.exp(max(logs)):.3f}){error}\n", flush=True)


def _tree(text: str) -> Path:
    if not (Path(text) / "troupe" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"no package troupe in '{text}'; name the src folder of a tree")
    return Path(text).resolve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="speed of two source trees, by pairs")
    parser.add_argument("before", type=_tree, metavar="BEFORE_SRC")
    parser.add_argument("after", type=_tree, metavar="AFTER_SRC")
    parser.add_argument("--pairs", type=int, default=6, metavar="N")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of training in each run")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one (may be repeated)")
    asked = parser.parse_args()
    for case in asked.case or CASES:
        compare(case, (asked.before, asked.after), asked.pairs, asked.seconds)
