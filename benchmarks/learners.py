"""Several learners on one gradient (docs/learners.md): what averaging costs, and what a second learner brings.

python benchmarks/learners.py cost     # two ranks on this machine: a small, a medium and a large network
python benchmarks/learners.py speed    # steps/s of one and of two ranks, where the learner is the bottleneck
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from common import troupe, write

SIZES = {"20 kB": 5_000, "2.7 MB": 675_000, "20 MB": 5_000_000}
REPEATS = 30
LEARNER_BOUND = [
    "CartPole-v1", "--untuned", "--network.hidden", "512,512", "--actors", "1", "--actor.environments", "16",
    "--actor.rollout_steps", "64", "--learner.rollouts", "1", "--learner.threads", "1", "--seed", "1",
    "--target", "none", "--evaluation.every_seconds", "0", "--evaluation.final_episodes", "1", "--quiet",
]  # fmt: skip


def cost() -> None:
    """The times of averaging one gradient, as a learner does it: weigh, sum over the ranks, divide."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "rank"]
    ranks = [
        subprocess.Popen(words, env=os.environ | variables | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    (printed, _), _ = (each.communicate() for each in ranks)
    found = json.loads(printed)
    for name, (fastest, middle) in found.items():
        print(f"{name}: median {middle * 1e3:.2f} ms, fastest {fastest * 1e3:.2f} ms")
    write("learners-cost", {"command": "learners.py cost", "seconds, fastest and median": found})


def rank() -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    from functools import partial

    from troupe.runtime.learning.rank_group import RankGroup

    group = RankGroup(
        dist.HashStore(),
        partial(dist.all_reduce, async_op=True),
        partial(dist.broadcast, src=0, async_op=True),
        dist.get_rank(),
        ["rank 0", "rank 1"],
    )
    found = {}
    for name, size in SIZES.items():
        gradient, spent = torch.ones(size), []
        for _ in range(REPEATS):
            began = time.perf_counter()
            group.mean(gradient, 512)
            spent.append(time.perf_counter() - began)
        found[name] = min(spent), median(spent)
    if group.rank == 0:
        print(json.dumps(found))


def speed(seconds: str, pairs: int) -> None:
    """Pairs of runs, in turn, as a machine's speed changes with time."""
    rows: list[dict[str, Any]] = []
    for _ in range(pairs):
        for learners in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                more = ["--learners", str(learners), "--time", seconds, "--run-dir", str(run)]
                troupe("train", *LEARNER_BOUND, *more)
                summary = json.loads((run / "summary.json").read_text())
            rows.append({"learners": learners, "steps_per_s": summary["steps_per_s"], "updates": summary["updates"]})
            print(rows[-1], flush=True)
    write("learners-speed", {"command": "learners.py speed", "settings": " ".join(LEARNER_BOUND), "runs": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "speed", "rank"])
    parser.add_argument("--time", default="15s")
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    if asked.what == "speed":
        speed(asked.time, asked.pairs)
    else:
        {"cost": cost, "rank": rank}[asked.what]()


if __name__ == "__main__":
    main()
