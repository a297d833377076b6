"""What the code computes: a fingerprint of each of many short serial runs, to be compared before and after a change.

python benchmarks/fingerprints.py --write FILE       # of the source tree in PYTHONPATH
python benchmarks/fingerprints.py --compare FILE     # exit status 1 where a case differs or fails
python benchmarks/fingerprints.py --case lstm --case gru --compare FILE

A fingerprint consists of the steps, the updates, the rollbacks, the mean return of the last evaluation, and the type,
shape and SHA-256 of every tensor in the newest checkpoint, sorted and without names: parameters may be renamed,
but not reordered, as the optimizer keeps its statistics of all of them in one vector.
They hold for one processor and one version of torch, NumPy and Gymnasium only (docs/reproducibility.md), so they
are not kept in the repository. The script uses the command line and the files of a run, and imports nothing of troupe.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from common import machine, troupe

HERE = Path(__file__).parent
OWN, HIDDEN = f"{HERE}/fingerprint_environments.py", f"{HERE}/hidden.py"
FILES = {"weights": "model", "best weights": "best", "optimizer": "optimizer", "novelty": "novelty"}

REPEATABLE = [  # nothing depends on the clock
    "--seed", "1", "--topology", "serial", "--target", "none", "--time", "1h", "--device", "cpu",
    "--evaluation.every_seconds", "0", "--evaluation.episodes", "3", "--evaluation.final_episodes", "5",
]  # fmt: skip
ONE = ["--actor.count", "1", "--actor.environments", "4", "--learner.count", "1"]
SMALL = [*ONE, "--learner.rollouts", "1", "--actor.rollout_steps", "32", "--learner.minibatches", "2"]
THREAD = ["--actor.placement", "thread"]  # these presets have processes
LOCAL = ["--inference.kind", "local", "--adjust.every_seconds", "0"]
CONSTANT = ["--learner.anneal_steps", "0"]  # auto depends on the limit of steps, which a resumed run changes
FLOAT32, BFLOAT16 = ["--network.precision", "float32"], ["--network.precision", "bfloat16"]
PONG = [*SMALL, "--env.noops", "5", "--evaluation.max_steps", "40", "--evaluation.final_episodes", "2"]
SCHEDULES = [
    "--learner.warmup_updates", "20", "--learner.anneal_steps", "4000", "--loss.entropy_coefficient", "0.01",
    "--loss.entropy_anneal_steps", "1500", "--exploration.epsilon", "0.3", "--exploration.epsilon_end", "0.1",
    "--exploration.decay_steps", "1500",
]  # fmt: skip
COLLAPSING = [  # found by trial: these roll back three times
    "--untuned", "--seed", "2", "--on-collapse", "rollback", "--learner.learning_rate", "0.1",
    "--learner.average_decay", "0", "--collapse.evaluations", "1", "--collapse.loss", "0.1",
    "--evaluation.episodes", "5",
]  # fmt: skip


class Case(NamedTuple):
    env: str
    settings: list[str]
    steps: int = 2000
    evaluations: int = 4
    resumed: bool = False  # stopped after half of the steps


def preset(name: str, *settings: str, env: str = "CartPole-v1") -> Case:
    return Case(env, ["--preset", name, *ONE, *settings])


def images(name: str, *settings: str, steps: int = 500) -> Case:
    return Case(f"{OWN}:{name}", [*SMALL, *settings], steps, steps // 500)


CASES = {
    "appo": preset("appo"),
    "appo, untuned": preset("appo", "--untuned"),
    "impala": preset("impala"),
    "a3c": preset("a3c", *THREAD),
    "a3c-lstm": preset("a3c-lstm", *THREAD),
    "ga3c": preset("ga3c", *THREAD, *LOCAL),
    "article": preset("article", "--actor.environments", "1", "--env.delay_seconds", "0", env="CartPole-v0"),
    "native backend": preset("appo", "--env.backend", "native"),
    "lstm": Case(f"{HIDDEN}:cue20", [*SMALL, "--network.core", "lstm", "--network.core_units", "32"]),
    "gru": Case(f"{HIDDEN}:cue20", [*SMALL, "--network.core", "gru", "--network.core_inputs", "true"]),
    "action mask": Case(f"{OWN}:masked", SMALL),
    "action mask, MultiDiscrete": Case(f"{OWN}:masked_multidiscrete", SMALL),
    "MultiBinary actions": Case(f"{OWN}:multibinary", SMALL),
    "Box actions": Case("Pendulum-v1", SMALL),
    "Box actions, untuned": Case("Pendulum-v1", ["--untuned", *SMALL]),
    "Dict": Case(f"{OWN}:dictionary", SMALL),
    "images, float32": images("images", *FLOAT32, steps=1000),
    "images, bfloat16": images("images", *BFLOAT16, steps=1000),
    "images, encoder impala": images("images", *FLOAT32, "--network.encoder", "impala"),
    "images, novelty": images("images", *FLOAT32, "--novelty.coefficient", "0.5"),
    "images, two learner threads": images("images", *FLOAT32, "--learner.threads", "2"),
    "Dict with an image": images("image_and_vector", *FLOAT32),
    "board": Case(f"{OWN}:board", [*SMALL, *FLOAT32]),
    "Pong, float32": Case("ALE/Pong-v5", [*PONG, *FLOAT32], 500, 1),
    "Pong, bfloat16": Case("ALE/Pong-v5", [*PONG, *BFLOAT16], 500, 1),
    "Pong, impala": Case("ALE/Pong-v5", ["--preset", "impala", *PONG, *FLOAT32], 500, 1),
    "novelty": Case("MountainCar-v0", SMALL),
    "average_decay": Case("CartPole-v1", [*SMALL, "--learner.average_decay", "0.99"]),
    "advantage_decay": Case("CartPole-v1", [*SMALL, "--learner.advantage_decay", "0.9"]),
    "epochs and minibatches": Case("CartPole-v1", [*SMALL, "--learner.epochs", "3", "--learner.minibatches", "4"]),
    "schedules": Case("CartPole-v1", [*SMALL, *SCHEDULES]),
    "two learner threads": Case("CartPole-v1", [*SMALL, "--learner.threads", "2"]),
    "rollback": Case("CartPole-v1", [*SMALL, *COLLAPSING], 8000, 32),
    "not resumed": Case("CartPole-v1", [*SMALL, *CONSTANT]),
    "resumed": Case("CartPole-v1", [*SMALL, *CONSTANT], resumed=True),
    "resumed, lstm and novelty": Case(
        f"{HIDDEN}:cue20",
        [*SMALL, *CONSTANT, "--network.core", "lstm", "--novelty.coefficient", "0.5"],
        resumed=True,
    ),
}


def fingerprint(case: Case) -> dict[str, Any]:
    """Of one run, or the message with which it failed."""
    settings = [*REPEATABLE, *case.settings, "--evaluation.every_steps", str(case.steps // case.evaluations)]
    steps = case.steps // 2 if case.resumed else case.steps
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            troupe("train", case.env, *settings, "--steps", str(steps), "--run-dir", str(run), "--quiet")
            if case.resumed:
                troupe("resume", str(run), "--steps", str(case.steps), "--quiet")
        except SystemExit as failed:
            return {"failed": str(failed)}
        summary = json.loads((run / "summary.json").read_text())
        checkpoint = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
        stored = {part: checkpoint / f"{name}.safetensors" for part, name in FILES.items()}
        return {
            **{name: summary.get(name) for name in ("steps", "updates", "rollbacks")},
            "mean return": summary["evaluation"]["mean_return"],
            **{part: tensors(file) for part, file in stored.items() if file.exists()},
        }


def tensors(file: Path) -> list[str]:
    """Type, shape and hash of each tensor in a safetensors file, sorted."""
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    return sorted(_described(data[begin:], **entry) for entry in header.values())


def _described(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> str:
    digest = hashlib.sha256(data[slice(*data_offsets)]).hexdigest()
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'} {digest}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each part of a fingerprint that is not the same."""
    lines = []
    for part in dict.fromkeys([*before, *after]):
        old, new = before.get(part), after.get(part)
        if isinstance(old, list) and isinstance(new, list):
            removed, added = (_shapes(Counter(a) - Counter(b)) for a, b in ((old, new), (new, old)))
            if removed or added:
                lines.append(f"{part}: {len(removed)} of {len(old)} tensors differ: {_few(removed)} -> {_few(added)}")
        elif old != new:
            lines.append(f"{part}: {_brief(old)} -> {_brief(new)}")
    return lines


