"""What commands do with runs that are damaged, or made by a stranger.

python benchmarks/fuzz.py run --trials 10000     # two at a time; it goes on where it was stopped (--seconds 280)
python benchmarks/fuzz.py show --outcome bare    # the trials that were not fine, with what was printed
python benchmarks/fuzz.py report                 # writes benchmarks/results/fuzz.json

Five small runs and the file of an agent are made once. Each trial changes a copy of one (mutations.py), mends the
hashes in every second, and hands it to `troupe.load` and to one command more, in processes forked from one that has
imported torch. A trial is fine if the command succeeds, or ends with one line that says what is wrong, without a
traceback or the name of a Python error. Besides, nothing may be executed that the run names (`executed`: the names of a
module and of a file that would leave a mark), nothing may take 2 s more than of the run as it was (`slow`; such a trial
is made once more, as other programs may have taken the time), and no process may need 1 GB (`large`).
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mutations

COMMANDS = ("evaluate", "resume", "export", "plot", "replay")
ORDER = ("evaluate", "resume", "replay", "plot", "evaluate", "resume", "replay", "evaluate", "resume", "export")
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


def forked(work: Callable[[], int], folder: Path) -> dict[str, Any]:
    """Runs `work` in a process of its own; its exit status, output, seconds and memory."""
    output, usage = folder / "output.txt", folder / "usage.txt"
    usage.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(descriptor, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MORE_BYTES,) * 2)
            status = work()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            usage.write_text(json.dumps([status, time.monotonic() - began, peak]))
        finally:
            os._exit(0)
    while time.monotonic() - began < KILLED_SECONDS:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.002)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    text = output.read_text(errors="replace") if output.exists() else ""
    if not usage.exists():
        return {"status": -1, "seconds": time.monotonic() - began, "mb": 0.0, "text": text}
    status, seconds, peak = json.loads(usage.read_text())
    return {"status": status, "seconds": seconds, "mb": peak, "text": text}


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
    if done["seconds"] >= KILLED_SECONDS:
        return "slow"
    if BARE.search(done["text"]):
        return "bare"
    if done["status"] == 0:
        return "fine"
    if done["status"] not in (1, 2) or not lines or not lines[-1].startswith("troupe: "):
        return "bare"
    told = lines[-1]
    expected = "damaged (" in told or "does not fit" in told or "does not match" in told
    return "bare" if ALSO_BARE.search(told) and not expected else "fine"


def trial(number: int, seed: int, source: Path, folder: Path, usual: dict[str, float]) -> list[dict[str, Any]]:
    dice = random.Random(f"{seed} {number}")
    name = ORDER[number % len(ORDER)]
    kinds = ["recorded", "recorded", *RUNS] if name == "replay" else [*RUNS, "agent.safetensors"]
    kind = dice.choice(kinds if name in ("evaluate", "export", "replay") else [each for each in kinds if each in RUNS])
    canary = dice.choice(["canary_module:make", f"{folder / 'canary_file.py'}:make", "canary_module:Canary-v0"])
    mended, mark, run = bool(number // len(ORDER) % 2), folder / "executed", folder / "copy" / kind

    def changed() -> str:
        shutil.rmtree(run.parent, ignore_errors=True)
        run.parent.mkdir()
        (shutil.copytree if kind in RUNS else shutil.copy)(source / kind, run)
        what = mutations.mutate(run, random.Random(f"{seed} {number} {kind}"), name, canary)
        if mended and kind in RUNS:
            mutations.mend(run)
        return what

    rows = []
    for each in ("load", name):
        what, most = changed(), MOST_SECONDS + usual[each]
        done = forked(partial(attempt, each, run), folder)
        if most < done["seconds"] < KILLED_SECONDS:
            changed()
            done = forked(partial(attempt, each, run), folder)
        found = judged(done)
        row = {"number": number, "command": each, "run": kind, "mended": mended, "outcome": found}
        row |= {"seconds": round(done["seconds"], 2), "mb": round(done["mb"]), "executed": mark.exists()}
        row["slow"] = done["seconds"] > most
        row["large"] = done["mb"] > MOST_MB
        if found != "fine" or row["slow"] or row["large"] or row["executed"]:
            row |= {"what": what, "text": done["text"][-3000:]}
        mark.unlink(missing_ok=True)
        rows.append(row)
    return rows


def measured(source: Path, folder: Path) -> dict[str, float]:
    """The seconds that the commands take of runs that nobody changed."""
    found: dict[str, float] = {}
    for name in ("load", *COMMANDS):
        shutil.rmtree(folder / "copy", ignore_errors=True)
        run = folder / "copy" / "recorded"
        shutil.copytree(source / "recorded", run)
        done = forked(partial(attempt, name, run), folder)
        assert judged(done) == "fine", (name, done)
        found[name] = done["seconds"]
    return found


def work(worker: int, workers: int, options: argparse.Namespace, source: Path) -> None:
    """The trials of one worker, until the time is over."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "modules").mkdir()
    text = CANARY.format(mark=str(folder / "executed"))
    (folder / "modules" / "canary_module.py").write_text(text)
    (folder / "canary_file.py").write_text(text)
    sys.path.insert(0, str(folder / "modules"))
    results = options.folder / f"trials-{worker}.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done, end = {row["number"] for row in known}, time.monotonic() + options.seconds
    try:
        usual = measured(source, folder)
        for number in range(worker, options.trials, workers):
            if time.monotonic() > end:
                break
            if number not in done:
                rows = trial(number, options.seed, source, folder, usual)
                with results.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(options.folder / "state")
    source = options.folder / "runs"
    preload()
    if not source.exists():
        child = os.fork()
        if not child:
            status = 1
            try:
                make_runs(source)
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            shutil.rmtree(source, ignore_errors=True)
            sys.exit("the runs could not be made")
    warm(source)
    children = []
    for worker in range(options.workers):
        child = os.fork()
        if not child:
            try:
                work(worker, options.workers, options, source)
            finally:
                sys.stderr.flush()
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    print(summary(rows_of(options.folder)))


# The result


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for file in sorted(folder.glob("trials-*.jsonl")) for line in file.read_text().splitlines()
    ]


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
    from common import write

    rows = rows_of(options.folder)
    mended = {row["number"] for row in rows if row["mended"]}
    about = {"command": f"python benchmarks/fuzz.py run --trials {options.trials}", "seed": options.seed}
    about |= {"runs": len({row["number"] for row in rows}), "mended": len(mended)}
    about |= {"longest_seconds": max(row["seconds"] for row in rows), "largest_mb": max(row["mb"] for row in rows)}
    write("fuzz", about | {"commands": figures(rows)})


def show(options: argparse.Namespace) -> None:
    """What was not fine, the most frequent last lines first."""
    rows = [row for row in rows_of(options.folder) if "text" in row]
    counted = Counter(re.sub(r"\d+", "0", (row["text"].strip().splitlines() or ["-"])[-1])[:200] for row in rows)
    for line, times in counted.most_common(40):
        print(f"{times:5d}  {line}")
    for row in rows[: options.most]:
        print(json.dumps({key: value for key, value in row.items() if key != "text"}))
        print(row["text"][-options.characters :])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "show", "report"))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "build" / "fuzz")
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--characters", type=int, default=1500)
    chosen = parser.parse_args()
    {"run": run, "show": show, "report": report}[chosen.what](chosen)
