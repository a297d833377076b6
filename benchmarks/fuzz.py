"""What commands do with runs that are damaged, or made by a stranger.

python benchmarks/fuzz.py run --trials 10000     # two at a time; it goes on where it was stopped (--seconds 280)
python benchmarks/fuzz.py show --outcome bare    # the trials that were not fine, with what was printed
python benchmarks/fuzz.py report                 # adds them to benchmarks/results/fuzz.json

Five small runs and the file of an agent are made once. Each trial changes a copy of one (mutations.py), mends the
hashes in every second, and hands it to `troupe.load` and to one command more, in processes forked from one that has
imported torch. A trial is fine if the command succeeds, or ends with one line that says what is wrong, without a
traceback or the name of a Python error. Besides, nothing may be executed that the run names (`executed`: the names of a
module and of a file that would leave a mark), nothing may take 2 s more than of the run as it was (`slow`; such a trial
is made once more), and no process may need 1 GB (`large`). Seconds are those of the clock without those in which the
main thread was ready to run and other programs had the cores, as Linux counts them, but no fewer than the process had
of the cores: to wait for a file, a lock or a sleep counts.

The results are series of trials: those of one seed at one commit, with their numbers. `report` replaces the series
that have trials of this seed again and keeps the others, so that the tables add up what was run over several sittings.
"""

import argparse
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutations

COMMANDS = ("evaluate", "resume", "export", "plot", "replay")
ORDER = ("evaluate", "resume", "replay", "plot", "evaluate", "resume", "replay", "evaluate", "resume", "export")
BATCH = 25  # trials of one process
MOST_SECONDS, MOST_MB, KILLED_SECONDS, MOST_MORE_BYTES = 2.0, 1024, 20, 6 * 2**30
STEPS = 192
TINY = {
    "stop.steps": STEPS, "stop.target": "none", "evaluation.episodes": 2, "evaluation.final_episodes": 2,
    "actor.count": 1, "actor.environments": 2, "actor.auto": False, "actor.rollout_steps": 8, "learner.rollouts": 1,
    "network.hidden": (8,), "env.backend": "sync", "evaluation.max_steps": 40, "learner.minibatches": 1,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "serial": {"topology": "serial"},
    "recorded": {"topology": "async", "record": True, "actor.placement": "thread"},
    "recurrent": {"topology": "serial", "network.core": "lstm", "network.core_units": 8},
    "novelty": {"topology": "serial", "novelty.coefficient": 0.1, "novelty.hidden": (8, 8)},
    "nested": {"topology": "serial"},
}
OWN_ENVIRONMENT = """
import gymnasium as gym
import numpy as np


class Nested(gym.Env):
    observation_space = gym.spaces.Dict({
        "numbers": gym.spaces.Box(-1.0, 1.0, (3,)), "pair": gym.spaces.Tuple([gym.spaces.Discrete(3)]),
        "action_mask": gym.spaces.MultiBinary(4),
    })
    action_space = gym.spaces.Discrete(4)

    def _seen(self):
        mask = np.array([1, 1, 0, 1], np.int8)
        return {"numbers": np.zeros(3, np.float32), "pair": (np.int64(1),), "action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 9
        return self._seen(), {}

    def step(self, action):
        self.left -= 1
        return self._seen(), float(action), self.left == 0, False, {}
"""
CANARY = "import pathlib\npathlib.Path({mark!r}).touch()\n\ndef make(*given, **named):\n    raise ValueError('made')\n"
BARE = re.compile(
    r"Traceback|--debug shows where|"
    r"\b(Key|Index|Attribute|Assertion|UnboundLocal|ZeroDivision|Recursion|Memory|NotImplemented)Error\b"
)
ALSO_BARE = re.compile(r"\b(Type|Value|Runtime|Overflow|Unicode\w*|OS|FileNotFound|IsADirectory)Error\b")


