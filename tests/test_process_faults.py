"""What must not break a run whose actors are processes: each is really killed, hung or starved, again and again.

Whole commands run in processes of their own, marked in their environment: whatever any of them starts
carries the mark, so what is left behind is found in /proc, whoever its parent is by then. Moments are
drawn from fixed seeds. No test measures speed; `PATIENCE_SECONDS` is far more than anything needs.
"""

import json
import multiprocessing.forkserver
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_SECONDS, process_faults, slow, slow_unless
from troupe import load, train
from troupe.config import TroupeError
from troupe.runtime.acting import actor as actor_code
from troupe.runtime.acting.inference import Predictor
from troupe.runtime.learning.learner import Learner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

MARK = "TROUPE_TEST_MARK"
SCRIPT = "from troupe.cli import main; main()"
ENVIRONMENTS = Path(process_faults.__file__).read_text()

ENDLESS = {"steps": "0", "target": "none", "evaluation.every_seconds": "0", "evaluation.final_episodes": "2"}
PROCESSES = {"actor.placement": "process", "actor.environments": "1", "actor.rollout_steps": "8", "network.hidden": "8"}
TOPOLOGIES: dict[str, dict[str, str]] = {
    "async": {"topology": "async", "learner.minibatches": "1", "actor.environments": "2"},
    "hogwild": {"preset": "a3c"},
    "ga3c": {"preset": "ga3c", "adjust.every_seconds": "0", "learner.rollouts": "2"},
}
# For what takes a second on a quiet machine and must not wait for an environment: ten times as long, and more.
AT_ONCE_SECONDS = 60.0
# Slots of a run with two actors: what they fill and what waits. Were one lost with each kill, as many kills end it.
SLOTS = 6


def last(folder: Path, name: str) -> int:
    """What the run in `folder` has last reported."""
    with suppress(OSError):
        lines = (folder / "run" / "metrics.jsonl").read_text().split("\n")[:-1]
        return next((row[name] for row in map(json.loads, reversed(lines)) if name in row), 0)
    return 0


