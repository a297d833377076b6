"""Hours of training: do memory, open files, threads and speed stay as they are?

    pip install psutil
    python benchmarks/soak.py                              # all of it side by side, for two hours
    python benchmarks/soak.py --hours 0.1 threads lstm     # some of it, shorter; nothing is written

threads     two actors in threads
processes   two actors in processes
ga3c        two actors in processes whose actions two predictors compute
lstm        a policy with memory, in threads
record      threads, with a journal of everything

An environment is CartPole that waits 2 ms in each step, so that five runs share two cores; progress is evaluated every
minute, and a checkpoint written. Once a minute the numbers of each run's processes are added up: memory (shared pages
divided by those who share them), open files, threads; and what its directory holds. Flat means: in the last quarter the
median is at most 3 % (memory), 0 (files, threads) above that of the second quarter, and the speed at most 3 % below it.
`soak.json` and `soak.png` in `results/`; the exit status is 1 where a run was not flat, or did not end in order.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil
from common import RESULTS, write
from gymnasium.envs.classic_control import CartPoleEnv

STEP_SECONDS, SAMPLE_SECONDS = 2e-3, 60.0
COMMON = [
    "--target", "none", "--steps", "0", "--seed", "1", "--quiet", "--actor.auto", "false", "--actors", "2",
    "--actor.environments", "4", "--evaluation.every_seconds", "60", "--evaluation.episodes", "5",
    "--checkpoint.every_seconds", "60", "--on-collapse", "report",
]  # fmt: skip
CASES = {
    "threads": ["--preset", "appo", "--actor.placement", "thread"],
    "processes": ["--preset", "appo", "--actor.placement", "process"],
    "ga3c": ["--preset", "ga3c", "--inference.predictors", "2", "--adjust.every_seconds", "0"],
    "lstm": ["--preset", "appo", "--actor.placement", "thread", "--network.core", "lstm"],
    "record": ["--preset", "appo", "--actor.placement", "thread", "--record"],
}
KINDS = {"memory_mb": 1.03, "files": 1.0, "threads": 1.0, "steps_per_s": 1 / 0.97}  # how much more, or less, is flat


class Waits(CartPoleEnv):
    def step(self, action: Any) -> Any:
        time.sleep(STEP_SECONDS)
        return super().step(action)


def make() -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Waits(), 500)


def sample(process: psutil.Popen, run: Path) -> dict[str, float]:
    """The numbers of a run's processes and directory now."""
    memory, files, threads = 0, 0, 0
    try:
        everyone = [process, *process.children(recursive=True)]
    except psutil.Error:
        everyone = []
    for each in everyone:
        try:
            with each.oneshot():
                found = each.memory_full_info().pss, each.num_fds(), each.num_threads()
        except psutil.Error:  # it has just ended
            continue
        memory, files, threads = memory + found[0], files + found[1], threads + found[2]
    sizes = {}
    for file in run.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a checkpoint was renamed or removed just now
            sizes[file] = file.stat().st_size if file.is_file() else 0
    journal = sum(size for file, size in sizes.items() if file.name.startswith("journal"))
    return {
        "memory_mb": memory / 2**20, "files": files, "threads": threads,
        "journal_mb": journal / 2**20, "directory_mb": (sum(sizes.values()) - journal) / 2**20,
    }  # fmt: skip


def steps(run: Path) -> int:
    """Of the newest report."""
    with (run / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 20_000))
        rows = [json.loads(line) for line in file.read().split(b"\n")[:-1] if b'"report"' in line[:30]]
    return rows[-1]["steps"] if rows else 0


def soak(names: Sequence[str], hours: float, folder: Path) -> dict[str, Any]:
    seconds, running, seen = 3600 * hours, {}, {name: [] for name in names}
    for name in names:
        words = ["train", f"{__file__}:make", *COMMON, *CASES[name], "--time", f"{seconds:.0f}s"]
        command = [sys.executable, "-m", "troupe", *words, "--run-dir", str(folder / name)]
        output = (folder / f"{name}.txt").open("w")
        running[name] = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    began = time.monotonic()
    interval = min(SAMPLE_SECONDS, seconds / 60)
    while any(each.poll() is None for each in running.values()):
        time.sleep(interval)
        for name, process in running.items():
            if process.poll() is None and (folder / name / "metrics.jsonl").exists():
                row = {"seconds": time.monotonic() - began, "steps": steps(folder / name)}
                seen[name].append(row | sample(process, folder / name))
    result = {}
    for name, process in running.items():
        rows = seen[name]
        for last, row in zip([rows[0], *rows], rows, strict=False):
            row["steps_per_s"] = (row["steps"] - last["steps"]) / max(row["seconds"] - last["seconds"], 1e-9)
        printed = (folder / f"{name}.txt").read_text()
        if process.returncode or "Traceback" in printed:
            print(f"{name}: exit status {process.returncode}\n{printed}")
        result[name] = {"arguments": " ".join(CASES[name]), "exit_status": process.returncode, **judged(rows, seconds)}
    return result


def judged(rows: Sequence[Mapping[str, float]], seconds: float) -> dict[str, Any]:
    """Medians of the second and the last quarter, and whether the last is as flat as it must be."""
    quarters = {}
    for kind, most in KINDS.items():
        second, last = (
            statistics.median(row[kind] for row in rows if low * seconds <= row["seconds"] <= (low + 0.25) * seconds)
            for low in (0.25, 0.75)
        )
        flat = last >= second / most if kind == "steps_per_s" else last <= second * most
        quarters[kind] = {"second": round(second, 2), "last": round(last, 2), "flat": flat}
    few = rows[:: max(1, len(rows) // 60)]
    series = {name: [round(row[name], 2) for row in few] for name in ("seconds", "journal_mb", "directory_mb", *KINDS)}
    return {"steps": rows[-1]["steps"], "quarters": quarters, "series": series}


def draw(result: Mapping[str, Any]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    titles = {
        "memory_mb": "memory, MB", "files": "open files", "threads": "threads", "steps_per_s": "steps/s",
        "journal_mb": "journal, MB", "directory_mb": "directory without it, MB",
    }  # fmt: skip
    figure, panels = pyplot.subplots(2, 3, figsize=(11, 5.6), sharex=True)
    for axes, (kind, title) in zip(panels.flat, titles.items(), strict=True):
        for name, one in result.items():
            axes.plot([each / 60 for each in one["series"]["seconds"]], one["series"][kind], label=name)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("minutes")
    panels[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "soak.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--hours", type=float, default=2.0)
    options = parser.parse_args()
    if unknown := [each for each in options.cases if each not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        result = soak(options.cases or list(CASES), options.hours, Path(folder))
    missed = [name for name, one in result.items() if one["exit_status"]]
    for name, one in result.items():
        print(f"{name}: {one['steps']:,} steps")
        for kind, each in one["quarters"].items():
            print(f"  {kind:12} {each['second']:10,.1f} -> {each['last']:10,.1f}{'' if each['flat'] else '  NOT FLAT'}")
            missed += [] if each["flat"] else [f"{name}, {kind}"]
    if options.hours >= 2 and not options.cases:
        draw(result)
        write("soak", {"hours": options.hours, "step_seconds": STEP_SECONDS, "runs": result})
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