def preload() -> None:
    """What the commands import, so that forked processes need not."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import tensorboard.compat.proto.event_pb2
    import tensorboard.plugins.hparams.api_pb2  # noqa: F401
    import torch
    import torch.onnx._internal.exporter._core

    import troupe
    import troupe.cli
    import troupe.reading_commands
    import troupe.runs.export.onnx
    import troupe.runs.replay
    import troupe.runs.report.plots
    import troupe.trainer  # noqa: F401

    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # whose time is the disk's


def make_runs(folder: Path) -> None:
    """The runs that trials change copies of."""
    import troupe

    folder.mkdir(parents=True)
    own = folder / "own.py"
    own.write_text(OWN_ENVIRONMENT)
    for name, settings in RUNS.items():
        env = f"{own}:Nested" if name == "nested" else "CartPole-v1"
        run = troupe.train(env, settings=TINY | settings, run_dir=folder / name, tuned=False, display="silent")
        if name == "serial":
            run.agent.save(folder / "agent.safetensors")


def warm(source: Path) -> None:
    """Makes a picture and an ONNX file, so that what that loads is there in every process."""
    for name in ("plot", "export"):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "copy" / "serial"
            shutil.copytree(source / "serial", run)
            if attempt(name, run):
                sys.exit(f"{name} does not work here")


# One trial


def waited(process: int | str = "self") -> float:
    """Seconds in which a process's main thread was ready to run and had no core; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def own_seconds(clock: float, cpu: float, without_core: float) -> float:
    """How long something took, without the time that other programs had. Threads of the process itself may have taken
    the cores, too; that is why it is at least what the process had of them."""
    return min(clock, max(clock - without_core, cpu))