class Command:
    """A troupe command, or a script, that leads a session of its own as in a terminal; and all that it starts."""

    def __init__(self, folder: Path, arguments: list[str], **more: Any):
        self.folder, self.mark = folder, uuid.uuid4().hex
        self._out, self._err = folder / "out.txt", folder / "err.txt"

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background, it is ignored
            if files := more.get("most_files"):
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                arguments, cwd=folder, env=os.environ | {MARK: self.mark, "PYTHONUNBUFFERED": "1"},
                stdin=more.get("stdin", subprocess.DEVNULL), stdout=out, stderr=err, start_new_session=True,
                preexec_fn=prepare,
            )  # fmt: skip
        self.pid = self._process.pid

    def processes(self) -> dict[int, int]:
        """All that carry the mark and are not yet dead: pid and parent's pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                    if state != "Z":
                        found[int(entry.name)] = int(parent)
        return found

    def server(self) -> list[int]:
        return [pid for pid, parent in self.processes().items() if parent == self.pid and self._is_server(pid)]

    def actors(self) -> list[int]:
        """Children of the server; orphans where that has been killed."""
        processes = self.processes()
        served = [pid for pid, parent in processes.items() if parent != self.pid and self._is_server(pid)]
        return sorted(pid for pid in served if processes[pid] not in served)

    def _is_server(self, pid: int) -> bool:
        with suppress(OSError):
            return b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def until(self, reached: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert self._process.poll() is None, (self._process.returncode, self.output)
            assert time.monotonic() < end, ("it did not come that far", self.output)
            time.sleep(0.03)

    def until_more_steps(self, more: int = 100) -> None:
        before = last(self.folder, "steps")
        self.until(lambda: last(self.folder, "steps") > before + more)

    def end(self, seconds: float = PATIENCE_SECONDS) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {seconds} s: {self.output}")

    @property
    def output(self) -> tuple[str, str]:
        return self._out.read_text(), self._err.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "run" / "summary.json").read_text())

    def is_gone_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            time.sleep(0.02)
        return not self.processes()

    def kill(self) -> None:
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / "envs.py"
    file.write_text(ENVIRONMENTS)
    return file


@pytest.fixture
def start(env_file: Path) -> Iterator[Callable[..., Command]]:
    """Starts `troupe train` with a class of `ENVIRONMENTS`; settings by name."""
    started: list[Command] = []

    def start(name: str, *settings: dict[str, str], script: str = "", **more: Any) -> Command:
        words = dict(PROCESSES | ENDLESS)
        for each in settings:
            words |= each
        if words["actor.placement"] == "thread":
            (env_file.parent / "in threads").touch()
        options = [word for key, value in words.items() for word in (f"--{key}", value)]
        arguments = [sys.executable, "-c", SCRIPT, "train", f"envs.py:{name}", "--run-dir", "run", *options]
        started.append(Command(env_file.parent, [sys.executable, *script.split()] if script else arguments, **more))
        return started[-1]

    yield start
    for command in started:
        command.kill()


@pytest.fixture
def trained(env_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Trains in this very process; the run, what was displayed, and the error if it ended in one."""

    def trained(name: str, *settings: dict[str, Any], during: Callable[[], None] | None = None) -> tuple[Any, str, str]:
        words: dict[str, Any] = PROCESSES | {"evaluation.every_seconds": 0.0, "evaluation.final_episodes": 2}
        words |= {"stop.steps": 0, "stop.target": "none"}
        for each in settings:
            words |= each
        if words["actor.placement"] == "thread":
            (env_file.parent / "in threads").touch()
        if during:
            words |= {"stop.target": 5.0, "evaluation.every_steps": 200, "evaluation.episodes": 1}
        wrong: list[BaseException] = []

        def do() -> None:
            try:
                during()
            except BaseException as error:
                wrong.append(error)
            (env_file.parent / "enough").touch()  # the next evaluation finds the environment solved

        helper = threading.Thread(target=do, daemon=True)
        if during:
            helper.start()
        run, error = None, ""
        try:
            preset = words.pop("preset", "appo")
            run = train(
                f"{env_file}:{name}", preset=preset, run_dir=env_file.parent / "run", settings=words, display="plain"
            )  # fmt: skip
        except TroupeError as failed:
            error = str(failed)
        if during:
            helper.join()
        assert not wrong, (wrong, error)
        return run, capsys.readouterr().out, error

    return trained