def _shapes(described: Counter[str]) -> list[str]:
    return sorted(each.rpartition(" ")[0] for each in described.elements())


def _few(shapes: list[str]) -> str:
    return ", ".join(shapes[:6] + ["..."][: len(shapes) > 6]) or "none"


def _brief(value: Any) -> str:
    return f"{len(value)} tensors" if isinstance(value, list) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description="fingerprints of short serial runs")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one (may be repeated)")
    asked = parser.parse_args()
    names = asked.case or list(CASES)
    known = json.loads(asked.compare.read_text()) if asked.compare else None
    find = [sys.executable, "-c", "import troupe; print(troupe.__path__[0])"]
    source = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{len(names)} cases of {source}", flush=True)
    if known and known["machine"] != machine():
        print(f"other versions or another machine, so differences say little: {known['machine']}, now {machine()}")
    found, wrong = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, result in zip(names, pool.map(fingerprint, map(CASES.__getitem__, names)), strict=True):
            found[name] = result
            before = known and known["cases"].get(name)
            lines = [result["failed"]] if "failed" in result else differences(before, result) if before else []
            verdict = "FAILED" if "failed" in result else "DIFFERS" if lines else "same" if before else ""
            digest = hashlib.sha256(json.dumps(result).encode()).hexdigest()
            print(f"{name:30}{digest[:16]}  {verdict}", *lines, sep="\n    ", flush=True)
            wrong += [name] if lines else []
    if asked.write:
        asked.write.write_text(json.dumps({"source": source, "machine": machine(), "cases": found}, indent=1) + "\n")
    print(f"{len(wrong)} of {len(names)} {'failed' if known is None else 'differ or failed'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