def attempted(name: str, run: Path, folder: Path) -> dict[str, Any]:
    """Runs a command in this process, which is a forked one: exit status, what was printed, seconds and memory."""
    output = os.open(folder / "output.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(output, number)
    began, cpu, without_core = time.monotonic(), time.process_time(), waited()
    try:
        status = attempt(name, run)
    except BaseException:
        status = -1
        traceback.print_exc()
    clock, cpu, without_core = time.monotonic() - began, time.process_time() - cpu, waited() - without_core
    sys.stdout.flush()
    sys.stderr.flush()
    os.close(output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = (folder / "output.txt").read_text(errors="replace")
    times = {"seconds": own_seconds(clock, cpu, without_core), "clock": clock, "cpu": cpu}
    return {"status": status, "mb": peak, "text": text} | times


def loaded(run: Path) -> int:
    """`troupe.load` in Python, and an action of the agent."""
    import troupe

    try:
        agent = troupe.load(run)
        agent.act(agent.observation_space.sample())
    except troupe.TroupeError as error:
        print(f"troupe: {error}", file=sys.stderr)
        return 2
    return 0


def attempt(name: str, run: Path) -> int:
    if name == "load":
        return loaded(run)
    from troupe import cli

    words = {
        "evaluate": ["evaluate", str(run), "--episodes", "1"],
        "resume": ["resume", str(run), "--steps", str(STEPS + 32), "--time", "5", "--quiet"],
        "export": ["export", str(run), str(run.parent / "agent.onnx")],
        "plot": ["plot", str(run), "-o", str(run.parent / "plot.png")],
        "replay": ["replay", str(run)],
    }
    return cli.run(words[name])


def judged(done: dict[str, Any]) -> str:
    """Of what was printed and of the exit status."""
    lines = [line for line in done["text"].splitlines() if line.strip()]
    if BARE.search(done["text"]):
        return "bare"
    if done["status"] == 0:
        return "fine"
    if done["status"] not in (1, 2) or not lines or not lines[-1].startswith("troupe: "):
        return "bare"
    told = lines[-1]
    expected = "damaged (" in told or "does not fit" in told or "does not match" in told
    return "bare" if ALSO_BARE.search(told) and not expected else "fine"


class Trials:
    """Those of one worker. `folder` is its own."""

    def __init__(self, options: argparse.Namespace, source: Path, folder: Path, results: Path):
        self._options, self._source, self._folder, self._results = options, source, folder, results
        self._commit = commit()
        self._crashed: set[int] = set()
        self._usual: dict[str, float] = {}  # seconds of the commands with runs that nobody changed
        text = CANARY.format(mark=str(folder / "executed"))
        (folder / "modules").mkdir()
        for name in ("modules/canary_module.py", "canary_file.py"):
            (folder / name).write_text(text)
        sys.path.insert(0, str(folder / "modules"))

    def run(self, numbers: list[int]) -> None:
        """In processes that make up to BATCH trials each, one after another."""
        end = time.monotonic() + self._options.seconds
        self._forked(self._measure, [])
        self._usual = json.loads((self._folder / "usual.json").read_text())
        while numbers and time.monotonic() < end:
            batch = numbers[: 1 if numbers[0] in self._crashed else BATCH]
            self._forked(lambda those: [self._trial(number) for number in those], batch)
            done = {json.loads(line)["number"] for line in self._results.read_text().splitlines()}
            numbers = [number for number in numbers if number not in done]

    def _forked(self, make: Callable[[list[int]], Any], batch: list[int]) -> None:
        """Kills the process if one command takes too long or it crashes, which counts against the trial."""
        beat = self._folder / "beat.json"
        beat.write_text("null")
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MORE_BYTES,) * 2)
                make(batch)
                status = 0
            finally:
                os._exit(status)
        began, without_core = 0.0, 0.0  # when the command began, and what the process had waited then
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.02)
            if (changed := beat.stat().st_mtime) != began:
                began, without_core = changed, waited(child)
            if time.time() - began - (waited(child) - without_core) > KILLED_SECONDS:
                os.killpg(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
        if ended[1] and (row := json.loads(beat.read_text())):
            if row["number"] not in self._crashed:  # once more: what an earlier trial left may have been the cause
                self._crashed.add(row["number"])
                return
            slow = os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL
            row |= {"outcome": "slow" if slow else "bare", "slow": slow, "large": False, "mb": 0, "executed": False}
            times = {"seconds": KILLED_SECONDS, "clock": KILLED_SECONDS}
            self._write(row | times | {"text": "(killed)" if slow else "(crashed)"})

    def _write(self, row: dict[str, Any]) -> None:
        with self._results.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _trial(self, number: int) -> None:
        seed, run_of = self._options.seed, self._folder / "copy"
        dice, name, mended = (
            random.Random(f"{seed} {number}"),
            ORDER[number % len(ORDER)],
            number // len(ORDER) % 2 == 1,
        )
        kinds = ["recorded", *RUNS] if name == "replay" else [*RUNS]
        kind = dice.choice([*kinds, "agent.safetensors"] if name in ("evaluate", "export") else kinds)
        file = f"{self._folder / 'canary_file.py'}:make"
        canary = dice.choice(["canary_module:make", file, "canary_module:Canary-v0"])
        mark, run = self._folder / "executed", run_of / kind

        def changed() -> str:
            shutil.rmtree(run_of, ignore_errors=True)
            run_of.mkdir()
            (shutil.copytree if kind in RUNS else shutil.copy)(self._source / kind, run)
            what = mutations.mutate(run, random.Random(f"{seed} {number} {kind}"), name, canary)
            if mended and kind in RUNS:
                mutations.mend(run)
            return what

        what = changed()
        for each in ("load", name):
            row: dict[str, Any] = {"number": number, "command": each, "run": kind, "mended": mended, "what": what}
            row["commit"] = self._commit
            (self._folder / "beat.json").write_text(json.dumps(row))
            done = attempted(each, run, self._folder)
            if done["seconds"] > MOST_SECONDS + self._usual[each]:
                changed()
                done = attempted(each, run, self._folder)
            row |= {"outcome": judged(done), "mb": round(done["mb"])}
            row |= {name: round(done[name], 2) for name in ("seconds", "clock", "cpu")}
            row |= {"slow": done["seconds"] > MOST_SECONDS + self._usual[each], "large": done["mb"] > MOST_MB}
            row["executed"] = mark.exists()
            mark.unlink(missing_ok=True)
            if row["outcome"] != "fine" or row["slow"] or row["large"] or row["executed"]:
                self._write(row | {"text": done["text"][-3000:]})
                if row["large"] or row["executed"]:  # a fresh process for the next: this one has it for ever
                    os._exit(0)
            else:
                self._write({key: value for key, value in row.items() if key != "what"})

    def _measure(self, _: list[int]) -> None:
        usual = {}
        for name in ("load", *COMMANDS):
            run = self._folder / "copy" / "recorded"
            shutil.rmtree(run.parent, ignore_errors=True)
            shutil.copytree(self._source / "recorded", run)
            done = attempted(name, run, self._folder)
            assert judged(done) == "fine", (name, done)
            usual[name] = done["seconds"]
        (self._folder / "usual.json").write_text(json.dumps(usual))


def work(options: argparse.Namespace) -> None:
    """The trials of one worker, until the time is over."""
    worker, workers, source = options.worker, options.workers, options.folder / "runs"
    results = options.folder / f"seed{options.seed}-{worker}.jsonl"
    results.touch()
    done = {row["number"] for row in rows_of(options.folder, options.seed)}  # by any worker, before one writes
    preload()
    warm(source)
    gc.freeze()  # what is there stays shared with the processes that are forked
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        numbers = [number for number in range(worker, options.trials, workers) if number not in done]
        Trials(options, source, Path(folder), results).run(numbers)


def run(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(options.folder / "state")
    source = options.folder / "runs"
    if not source.exists():
        make_runs(source)
    # Workers of their own, not forked: two that share their memory wait for each other.
    words = [sys.executable, __file__, "work", *sys.argv[2:]]
    children = [subprocess.Popen([*words, "--worker", str(number)]) for number in range(options.workers)]
    for child in children:
        child.wait()
    print(summary(rows_of(options.folder, options.seed)))


# The result


def rows_of(folder: Path, seed: int) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"seed{seed}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def commit() -> str:
    words = ["git", "describe", "--always", "--exclude=*", "--dirty"]
    return subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()


def as_ranges(numbers: set[int]) -> str:
    """`{0, 1, 2, 5}` is "0-2 5"."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return " ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in zip(firsts, lasts, strict=True))


def from_ranges(text: str) -> set[int]:
    ends = [part.split("-") for part in text.split()]
    return {number for each in ends for number in range(int(each[0]), int(each[-1]) + 1)}


def figures(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    by_command: dict[str, dict[str, int]] = {}
    for name in ("load", *COMMANDS):
        those = [row for row in rows if row["command"] == name]
        by_command[name] = {
            "tried": len(those),
            "fine": sum("text" not in row for row in those),
            "bare": sum(row["outcome"] == "bare" for row in those),
            **{what: sum(row[what] for row in those) for what in ("executed", "slow", "large")},
        }
    return by_command


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [f"{name:9s} {each}" for name, each in figures(rows).items()]
    return "\n".join([*lines, f"{len({row['number'] for row in rows})} runs"])


def report(options: argparse.Namespace) -> None:
    from common import RESULTS, write

    results = RESULTS / "fuzz.json"
    known = json.loads(results.read_text())["series"] if results.exists() else []
    series = merged(known, series_of(rows_of(options.folder, options.seed), options.seed))
    write("fuzz", {"command": "python benchmarks/fuzz.py run", "series": series})


def series_of(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One for each commit that the trials were made at."""
    series = []
    for at in dict.fromkeys(row["commit"] for row in rows):
        those = [row for row in rows if row["commit"] == at]
        numbers = {row["number"] for row in those}
        about = {"seed": seed, "commit": at, "trials": as_ranges(numbers), "runs": len(numbers)}
        about["mended"] = len({row["number"] for row in those if row["mended"]})
        about["longest_seconds"] = max(row["seconds"] for row in those)
        about["largest_mb"] = max(row["mb"] for row in those)
        series.append(about | {"commands": figures(those)})
    return series


def merged(known: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A trial counts once: of the series that are known, those that have trials of the new ones are left out."""

    def again(old: dict[str, Any]) -> bool:
        those = [from_ranges(each["trials"]) for each in new if each["seed"] == old["seed"]]
        return any("trials" not in old or numbers & from_ranges(old["trials"]) for numbers in those)

    return [each for each in known if not again(each)] + new


def show(options: argparse.Namespace) -> None:
    """What was not fine, the most frequent last lines first."""
    rows = [row for row in rows_of(options.folder, options.seed) if "text" in row]
    counted = Counter(re.sub(r"\d+", "0", (row["text"].strip().splitlines() or ["-"])[-1])[:200] for row in rows)
    for line, times in counted.most_common(40):
        print(f"{times:5d}  {line}")
    for row in rows[: options.most]:
        print(json.dumps({key: value for key, value in row.items() if key != "text"}))
        print(row["text"][-options.characters :])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "work", "show", "report"))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "build" / "fuzz")
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--characters", type=int, default=1500)
    chosen = parser.parse_args()
    {"run": run, "work": work, "show": show, "report": report}[chosen.what](chosen)