def until(reached: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < end, "it did not come that far"
        time.sleep(0.02)


def own_actors() -> list[int]:
    """Processes that the fork server of this very process has."""
    server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
    return []


def actors_end() -> bool:
    until(lambda: not own_actors())
    return True


def line_of(text: str) -> int:
    """The line of ENVIRONMENTS that holds `text`."""
    (number,) = (number for number, line in enumerate(ENVIRONMENTS.splitlines(), 1) if text in line)
    return number


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


# Killed actors


@pytest.mark.parametrize("topology", slow_unless(["async"], TOPOLOGIES))
def test_killed_actors_are_replaced_and_counted_and_no_slot_is_lost(trained, tmp_path, topology):
    sent: list[str] = []

    def kill() -> None:
        moments = random.Random(topology)
        for _ in range(SLOTS + 2):
            until(lambda: len(own_actors()) == 2)
            victim, number = moments.choice(own_actors()), moments.choice([9, 9, 11, 15])
            time.sleep(moments.random() * 0.1)
            os.kill(victim, number)
            sent.append(signal.Signals(number).name)
            until(lambda victim=victim: victim not in own_actors())
        until(lambda: len(own_actors()) == 2)
        played = last(tmp_path, "steps")
        until(lambda: last(tmp_path, "steps") > played + 100)

    few = {"actor.count": 2, "actor.restarts": 1000, "queue.capacity": 2}
    run, out, _ = trained("Plain", TOPOLOGIES[topology], few, during=kill)
    assert run.outcome == "solved"
    named = re.findall(r"actor-[01]: its process was killed by (\w+); another takes its place", out)
    assert sorted(named) == sorted(sent)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["restarts"] == len(sent)
    assert actors_end()


@pytest.mark.slow
def test_environments_that_end_their_process_are_replaced(start):
    command = start("EndsItsProcess", TOPOLOGIES["async"], {"steps": "3000"})
    assert command.end() == 0
    out, err = command.output
    for how in ("ended with status 3", "was killed by SIGABRT"):
        assert re.search(rf"actor-[01]: its process {how}; another takes its place", out)
    assert command.summary["restarts"] == 2
    assert err == ""
    assert command.is_gone_within(PATIENCE_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_limit_of_restarts_ends_the_run_in_order(trained, tmp_path, topology):
    run, _, error = trained("AlwaysEndsItsProcess", TOPOLOGIES[topology], {"actor.restarts": 2})
    assert run is None
    assert re.match(
        r"actor-\d failed: its process ended with status 3; no more actors are replaced: "
        r"2 is this run's actor.restarts \(traceback in .*error.txt; weights saved in .*checkpoints/\d+\)$",
        error,
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["restarts"] == 2
    assert load(tmp_path / "run").act([0.0, 0.0]) in (0, 1)
    assert actors_end()


@pytest.mark.parametrize("topology", slow_unless(["async"], TOPOLOGIES))
def test_an_environment_that_raises_in_a_process_ends_the_run(trained, tmp_path, topology):
    """It is not replaced: a bug in one's environment is not papered over."""
    _, _, error = trained("Raises", TOPOLOGIES[topology])
    assert re.match(
        r"actor-\d failed: environment .*envs.py:Raises\[\d\]: step raised ValueError: out of fuel, \\udcff "
        r"\(step \d+\) \(traceback in .*error.txt; weights saved in .*checkpoints/\d+\)$",
        error,
    )
    trace = (tmp_path / "run" / "error.txt").read_text()
    assert "in the actor's process:" in trace
    assert f'envs.py", line {line_of("fuel")}, in happens' in trace
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["restarts"] == 0
    assert load(tmp_path / "run")
    assert actors_end()


@pytest.mark.parametrize(
    ("topology", "part", "does", "name"),
    [
        ("async", Learner, "learn", "learner-0"),
        slow("ga3c", Learner, "learn", "learner-0"),
        ("ga3c", Predictor, "predict", "predictor-0"),
    ],
)
def test_the_loss_of_a_learner_or_predictor_ends_the_run_in_order(
    trained, tmp_path, monkeypatch, topology, part, does, name
):
    for times in (1, 5):
        original, done = getattr(part, does), []

        def fails(self: Any, *arguments: Any, original: Any = original, done: list = done, times: int = times) -> Any:
            done.append(1)
            if len(done) == times:
                raise RuntimeError("the weights are gone")
            return original(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(part, does, fails)
            _, _, error = trained("Plain", TOPOLOGIES[topology], {"actor.count": 3})
        assert error.startswith(f"{name} failed: RuntimeError: the weights are gone (traceback in ")
        assert load(tmp_path / "run")
        assert actors_end()
        shutil.rmtree(tmp_path / "run")


# The parent is killed


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_kill_9_of_the_parent_leaves_nothing_behind(start, env_file, topology):
    """While its actors sleep, spin, and sit in C with the interpreter's lock, where none of their threads can run."""
    before = shared_memory()
    command = start("EachInItsWay", TOPOLOGIES[topology], {"actor.count": "3"})
    command.until(lambda: all((env_file.parent / f"here-{number}").exists() for number in range(3)))
    assert len(command.actors()) == 3
    os.kill(command.pid, signal.SIGKILL)
    assert command.is_gone_within(AT_ONCE_SECONDS), command.processes()
    assert shared_memory() <= before


@pytest.mark.slow
def test_kill_9_of_the_parent_while_actors_start_leaves_nothing_behind(start):
    before, moments = shared_memory(), random.Random(9)
    for _ in range(2):
        command = start("HasAProcess", TOPOLOGIES["async"], {"actor.count": "4"})
        command.until(command.server)
        time.sleep(moments.random() * 1.5)
        os.kill(command.pid, signal.SIGKILL)
        assert command.is_gone_within(AT_ONCE_SECONDS), command.processes()  # the server first imports torch to the end
        shutil.rmtree(command.folder / "run", ignore_errors=True)
    assert shared_memory() <= before


@pytest.mark.slow
def test_processes_of_an_environment_go_with_its_actor(start):
    command = start("HasAProcess", TOPOLOGIES["async"], {"actor.count": "2"})
    command.until_more_steps()
    processes, moments = len(command.processes()), random.Random(3)
    for _ in range(3):
        os.kill(victim := moments.choice(command.actors()), signal.SIGKILL)
        command.until(lambda victim=victim: victim not in command.processes())
        command.until_more_steps()
        command.until(lambda: len(command.processes()) == processes)
    os.kill(command.pid, signal.SIGKILL)
    assert command.is_gone_within(AT_ONCE_SECONDS), command.processes()


# Environments that hang


@pytest.mark.parametrize("topology", slow_unless(["async"], TOPOLOGIES))
def test_an_environment_that_hangs_is_named_with_its_stack_and_replaced(trained, tmp_path, topology):
    def wait() -> None:
        until(lambda: last(tmp_path, "restarts") == 5)
        played = last(tmp_path, "steps")
        until(lambda: last(tmp_path, "steps") > played + 100)

    slow = {"actor.hang_seconds": 1.0, "actor.count": 4}
    run, out, _ = trained("Hangs", TOPOLOGIES[topology], slow, during=wait)
    assert run.outcome == "solved"
    ways = [
        "sleep()  # while it is made",
        "sleep()  # in reset",
        "sleep()  # in step",
        "spin()  # in step",
        "hold()  #",
    ]
    for way in ways:
        assert re.search(rf'envs.py", line {line_of(way)} in \w+', out), (way, out)
    named = r"actor-\d: environment .*envs.py:Hangs has not answered for 1 s; another takes its place; it was in"
    assert len(re.findall(named, out)) == 5
    assert str(Path(actor_code.__file__).parent) not in out  # the stack ends where the user's part does
    assert actors_end()


def test_one_that_hangs_again_and_again_meets_the_limit(trained):
    _, out, error = trained("AlwaysHangs", TOPOLOGIES["async"], {"actor.hang_seconds": 0.3, "actor.restarts": 2})
    assert "has not answered for 0.3 s; no more actors are replaced: 2 is this run's actor.restarts; it was in" in error
    assert f'envs.py", line {line_of("time.sleep(1e6)")} in sleep' in error
    assert out.count("another takes its place") == 2
    assert actors_end()


@pytest.mark.parametrize("placement", ["process", "thread"])
@pytest.mark.slow
def test_one_that_is_merely_slow_is_not_replaced(trained, placement):
    slow = {"actor.placement": placement, "actor.hang_seconds": 0.8, "actor.rollout_steps": 25, "stop.steps": 100}
    run, out, _ = trained("Slow", TOPOLOGIES["async"], slow)  # a rollout takes 1.5 s
    assert run.steps >= 100
    assert "another takes its place" not in out


@pytest.mark.slow
def test_an_actor_in_a_thread_is_replaced_and_does_not_come_back(start, env_file):
    command = start(
        "HangsForSomeTime", TOPOLOGIES["async"], {"actor.placement": "thread", "actor.hang_seconds": "1"}
    )  # fmt: skip
    command.until(lambda: "another takes its place" in command.output[0])
    command.until_more_steps()
    (env_file.parent / "go on").touch()
    command.until_more_steps()
    os.kill(command.pid, signal.SIGINT)
    assert command.end() == 130
    out, err = command.output
    assert re.search(r"actor-\d: environment envs.py:HangsForSomeTime has not answered for 1 s", out)
    assert f'envs.py", line {line_of("# hangs here")}, in happens' in out
    assert command.summary["restarts"] == 1
    assert "abandoned" not in out
    assert err == ""


@pytest.mark.slow
def test_serial_says_where_it_hangs_and_ends(start):
    command = start(
        "AlwaysHangs",
        {"topology": "serial", "actor.placement": "thread", "actor.count": "1", "actor.hang_seconds": "1"},
    )
    assert command.end() == 1
    (line,) = command.output[1].splitlines()
    assert line.startswith(
        "troupe: actor-0 failed: environment envs.py:AlwaysHangs has not answered for 1 s; it was in"
    )
    assert f'envs.py", line {line_of("time.sleep(1e6)")}, in sleep' in line


@pytest.mark.slow
def test_a_run_that_is_suspended_is_not_taken_for_one_that_hangs(start):
    command = start("Slow", TOPOLOGIES["async"], {"actor.hang_seconds": "4", "actor.count": "4"})
    command.until_more_steps(0)
    suspended = list(command.processes())
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in suspended:
            os.kill(pid, number)
        time.sleep(5.0)
    command.until_more_steps()
    os.kill(command.pid, signal.SIGINT)
    assert command.end() == 130
    assert command.summary["restarts"] == 0


# The run is stopped


@pytest.mark.parametrize(
    ("topology", "number", "to_all", "moment"),
    [
        slow("async", signal.SIGINT, True, "starting"),
        slow("hogwild", signal.SIGTERM, True, "starting"),
        slow("ga3c", signal.SIGTERM, False, "starting"),
        slow("async", signal.SIGTERM, True, "playing"),
        slow("hogwild", signal.SIGINT, True, "playing"),
        slow("ga3c", signal.SIGINT, False, "playing"),
        slow("async", signal.SIGINT, True, "judging"),
    ],
)
def test_a_signal_stops_eight_busy_actors_at_once(start, env_file, topology, number, to_all, moment):
    judged = {"evaluation.every_steps": "500", "evaluation.episodes": "10000"} if moment == "judging" else {}
    command = start("SlowInEvaluation", TOPOLOGIES[topology], judged, {"actor.count": "8"})
    if moment == "starting":
        command.until(command.server)
        time.sleep(random.Random(f"{topology}{number}").random())
    elif moment == "playing":
        command.until_more_steps()
    else:
        command.until((env_file.parent / "judged").exists)
    (os.killpg if to_all else os.kill)(command.pid, number)
    assert command.end(AT_ONCE_SECONDS) == 128 + number
    out, err = command.output
    assert err in ("", "troupe: interrupted\n")
    if not err:
        assert "checkpoint run/checkpoints/" in out
        assert load(env_file.parent / "run")
        assert command.summary["restarts"] == 0
        assert moment == "judging" or "abandoned" not in out
    else:
        assert moment == "starting"
    assert command.is_gone_within(AT_ONCE_SECONDS), command.processes()


@pytest.mark.slow
def test_a_signal_to_every_single_process_is_a_stop_and_no_loss(start):
    command = start("Plain", TOPOLOGIES["async"], {"actor.count": "4"})
    command.until_more_steps()
    for actor in command.actors():
        os.kill(actor, signal.SIGTERM)
    time.sleep(0.05)
    for pid in command.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert command.end() == 128 + signal.SIGTERM
    assert command.summary["restarts"] == 0
    assert command.output[1] == ""


@pytest.mark.slow
def test_children_say_nothing_at_an_ordinary_end(start):
    """Solved here; a limit of steps and one of time are reached in other tests."""
    command = start("CloseRaises", TOPOLOGIES["async"], {"target": "0", "evaluation.every_steps": "100"})
    assert command.end() == 0
    assert command.output[1] == ""
    assert command.is_gone_within(PATIENCE_SECONDS)


# Where the run itself lives


@pytest.mark.slow
def test_two_runs_at_the_same_time_and_then_another(env_file):
    def go(number: int) -> None:
        settings = PROCESSES | TOPOLOGIES["async"] | {"evaluation.every_seconds": 0.0, "evaluation.final_episodes": 2}
        folder = env_file.parent / f"run{number}"
        runs.append(train(f"{env_file}:Plain", target="none", steps=1000, run_dir=folder, settings=settings))

    runs: list[Any] = []
    together = [threading.Thread(target=go, args=(number,)) for number in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    go(2)
    assert [run.outcome for run in runs] == ["steps"] * 3
    assert actors_end()


FED = '''
import threading
import gymnasium as gym, numpy as np
from troupe import train

print("read")
CELL = """
class Env(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, True, {}

settings = {"actor.placement": "process", "actor.count": 2}
settings |= {"evaluation.every_seconds": 0.0, "evaluation.final_episodes": 2}
def go(name):
    print(train(Env, steps=500, target="none", run_dir=name, settings=settings).outcome)
go(name)
"""
name = "here"
exec(CELL)
exec(CELL, {"gym": gym, "np": np, "train": train, "name": "notebook", "__name__": "__main__"})
thread = threading.Thread(target=go, args=("thread",))
thread.start()
thread.join()
'''


@pytest.mark.slow
def test_a_script_from_a_pipe_trains_from_itself_from_a_cell_and_from_a_thread(start, env_file):
    (env_file.parent / "fed.py").write_text(FED)
    with (env_file.parent / "fed.py").open() as script:
        command = start("", script="-", stdin=script)
        assert command.end() == 0, command.output
    assert command.output == ("read\nsteps\nsteps\nsteps\n", "")
    assert command.is_gone_within(PATIENCE_SECONDS)


POOL = """
import logging, multiprocessing, sys
import troupe
from envs import Plain

def go(placement):
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    settings = {"actor.placement": placement, "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 2}
    return troupe.train(Plain, steps=300, target="none", run_dir=f"run-{placement}", settings=settings).outcome

if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        print(pool.apply(go, ["auto"]), flush=True)
        try:
            pool.apply(go, ["process"])
        except troupe.UsageError as error:
            print(error)
"""


@pytest.mark.slow
def test_in_a_worker_of_a_pool_actors_play_in_threads_and_that_is_reported(start, env_file):
    (env_file.parent / "pool.py").write_text(POOL)
    command = start("", script="pool.py")
    assert command.end() == 0, command.output
    daemonic = "this is a daemonic process, such as a worker of multiprocessing.Pool, which may not start processes"
    assert command.output[0].splitlines() == [
        f"actors play in threads: {daemonic}",
        "steps",
        f"actor.placement = 'process': {daemonic}; set it to thread, or to auto",
    ]
    assert not (env_file.parent / "run-process").exists()


@pytest.mark.slow
def test_the_fork_server_is_killed_and_actors_are_replaced_still(start):
    command = start("Plain", TOPOLOGIES["async"], {"actor.count": "2"})
    command.until(command.server)
    time.sleep(0.5)
    os.kill(command.server()[0], signal.SIGKILL)  # while it starts
    command.until_more_steps()
    actors = command.actors()
    os.kill(command.server()[0], signal.SIGKILL)
    for actor in actors:
        command.until_more_steps()
        os.kill(actor, signal.SIGKILL)
    command.until_more_steps()
    command.until(lambda: len(command.actors()) == 2)
    command.until_more_steps()
    os.kill(command.pid, signal.SIGINT)
    assert command.end() == 130
    assert command.output[1] == ""
    assert 2 <= command.summary["restarts"] <= 4
    assert command.is_gone_within(PATIENCE_SECONDS)


@pytest.mark.slow
def test_too_few_files_end_the_run_in_order(start, env_file):
    command = start("Plain", TOPOLOGIES["async"], {"actor.count": "20"}, most_files=64)
    assert command.end() == 1
    (line,) = (line for line in command.output[1].splitlines() if line.startswith("troupe: "))
    assert "Too many open files: a process takes some; raise the limit (ulimit -n), or lower actor.count" in line
    assert load(env_file.parent / "run")
    assert command.is_gone_within(AT_ONCE_SECONDS)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small /dev/shm of its own")
def test_a_tiny_dev_shm_is_no_obstacle(start, env_file):
    (env_file.parent / "tiny.py").write_text(
        "import os, subprocess, sys\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', '/dev/shm'], check=True)\n"
        "from troupe.cli import main\n"
        "main('train envs.py:Plain --run-dir run --time 1s --target none --actor.placement process --quiet'.split())\n"
    )
    inside = ["unshare", "--mount", sys.executable]
    if subprocess.run([*inside, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip("no mount of one's own here")
    command = Command(env_file.parent, [*inside, "tiny.py"])
    assert command.end() == 0, command.output
    assert command.output[1] == ""
