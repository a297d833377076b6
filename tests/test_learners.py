"""Several learners on one gradient, by the command line: what is refused, and what becomes of whole runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from helpers import PATIENCE_SECONDS
from troupe import messages
from troupe.config import by_name, resolve
from troupe.ranks import meeting
from troupe.runs.store.directory import versions
from troupe.runtime.progress import Counts

MARK = "TROUPE_TEST_MARK"
SMALL = (
    "--actor.count 1 --actor.environments 4 --actor.placement process --env.backend sync --learner.rollouts 1 "
    "--untuned --actor.rollout_steps 32 --network.hidden 8 --evaluation.every_seconds 0 --evaluation.final_episodes 2 "
    "--target none"
)
ENVIRONMENT = """
import os, gymnasium as gym

class Breaks(gym.Wrapper):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 200 and os.environ.get("RANK") == "1":
            raise ValueError("out of fuel")
        return super().step(action)

def make():
    return Breaks(gym.make("CartPole-v1"))
"""
SCRIPT = """
import gymnasium as gym, troupe

def make(length=9):
    return gym.wrappers.TimeLimit(gym.make("CartPole-v1"), length)

settings = {"actor.count": 1, "actor.environments": 4, "actor.rollout_steps": 32, "learner.rollouts": 1,
            "evaluation.every_seconds": 0, "evaluation.final_episodes": 2}
same = {"target": "none", "settings": settings, "run_dir": "run", "env_kwargs": {"length": 7}}
run = troupe.train(make, learners=2, steps=600, **same)
run = troupe.resume(run, learners=2, steps=900, env=make)
print("steps", run.steps)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("env.py").write_text(ENVIRONMENT)


# What is refused, before anything starts


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--topology hogwild --preset a3c", "topology hogwild has no batches whose gradient could be shared"),
        ("--topology serial", "topology serial has no batches whose gradient could be shared"),
        ("--preset ga3c", "topology ga3c has no batches whose gradient could be shared"),
        ("--record", "a recorded run has one learner; leave --record out"),
        ("--learner.take_all true", "set learner.take_all to false"),
        ("--novelty.coefficient 0.5", "set novelty.coefficient to 0"),
        ("--seeds 2", "--learners is for one run; leave --seeds out"),
    ],
)
def test_what_several_learners_cannot_do_is_refused_in_a_line(run_command, words, why):
    status, out, err = run_command(f"train CartPole-v1 --learners 2 {words}")
    assert (status, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_learners_that_is_none_is_refused(run_command, number):
    status, _, err = run_command(f"train CartPole-v1 --learners {number}")
    assert status == 2
    assert err.startswith(f"troupe: --learners '{number}'")


def test_the_steps_of_a_first_update_are_those_of_all_learners():
    config = resolve("CartPole-v1", "impala", {"actor.rollout_steps": 10, "actor.environments": 3}, tuned=False)
    for size, words in ((1, "needs 60 steps ("), (2, "needs 120 steps (")):
        parts = SimpleNamespace(
            rollouts_in_batch=2, group=SimpleNamespace(size=size), progress=SimpleNamespace(counts=Counts())
        )
        *_, line = messages.training_report(config, parts, 1.0)
        assert words in line
        assert line.endswith("learner.rollouts x 2 learners)") == (size == 2)


@pytest.fixture
def torchrun(monkeypatch) -> Callable[..., int]:
    """Sets the variables that torchrun sets, and gives the port."""

    def set_variables(rank: int, size: int = 2) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        return port

    return set_variables


def test_a_rank_starts_no_others(run_command, torchrun):
    torchrun(1)
    status, _, err = run_command("train CartPole-v1 --learners 2")
    assert status == 2
    assert "--learners 2: this process is already rank 1 of 2" in err


def test_variables_that_torchrun_does_not_set_are_named(run_command, torchrun, monkeypatch):
    torchrun(3, 2)
    status, _, err = run_command("train CartPole-v1")
    assert status == 2
    assert "the environment variables RANK=3, WORLD_SIZE=2" in err
    assert err.count("\n") == 1


def test_a_rank_that_does_not_come_is_named(run_command, torchrun, monkeypatch):
    monkeypatch.setattr(meeting, "_CONNECT_SECONDS", 0.2)
    torchrun(0, 3)
    status, _, err = run_command("train CartPole-v1")
    assert status == 2
    assert "of 3 ranks, 1, 2 did not connect within 0 s" in err


def test_a_rank_that_nobody_answers_names_the_address(run_command, torchrun, monkeypatch):
    monkeypatch.setattr(meeting, "_CONNECT_SECONDS", 0.2)
    port = torchrun(1)
    status, _, err = run_command("train CartPole-v1")
    assert status == 2
    assert f"rank 1 of 2 could not connect to 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT)" in err


@pytest.mark.parametrize(
    ("versions_there", "asked", "why"),
    [
        ({"torch": "1.0"}, {}, "rank 1 (elsewhere) has torch 1.0, rank 0 ("),
        ({}, {"loss.gamma": 0.5}, "rank 1 (elsewhere) was started with loss.gamma = 0.5, rank 0 ("),
    ],
)
def test_ranks_that_are_not_alike_are_refused_with_both(run_command, torchrun, versions_there, asked, why):
    port = torchrun(0)
    settings = by_name(resolve("CartPole-v1"))
    settings |= asked

    def say_hello() -> None:
        store = dist.TCPStore("127.0.0.1", port, 2, is_master=False, timeout=timedelta(seconds=PATIENCE_SECONDS))
        found = meeting._comparable(versions()) | versions_there
        hello = {"name": "rank 1 (elsewhere)", "host": "h", "cores": 1, "versions": found, "asked": settings}
        store.set("hello/1", json.dumps(hello))
        with suppress(RuntimeError):  # the store may be gone as soon as it says so
            store.wait(["end"], timedelta(seconds=PATIENCE_SECONDS))

    other = threading.Thread(target=say_hello)
    other.start()
    status, out, err = run_command("train CartPole-v1")
    other.join(PATIENCE_SECONDS)
    assert (status, out) == (2, "")
    assert err.startswith(f"troupe: several learners: {why}")
    assert err.count("\n") == 1


# Whole runs


class Command:
    """A command with all processes that it starts."""

    def __init__(self, words: str, folder: Path, module: str = "troupe"):
        self.folder, self.mark, self._out = folder, uuid.uuid4().hex, folder / "out.txt"
        with self._out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *(["-m", module] if module else []), *words.split()],
                cwd=folder, stdout=out, stderr=out,
                env=os.environ | {MARK: self.mark, "OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip

    def processes(self, *words: str) -> list[int]:
        """The processes with these words in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                ours = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                arguments = (entry / "cmdline").read_bytes().decode()
                if ours and not dead and all(word in arguments for word in words):
                    found.append(int(entry.name))
        return found

    def rank(self, rank: int) -> int:
        """The process of a rank that rank 0 has started."""
        for pid in self.processes("troupe.ranks.process"):
            if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_bytes().decode():
                return pid
        raise AssertionError(self.output)

    def until_it_learns(self) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not any(row.get("updates", 0) > 2 for row in self.rows()):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def rows(self) -> list[dict[str, Any]]:
        with suppress(OSError):
            return [json.loads(line) for line in (self.folder / "run/metrics.jsonl").read_text().split("\n")[:-1]]
        return []

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def is_gone_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.processes()

    @property
    def output(self) -> str:
        return self._out.read_text()


@pytest.fixture
def command(tmp_path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(words: str, module: str = "troupe") -> Command:
        started.append(Command(words, tmp_path, module))
        return started[-1]

    yield start
    for each in started:
        for pid in each.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.wait()


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
TRAIN = f"train CartPole-v1 {SMALL} --run-dir run"


def summary() -> dict[str, Any]:
    return json.loads(Path("run/summary.json").read_text())


@pytest.mark.slow
@linux
def test_two_learners_train_and_another_number_resumes(command):
    run = command(f"{TRAIN} --learners 2 --steps 3000")
    assert run.end() == 0, run.output
    assert "the same in each of 2 ranks, 256 steps a batch" in run.output
    assert "one gradient of 2 learners: rank 0 (" in run.output
    first = summary()
    assert 3000 <= first["steps"] < 3256
    assert first["updates"] % 16 == 0  # 4 epochs of 4 minibatches
    assert 256 * first["updates"] // 16 >= first["steps"]
    assert run.is_gone_within(PATIENCE_SECONDS)
    reports = [row for row in run.rows() if row["kind"] == "report"]
    assert reports[-1]["stage_seconds"]["learner"]["average"] > 0
    for learners, steps in ((1, 4000), (3, 6000)):
        again = command(f"resume run --learners {learners} --steps {steps}")
        assert again.end() == 0, again.output
        assert summary()["steps"] >= steps
        assert summary()["episodes"] > first["episodes"]


@pytest.mark.slow
@linux
def test_torchrun_starts_the_ranks(command):
    run = command(f"--nproc-per-node 2 -m troupe {TRAIN} --steps 2000", module="torch.distributed.run")
    assert run.end() == 0, run.output
    assert "one gradient of 2 learners" in run.output
    assert run.output.count("step limit reached") == 1, "only rank 0 reports the result"
    assert run.is_gone_within(PATIENCE_SECONDS)


@pytest.mark.slow
@linux
def test_torchrun_starts_a_script_which_goes_on_in_rank_0_alone(command):
    first, _, _ = SCRIPT.replace("learners=2, ", "").partition("run = troupe.resume")
    Path("script.py").write_text(f'{first}print("steps", run.steps)')
    run = command("--nproc-per-node 2 script.py", module="torch.distributed.run")
    assert run.end() == 0, run.output
    assert run.output.count("steps ") == 1
    assert run.is_gone_within(10)


@pytest.mark.slow
@linux
def test_a_function_of_a_script_reaches_the_ranks_and_a_process_may_train_again(command):
    Path("script.py").write_text(SCRIPT)
    run = command("script.py", module="")
    assert run.end() == 0, run.output
    assert int(run.output.rpartition("steps ")[2]) >= 900
    assert summary()["evaluation"]["mean_length"] == 7
    assert run.is_gone_within(10)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_with_a_checkpoint(command, number):
    run = command(f"{TRAIN} --learners 2")
    run.until_it_learns()
    os.kill(run.process.pid, number)
    assert run.end() == 128 + number, run.output
    assert run.is_gone_within(PATIENCE_SECONDS)
    assert list(Path("run/checkpoints").iterdir())
    assert "interrupted after" in run.output


@pytest.mark.slow
@linux
def test_a_rank_that_is_killed_ends_the_run_with_a_checkpoint(command):
    run = command(f"{TRAIN} --learners 3")
    run.until_it_learns()
    lost = run.rank(2)
    os.kill(lost, signal.SIGKILL)
    assert run.end() == 1
    assert f", process {lost}) failed: its process ended by SIGKILL" in run.output
    assert "weights saved in run/checkpoints/" in run.output
    assert run.is_gone_within(PATIENCE_SECONDS)


@pytest.mark.slow
@linux
def test_a_rank_whose_environment_fails_says_why(command):
    run = command(f"train env.py:make {SMALL} --run-dir run --actor.restarts 0 --learners 2")
    assert run.end() == 1
    assert "troupe: rank 1 (" in run.output
    assert "out of fuel" in run.output
    assert 'raise ValueError("out of fuel")' in Path("run/error.txt").read_text(), "with the traceback"
    assert run.is_gone_within(PATIENCE_SECONDS)


@pytest.mark.slow
@linux
def test_nothing_is_left_of_a_run_whose_rank_0_is_killed(command):
    run = command(f"{TRAIN} --learners 2")
    run.until_it_learns()
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    assert run.is_gone_within(PATIENCE_SECONDS), run.processes()
